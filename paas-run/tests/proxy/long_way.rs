//! The tests of the proxy once more, with hyper for every request.

const SHORT_WAY: bool = false;

mod codes;
mod conformance;
mod framing;
mod headers;
mod http2;
mod leave;
mod settings;
mod stream;
mod support;
mod swap;
mod traffic;
mod tunnel;
