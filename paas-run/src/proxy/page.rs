//! What people and programs see when an app doesn't answer.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response};

use super::fault::{Facts, Fault};

/// Whether the client asks for a page, as browsers do; programs get a line of text.
pub(super) fn wants_html(accept: Option<&HeaderValue>) -> bool {
    let accept = accept.map(HeaderValue::as_bytes).unwrap_or_default();
    accept.windows(9).any(|part| part.eq_ignore_ascii_case(b"text/html"))
}

/// The answer for a fault. `id` is the request's id, which its owner finds in the log; `own` is the URL of a page that the
/// app's owner shows instead.
pub(super) fn page(fault: Fault, html: bool, id: Option<&HeaderValue>, own: Option<&str>) -> Response<Bytes> {
    let facts = fault.facts();
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (kind, body) = match own {
        _ if !html => ("text/plain; charset=utf-8", as_text(&facts, id)),
        None => ("text/html; charset=utf-8", as_html(&facts, id)),
        Some(own) => ("text/html; charset=utf-8", as_frame(&facts, own)),
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = facts.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Fault::TooMany(seconds) = fault {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A page elsewhere, as Heroku shows it. Its URL is of plain characters, of which only `&` needs escaping.
fn as_frame(facts: &Facts, own: &str) -> String {
    let (title, own) = (facts.title, own.replace('&', "&amp;"));
    format!(
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>html,body,iframe{{margin:0;border:0;padding:0;width:100%;height:100%;display:block}}</style>
</head><body><iframe src="{own}" title="{title}"></iframe></body></html>
"#
    )
}

fn as_text(facts: &Facts, id: &str) -> String {
    let Facts { code, title, text, .. } = facts;
    let code = if code.is_empty() { String::new() } else { format!(" ({code})") };
    let id = if id.is_empty() { String::new() } else { format!("Request {id}\n") };
    format!("{title}{code}\n{text}\n{id}")
}

fn as_html(facts: &Facts, id: &str) -> String {
    let Facts { code, title, text, status, .. } = facts;
    let code = if code.is_empty() { status.as_str() } else { code };
    // The id is of letters, digits, dashes and underscores: nothing here needs escaping.
    let id = if id.is_empty() { String::new() } else { format!("<small>Request {id}</small>") };
    format!(
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>
:root{{color-scheme:light dark;--ink:#1f2430;--soft:#667085;--paper:#f7f8fa;--card:#fff;--line:#e4e7ec;--mark:#5b5bd6}}
@media(prefers-color-scheme:dark){{:root{{--ink:#eceef2;--soft:#98a2b3;--paper:#111318;--card:#191c23;--line:#2a2f3a;--mark:#9a9aff}}}}
body{{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--paper);color:var(--ink);font:16px/1.6 system-ui,sans-serif}}
main{{max-width:30rem;margin:1.5rem;padding:2.5rem;background:var(--card);border:1px solid var(--line);border-radius:14px}}
b{{color:var(--mark);font:600 .85rem ui-monospace,monospace;letter-spacing:.06em}}
h1{{margin:.35rem 0 .6rem;font-size:1.5rem;line-height:1.25}}p{{margin:0;color:var(--soft)}}
small{{display:block;margin-top:1.6rem;color:var(--soft);font:.75rem ui-monospace,monospace;overflow-wrap:anywhere}}
</style></head><body><main><b>{code}</b><h1>{title}</h1><p>{text}</p>{id}</main></body></html>
"#
    )
}
