//! Which requests are forwarded, and with which headers.

use std::borrow::Cow;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

use super::client::Peer;
use super::fault::Fault;
use super::{front, ids};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REQUEST_START: HeaderName = HeaderName::from_static("x-request-start");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// How this router is called in `Via`.
pub(super) const VIA_NAME: &str = "1.1 paas-router";
const OUR_VIA: HeaderValue = HeaderValue::from_static(VIA_NAME);

/// The host that a request is for: lower case, without port and trailing dot.
pub(super) fn host(parts: &Parts) -> Result<Cow<'_, str>, Fault> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Fault::BadRequest("It has more than one Host header."));
    }
    // The target's own authority wins over the header (RFC 9112 section 3.2.2).
    let authority = match (parts.uri.authority(), first) {
        (Some(authority), _) if parts.method != Method::CONNECT => authority.as_str(),
        (_, Some(host)) => {
            host.to_str().map_err(|_| Fault::BadRequest("Its Host header isn't a host name."))?
        }
        (_, None) => return Err(Fault::BadRequest("It has no Host header.")),
    };
    let host = name_of(authority).ok_or(Fault::BadRequest("Its Host header isn't a host name."))?;
    // Of HTTP/1.1 such a header says nothing; of HTTP/2 it makes the request malformed (RFC 9113 section 8.3.1).
    if parts.version == Version::HTTP_2
        && first.is_some_and(|first| first.to_str().ok().and_then(name_of).is_none_or(|name| name != host))
    {
        return Err(Fault::BadRequest("Its Host header is for another host than its authority."));
    }
    Ok(host)
}

/// The name in an authority, as the route table knows it.
pub(super) fn name_of(authority: &str) -> Option<Cow<'_, str>> {
    let host = match authority.rsplit_once(':') {
        // Not inside the brackets of an IPv6 address.
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if host.is_empty() || !host.bytes().all(allowed) {
        return None;
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Some(Cow::Owned(host.to_ascii_lowercase()));
    }
    Some(Cow::Borrowed(host))
}

/// Refuses what could be read differently by us and by the app.
pub(super) fn check(parts: &Parts, peer: &Peer) -> Result<(), Fault> {
    if parts.method == Method::CONNECT {
        return Err(Fault::Connect);
    }
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    let chunked = coding.is_some();
    if codings.next().is_some()
        || coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Fault::BadRequest("Its Transfer-Encoding must be chunked and nothing else."));
    }
    let length = parts.headers.contains_key(CONTENT_LENGTH);
    if chunked && length {
        return Err(Fault::BadRequest("It says in two ways how long it is."));
    }
    let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    peer.heads.check(parts.method.as_str(), path).map_err(Fault::BadRequest)?;
    match parts.headers.get(EXPECT) {
        Some(expect) if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            Err(Fault::BadExpectation)
        }
        _ => Ok(()),
    }
}

/// Whether an upgrade is to a WebSocket (RFC 6455, section 4.2.2).
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Whether the client wants another protocol. `h2c` isn't one that may pass: it would carry requests past us.
pub(super) fn wants_upgrade(parts: &Parts) -> bool {
    let Some(protocol) = parts.headers.get(UPGRADE) else { return false };
    parts.version == Version::HTTP_11
        && !protocol.as_bytes().to_ascii_lowercase().starts_with(b"h2c")
        && tokens(&parts.headers, &CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"))
}

/// How the client came, as far as one knows.
pub(super) fn proto(headers: &HeaderMap, peer: &Peer) -> &'static str {
    let said = headers.get(FORWARDED_PROTO).filter(|_| peer.trusted);
    said.and_then(|said| front::proto(said.as_bytes())).unwrap_or(peer.scheme)
}

/// What the log tells of a request beside what the app gets.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) id: HeaderValue,
    pub(super) forwarded_for: HeaderValue,
    pub(super) proto: &'static str,
}

/// Makes the client's head ours: hop-by-hop headers out, Heroku's in. `start` is in milliseconds of Unix time.
pub(super) fn to_backend(parts: &mut Parts, peer: &Peer, upgrade: bool, has_body: bool, start: i64) -> Marks {
    if let Some(authority) = parts.uri.authority() {
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            parts.headers.insert(HOST, host);
        }
        let target = parts.uri.path_and_query().cloned();
        parts.uri = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    if parts.version == Version::HTTP_2 && parts.headers.contains_key(COOKIE) {
        // HTTP/2 has them in pieces (RFC 9113 section 8.2.3).
        join(&mut parts.headers, &COOKIE, b"; ");
    }
    parts.version = Version::HTTP_11;
    let headers = &mut parts.headers;
    let trailers = headers.contains_key(TE) && tokens(headers, &TE).any(|token| token == "trailers");
    let protocol = if upgrade { headers.get(UPGRADE).cloned() } else { None };
    remove_hop_by_hop(headers);
    headers.remove(EXPECT);
    headers.remove(TE);
    headers.remove(PROXY_AUTHORIZATION);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if has_body && !headers.contains_key(CONTENT_LENGTH) {
        // Said aloud, or a GET with a body would lose it.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let forwarded_for = appended(headers, &FORWARDED_FOR, &peer.address);
    headers.insert(FORWARDED_FOR, forwarded_for.clone());
    let proto = proto(headers, peer);
    let port = headers.get(FORWARDED_PORT).filter(|_| peer.trusted);
    let port = port.and_then(|port| front::port(port.as_bytes())).map(HeaderValue::from);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    headers.insert(FORWARDED_PORT, port.unwrap_or_else(|| peer.port.clone()));
    headers.insert(REQUEST_START, HeaderValue::from(start));
    let via = appended(headers, &VIA, &OUR_VIA);
    headers.insert(VIA, via);
    let id = match headers.get(REQUEST_ID) {
        Some(id) if is_id(id.as_bytes()) => id.clone(),
        _ => {
            let id = new_id();
            headers.insert(REQUEST_ID, id.clone());
            id
        }
    };
    Marks { id, forwarded_for, proto }
}

/// Makes the app's head ours. `upgrade`: the app said 101.
pub(super) fn to_client(headers: &mut HeaderMap, upgrade: bool) {
    let protocol = if upgrade { headers.get(UPGRADE).cloned() } else { None };
    if headers.contains_key(TRANSFER_ENCODING) {
        // Who says both is believed in the chunks (RFC 9112 section 6.3).
        headers.remove(CONTENT_LENGTH);
    }
    remove_hop_by_hop(headers);
    headers.remove(PROXY_AUTHENTICATE);
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let via = appended(headers, &VIA, &OUR_VIA);
    headers.insert(VIA, via);
}

/// For how many seconds the app says it keeps its side of an idle connection.
pub(super) fn keep_alive_seconds(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")?.trim().parse().ok())
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
            // Those belong to the message; naming them can't take them out.
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    headers.remove(UPGRADE);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// What the header says already, and this after it.
fn appended(headers: &HeaderMap, name: &HeaderName, last: &HeaderValue) -> HeaderValue {
    joined(headers.get_all(name).iter().chain([last]), b", ").unwrap_or_else(|| last.clone())
}

/// Makes the header's values one.
fn join(headers: &mut HeaderMap, name: &HeaderName, between: &[u8]) {
    if let Some(value) = joined(headers.get_all(name).iter(), between) {
        headers.insert(name, value);
    }
}

/// Values as one; `None` where there was one only.
fn joined<'a>(mut values: impl Iterator<Item = &'a HeaderValue>, between: &[u8]) -> Option<HeaderValue> {
    let mut joined = values.next()?.as_bytes().to_vec();
    let alone = joined.len();
    for value in values {
        joined.extend_from_slice(between);
        joined.extend_from_slice(value.as_bytes());
    }
    // Valid values joined are valid.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)).ok().filter(|value| value.len() > alone)
}

/// Heroku's rule for ids that clients bring: 20 to 200 of letters, digits, dashes and underscores.
pub(super) fn is_id(id: &[u8]) -> bool {
    (20..=200).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn new_id() -> HeaderValue {
    let mut text = [0; ids::LENGTH];
    HeaderValue::from_str(ids::next(&mut text)).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
