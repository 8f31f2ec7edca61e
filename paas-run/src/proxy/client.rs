//! Who sends requests over a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fault::Fault;
#[cfg(feature = "tls")]
use super::tls::Handshakes;
use super::wire::Heads;

/// The client's end of a connection, as apps are told of it.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Client {
    /// Where it connects from: goes to the end of `X-Forwarded-For`.
    pub address: SocketAddr,
    /// The port it connected to: `X-Forwarded-Port`.
    pub port: u16,
    /// Whether it connected over TLS: `X-Forwarded-Proto` is `https`.
    pub secure: bool,
    /// Whether it is a proxy in front of this one, whose `X-Forwarded-Proto` and `X-Forwarded-Port` hold.
    pub trusted: bool,
}

impl Client {
    /// A client at this address which connected to this port without TLS.
    pub fn new(address: SocketAddr, port: u16) -> Self {
        Self { address, port, secure: false, trusted: false }
    }

    /// It connected over TLS.
    #[must_use]
    pub fn secure(mut self) -> Self {
        self.secure = true;
        self
    }

    /// It is a proxy in front of this one.
    #[must_use]
    pub fn trusted(mut self) -> Self {
        self.trusted = true;
        self
    }
}

/// A client's connection: what every request on it shares, written once.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: HeaderValue,
    pub(super) ip: IpAddr,
    pub(super) port: HeaderValue,
    pub(super) scheme: &'static str,
    pub(super) trusted: bool,
    pub(super) tunnels: TaskTracker,
    /// Tunnels on it are to end.
    pub(super) closing: CancellationToken,
    /// The request heads as they came, where we own the socket.
    pub(super) heads: Heads,
    /// The proxy ends it, since its time to stop is up.
    forced: AtomicBool,
    /// It doesn't take what is sent to it.
    stalled: AtomicBool,
    /// The host that its handshake was for.
    #[cfg(feature = "tls")]
    made_for: Option<(Handshakes, Box<str>)>,
}

impl Peer {
    pub(super) fn new(client: Client, tunnels: TaskTracker, closing: CancellationToken) -> Self {
        let scheme = if client.secure { "https" } else { "http" };
        let ip = client.address.ip().to_canonical().to_string();
        Self {
            address: HeaderValue::from_str(&ip).unwrap_or(HeaderValue::from_static("unknown")),
            ip: client.address.ip(),
            port: HeaderValue::from(client.port),
            scheme,
            trusted: client.trusted,
            tunnels,
            closing,
            heads: Heads::default(),
            forced: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            #[cfg(feature = "tls")]
            made_for: None,
        }
    }

    /// Its handshake was for this host.
    #[cfg(feature = "tls")]
    pub(super) fn made_for(mut self, handshakes: Handshakes, host: &str) -> Self {
        self.made_for = Some((handshakes, host.to_ascii_lowercase().into()));
        self
    }

    /// Whether a request for this host may come by it. A proxy in front decides that for itself.
    pub(super) fn may_ask(&self, host: &str) -> bool {
        #[cfg(feature = "tls")]
        if let Some((handshakes, made_for)) = &self.made_for {
            return self.trusted || handshakes.cover(made_for, host);
        }
        let _ = host;
        true
    }

    pub(super) fn force(&self) {
        self.forced.store(true, Ordering::Relaxed);
    }

    pub(super) fn stall(&self) {
        self.stalled.store(true, Ordering::Relaxed);
    }

    /// Why a request on it ended before its time.
    pub(super) fn ending(&self) -> Fault {
        if self.forced.load(Ordering::Relaxed) {
            Fault::ForcedClose
        } else if self.stalled.load(Ordering::Relaxed) {
            Fault::ClientIdle
        } else {
            Fault::ClientGone
        }
    }
}
