//! A request's head: whether it is plain, and how the app gets it.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use http::HeaderValue;
use httparse::{ParserConfig, Request, Status};

use super::field::{Field, line, number};
use crate::proxy::access::Record;
use crate::proxy::client::Peer;
use crate::proxy::headers::{VIA_NAME, is_id, name_of};
use crate::proxy::rules::{LONG, RULED, Rules, SECURED};
use crate::proxy::serve::PREFACE;
use crate::proxy::{Shared, front, ids};

/// What the bytes are that a client has sent.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly always the large one, which is worth no allocation for each request"
)]
pub(super) enum Seen {
    /// The beginning of a head.
    Part,
    /// Not plain, or not beyond doubt.
    Other,
    /// A plain request, which is all there.
    Plain(Plain, Record),
}

/// A plain request.
#[derive(Debug)]
pub(super) struct Plain {
    /// How many bytes it takes, with its body.
    pub(super) taken: usize,
    /// It is a HEAD, whose answer has no body.
    pub(super) bare: bool,
    /// It may be sent twice (RFC 9110 section 9.2.2).
    pub(super) idempotent: bool,
    /// The client sends no further one.
    pub(super) last: bool,
    /// Where it says which kind of answer it wants.
    pub(super) accept: Option<Range<usize>>,
    /// Where its id stands in what the app gets.
    pub(super) id: Range<usize>,
    /// The app's settings, where it has any.
    pub(super) rules: Option<Arc<Rules>>,
    /// What the client is told of TLS.
    pub(super) hsts: Option<HeaderValue>,
}

/// As many headers as hyper takes.
pub(super) const FIELDS: usize = 100;

/// What is gathered from a head.
#[derive(Default)]
struct Found<'a> {
    host: Option<&'a str>,
    length: Option<u64>,
    last: bool,
    forwarded_for: Option<&'a str>,
    forwarded_port: Option<&'a [u8]>,
    forwarded_proto: Option<&'a [u8]>,
    via: Option<&'a str>,
    id: Option<&'a str>,
    accept: Option<&'a [u8]>,
}

/// Reads a request. If it is plain, `out` is what the app gets.
///
/// Plain is what has no second reading: one `Host`, at most one `Content-Length`, nothing else that frames or switches
/// anything, whole lines, and a body that has come already. Whoever wants to add to that must be sure that every server
/// reads it alike.
pub(super) fn read(input: &[u8], shared: &Arc<Shared>, peer: &Arc<Peer>, out: &mut Vec<u8>) -> Seen {
    if input.len() < PREFACE.len() && PREFACE.starts_with(input) {
        return Seen::Part;
    }
    if !shared.config.short_way {
        return Seen::Other;
    }
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut head = Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut head, input, &mut fields);
    let limit = shared.config.header_bytes;
    let length = match parsed {
        Ok(Status::Complete(length)) if length <= limit => length,
        Ok(Status::Partial) if input.len() < limit => return Seen::Part,
        _ => return Seen::Other,
    };
    read_head(&head, &input[..length], input, shared, peer, out).unwrap_or(Seen::Other)
}

fn read_head(
    head: &Request<'_, '_>,
    bytes: &[u8],
    input: &[u8],
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    out: &mut Vec<u8>,
) -> Option<Seen> {
    let (method, target) = (head.method?, head.path?);
    if head.version != Some(1) || method == "CONNECT" || !is_plain(target) || !has_whole_lines(bytes) {
        return None;
    }
    out.clear();
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let found = gather(head, out)?;
    let host = found.host?;
    let name = name_of(host)?;
    let body = usize::try_from(found.length.unwrap_or(0)).ok()?;
    let taken = bytes.len().checked_add(body).filter(|taken| *taken <= input.len())?;
    // Whether somebody answers to it is told by hyper, too.
    let route = shared.table.find(&name)?;
    let marks = route.marks();
    if marks & LONG != 0 || !peer.may_ask(&name) || is_challenge(target) {
        return None;
    }

    let mut text = [0; ids::LENGTH];
    let id = found.id.filter(|id| is_id(id.as_bytes())).unwrap_or_else(|| ids::next(&mut text));
    let address = peer.address.to_str().ok()?;
    let forwarded_for = match found.forwarded_for {
        None => address,
        Some(before) => &format!("{before}, {address}"),
    };
    let proto = found.forwarded_proto.filter(|_| peer.trusted).and_then(front::proto).unwrap_or(peer.scheme);
    let port = found.forwarded_port.filter(|_| peer.trusted).and_then(front::port);
    if marks & SECURED != 0 && proto == "http" {
        return None;
    }
    let rules = if marks & RULED == 0 { None } else { route.rules() };
    let mut record = Record::begin(shared, peer, route, method, target, host);
    record.mark(id, forwarded_for, proto);
    line(out, "X-Forwarded-For", forwarded_for.as_bytes());
    line(out, "X-Forwarded-Proto", proto.as_bytes());
    match port {
        Some(port) => {
            out.extend_from_slice(b"X-Forwarded-Port: ");
            number(out, port.into());
            out.extend_from_slice(b"\r\n");
        }
        None => line(out, "X-Forwarded-Port", peer.port.as_bytes()),
    }
    out.extend_from_slice(b"X-Request-Start: ");
    number(out, shared.clock.now().timestamp_millis().unsigned_abs());
    out.extend_from_slice(b"\r\nVia: ");
    if let Some(via) = found.via {
        out.extend_from_slice(via.as_bytes());
        out.extend_from_slice(b", ");
    }
    out.extend_from_slice(VIA_NAME.as_bytes());
    out.extend_from_slice(b"\r\nX-Request-Id: ");
    let start = out.len();
    out.extend_from_slice(id.as_bytes());
    let id = start..out.len();
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(&input[bytes.len()..taken]);
    let accept = found.accept.map(|accept| {
        let start = accept.as_ptr().addr() - input.as_ptr().addr();
        start..start + accept.len()
    });
    let idempotent = matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE");
    let hsts = rules.as_ref().filter(|_| proto == "https").and_then(|rules| rules.hsts.clone());
    let plain =
        Plain { taken, bare: method == "HEAD", idempotent, last: found.last, accept, id, rules, hsts };
    Some(Seen::Plain(plain, record))
}

/// Copies what passes as it is; `None` where the head isn't plain.
fn gather<'a>(head: &Request<'_, 'a>, out: &mut Vec<u8>) -> Option<Found<'a>> {
    let mut found = Found::default();
    for header in head.headers.iter() {
        let value = || std::str::from_utf8(header.value).ok().filter(|value| value.is_ascii());
        match Field::of(header.name) {
            Field::Host => once(&mut found.host, value()?)?,
            Field::ContentLength => once(&mut found.length, length(header.value)?)?,
            Field::Accept => found.accept = Some(header.value),
            Field::Connection => {
                for token in value()?.split(',').map(str::trim) {
                    match token {
                        _ if token.eq_ignore_ascii_case("close") => found.last = true,
                        _ if token.eq_ignore_ascii_case("keep-alive") => {}
                        _ => return None,
                    }
                }
                continue;
            }
            Field::ForwardedFor => {
                once(&mut found.forwarded_for, value()?)?;
                continue;
            }
            // Of several the first one counts, as on the long way.
            Field::ForwardedPort => {
                found.forwarded_port.get_or_insert(header.value);
                continue;
            }
            Field::ForwardedProto => {
                found.forwarded_proto.get_or_insert(header.value);
                continue;
            }
            Field::Via => {
                once(&mut found.via, value()?)?;
                continue;
            }
            Field::RequestId => {
                once(&mut found.id, value()?)?;
                continue;
            }
            Field::Ours => continue,
            Field::Hop | Field::TransferEncoding | Field::Upgrade | Field::KeepAlive => return None,
            Field::Date | Field::Other => {}
        }
        line(out, header.name, header.value);
    }
    Some(found)
}

fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

/// A length in digits and nothing else.
pub(super) fn length(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.len() < 20 && value.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(value).ok()?.parse().ok())?
}

/// Whether an authority may be asking.
fn is_challenge(target: &str) -> bool {
    target.starts_with("/.well-known/acme")
}

/// A path of characters that nobody takes for anything else (RFC 3986 section 3.3).
fn is_plain(target: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?@!$&'()*+,;=%[]|".contains(&byte);
    target.starts_with('/') && target.bytes().all(plain)
}

/// Whether each line ends with CR and LF: a line feed alone is the end of a line to some.
fn has_whole_lines(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).all(|at| at > 0 && bytes[at - 1] == b'\r')
}
