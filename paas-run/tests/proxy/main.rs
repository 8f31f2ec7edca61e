//! The proxy with real sockets.

mod codes;
mod conformance;
mod framing;
mod headers;
mod leave;
mod stream;
mod support;
mod swap;
mod tunnel;
