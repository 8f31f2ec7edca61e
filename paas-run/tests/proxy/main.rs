//! The proxy with real sockets.

/// Plain requests go without hyper; `long_way` runs the same tests with it.
const SHORT_WAY: bool = true;

#[cfg(feature = "acme")]
mod acme;
mod autobahn;
mod codes;
mod conformance;
mod framing;
#[cfg(feature = "tls")]
mod grpc;
mod headers;
mod http2;
#[cfg(feature = "tls")]
mod http2_rows;
mod leave;
mod metrics;
mod python;
mod settings;
mod stream;
mod support;
mod swap;
#[cfg(feature = "tls")]
mod tls;
mod traffic;
mod tunnel;
