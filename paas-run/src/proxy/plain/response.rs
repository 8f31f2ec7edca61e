//! An answer's head: how long the answer is, and how the client gets it.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderValue, Response as Page, StatusCode};
use httparse::{Error, ParserConfig, Response, Status};

use super::body::Framing;
use super::field::{Field, line, number};
use super::request::{FIELDS, length};
use crate::proxy::fault::Fault;
use crate::proxy::headers::VIA_NAME;

/// What the bytes are that an app has sent.
#[derive(Debug)]
pub(super) enum Seen {
    /// The beginning of a head.
    Part,
    /// Word on the way of so many bytes, as 103 is; the answer comes after it.
    Interim(usize),
    Head(Head),
}

/// An answer's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// How many bytes it takes.
    pub(super) taken: usize,
    pub(super) framing: Framing,
    /// The client is told that it gets no other one.
    pub(super) last: bool,
    /// The app's connection can be used again after it,
    pub(super) reusable: bool,
    /// for so many seconds, if it says so.
    pub(super) keep: Option<u64>,
}

/// Reads an answer's head. If it is whole, `out` is what the client gets. `bare`: the answer to a HEAD. `last`: the
/// client's connection ends with it.
pub(super) fn read(
    input: &[u8],
    bare: bool,
    last: bool,
    date: impl FnOnce(&mut Vec<u8>),
    hsts: Option<&HeaderValue>,
    out: &mut Vec<u8>,
) -> Result<Seen, Fault> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut head = Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut head, input, &mut fields);
    let taken = match parsed {
        Ok(Status::Complete(taken)) => taken,
        Ok(Status::Partial) => return Ok(Seen::Part),
        Err(Error::TooManyHeaders) => return Err(Fault::ResponseTooLarge),
        Err(_) => return Err(Fault::MalformedResponse),
    };
    let status = StatusCode::from_u16(head.code.unwrap_or_default()).map_err(|_| Fault::MalformedResponse)?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for that.
        return Err(Fault::MalformedResponse);
    }
    if status.is_informational() {
        return Ok(Seen::Interim(taken));
    }
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");

    let bodyless = bare || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    let found = gather(&head, out)?;
    // Who says both is believed in the chunks, and not trusted with another request.
    let both = found.chunked && found.length.is_some();
    let speaks_1_1 = head.version == Some(1);
    let mut reusable = found.stays.unwrap_or(speaks_1_1);
    let framing = if bodyless {
        if let Some(length) = found.length.filter(|_| status != StatusCode::NO_CONTENT) {
            out.extend_from_slice(b"Content-Length: ");
            number(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Length(0)
    } else if found.chunked {
        if !speaks_1_1 {
            return Err(Fault::MalformedResponse);
        }
        reusable &= !both;
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        Framing::Chunks(super::body::Chunks::default())
    } else if let Some(length) = found.length {
        out.extend_from_slice(b"Content-Length: ");
        number(out, length);
        out.extend_from_slice(b"\r\n");
        Framing::Length(length)
    } else {
        reusable = false;
        // Said in chunks, so that an end which came too soon doesn't look like one.
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        Framing::Rest
    };
    line(
        out,
        "Via",
        found
            .via
            .map(|via| [via, b", ", VIA_NAME.as_bytes()].concat())
            .as_deref()
            .unwrap_or(VIA_NAME.as_bytes()),
    );
    if !found.dated {
        date(out);
    }
    end(out, hsts, last);
    Ok(Seen::Head(Head { status, taken, framing, last, reusable, keep: found.keep }))
}

fn end(out: &mut Vec<u8>, hsts: Option<&HeaderValue>, last: bool) {
    if let Some(hsts) = hsts {
        line(out, "Strict-Transport-Security", hsts.as_bytes());
    }
    out.extend_from_slice(if last { b"Connection: close\r\n\r\n" } else { b"\r\n" });
}

/// What is gathered from a head.
#[derive(Default)]
struct Found<'a> {
    chunked: bool,
    length: Option<u64>,
    /// Whether its connection stays open, if it says so.
    stays: Option<bool>,
    keep: Option<u64>,
    via: Option<&'a [u8]>,
    dated: bool,
}

/// Copies what passes as it is.
fn gather<'a>(head: &Response<'_, 'a>, out: &mut Vec<u8>) -> Result<Found<'a>, Fault> {
    let mut found = Found::default();
    let mut named: Vec<&str> = Vec::new();
    for header in head.headers.iter().filter(|header| Field::of(header.name) == Field::Connection) {
        let tokens = std::str::from_utf8(header.value).unwrap_or_default().split(',').map(str::trim);
        for token in tokens {
            match token {
                _ if token.eq_ignore_ascii_case("close") => found.stays = Some(false),
                _ if token.eq_ignore_ascii_case("keep-alive") => {
                    found.stays.get_or_insert(true);
                }
                _ => named.push(token),
            }
        }
    }
    for header in head.headers.iter() {
        match Field::of(header.name) {
            Field::ContentLength => {
                let length = length(header.value).ok_or(Fault::MalformedResponse)?;
                if found.length.is_some_and(|known| known != length) {
                    return Err(Fault::MalformedResponse);
                }
                found.length = Some(length);
            }
            Field::TransferEncoding => {
                if found.chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::MalformedResponse);
                }
                found.chunked = true;
            }
            Field::KeepAlive => found.keep = seconds(header.value),
            Field::Via if found.via.is_none() => found.via = Some(header.value),
            Field::Connection | Field::Upgrade => {}
            Field::Hop if !header.name.eq_ignore_ascii_case("trailer") => {}
            _ if named.iter().any(|name| name.eq_ignore_ascii_case(header.name)) => {}
            field => {
                found.dated |= field == Field::Date;
                line(out, header.name, header.value);
            }
        }
    }
    Ok(found)
}

/// `timeout=5, max=100`
fn seconds(value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value).ok()?;
    value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.trim().parse().ok())
}

/// A page of our own.
pub(super) fn write_page(
    page: &Page<Bytes>,
    bare: bool,
    last: bool,
    date: impl FnOnce(&mut Vec<u8>),
    hsts: Option<&HeaderValue>,
    out: &mut Vec<u8>,
) {
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(page.status().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(page.status().canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in page.headers() {
        line(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"Content-Length: ");
    number(out, page.body().len() as u64);
    out.extend_from_slice(b"\r\n");
    date(out);
    end(out, hsts, last);
    if !bare {
        out.extend_from_slice(page.body());
    }
}
