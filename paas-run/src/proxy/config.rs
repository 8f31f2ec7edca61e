//! The proxy's limits and timeouts.

use std::time::Duration;

use paas_core::Rate;

use super::front::Front;

/// Limits and timeouts. The defaults are those of Heroku's router where it publishes them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProxyConfig {
    /// How long one attempt to connect to an instance may take: 5 s.
    pub connect_timeout: Duration,
    /// At how many instances a request is tried before it ends as H19 or H21: 10.
    pub connect_attempts: usize,
    /// An instance that refused a connection gets no requests for this long while others are there: 5 s.
    pub quarantine: Duration,
    /// How long a request waits for instances that all refused connections of others before it ends as H99: 75 s.
    pub connect_budget: Duration,
    /// How long a request waits for an app whose instances are about to be up before it ends as H20: 75 s.
    pub boot_timeout: Duration,
    /// How many requests of one app wait for it at this proxy while it boots or is paused; those beyond end as H11: 10,000.
    pub held: usize,
    /// How many connections one client may have at a time; those beyond are closed as they come. Without a limit where
    /// `None`, as it is at first. A client is an IPv4 address or an IPv6 network of 64 bits.
    pub client_connections: Option<usize>,
    /// How many requests one client may send to all apps together; those beyond get 429. Without a limit at first.
    pub client_rate: Option<Rate>,
    /// The port that users reach HTTPS at, which requests without TLS are sent to where an app wants it: 443.
    pub https_port: u16,
    /// How long a request waits for a proxy that lost sight of the store whose routes it follows before it ends as H99: 5 s.
    pub trust_timeout: Duration,
    /// How long an instance may take to its first byte, from the last byte of the request on: 30 s (H12).
    pub first_byte: Duration,
    /// How long a request, response or tunnel may lie still after that: 55 s (H15, H28).
    pub idle: Duration,
    /// How long a client may take to send a request's head, and a kept connection may wait for the next one: 60 s.
    pub header_timeout: Duration,
    /// The largest request head in bytes, 32 KiB; a larger one gets 431.
    pub header_bytes: usize,
    /// How long a connection to an instance is kept without a request: 4 s, since Node.js ends its side after 5 s. An
    /// instance that says less in `Keep-Alive: timeout` is believed.
    pub pool_idle: Duration,
    /// How many idle connections to one instance are kept: 256.
    pub pool_size: usize,
    /// How many idle connections to all instances together are kept: 4,096. Each takes a file and a port of this machine;
    /// where these run out nevertheless, idle connections are given up for them.
    pub pool_total: usize,
    /// The largest read buffer of a connection in bytes: 64 KiB, at least 8 KiB; larger ones are slower and cost memory.
    pub buffer_bytes: usize,
    /// Whether plain HTTP/1.1 requests, which most are, take the short way, at about half the cost: true. They are answered
    /// alike without it.
    pub short_way: bool,
    /// The proxies in front of this one: none.
    pub front: Front,
    /// What happens to tunnels (WebSocket) of instances that are drained.
    pub tunnels: TunnelDrain,
    /// How long requests may take after the proxy was told to stop: 30 s (H24).
    pub shutdown_grace: Duration,
    /// How long connections and tunnels are kept after [`Proxy::leave`](super::Proxy::leave): 60 s. As long as
    /// `header_timeout`, so that an idle connection ends no sooner than it would anyway.
    pub linger: Duration,
}

/// What happens to tunnels of an instance that gets no new requests any more. A tunnel may last for days.
///
/// Before a WebSocket is closed, both its ends are told so between two frames: a close frame with status 1001, "going away"
/// (RFC 6455, section 7.4.1). A client that doesn't answer it is closed after 2 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TunnelDrain {
    /// They are closed when the drain begins; clients connect again and reach the new release.
    Close,
    /// They are waited for like requests; what is open at the end of the drain is closed.
    Wait,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            connect_attempts: 10,
            quarantine: Duration::from_secs(5),
            connect_budget: Duration::from_secs(75),
            boot_timeout: Duration::from_secs(75),
            held: 10_000,
            client_connections: None,
            client_rate: None,
            https_port: 443,
            trust_timeout: Duration::from_secs(5),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(55),
            header_timeout: Duration::from_secs(60),
            header_bytes: 32 * 1024,
            pool_idle: Duration::from_secs(4),
            pool_size: 256,
            pool_total: 4096,
            buffer_bytes: 64 * 1024,
            short_way: true,
            front: Front::default(),
            tunnels: TunnelDrain::Close,
            shutdown_grace: Duration::from_secs(30),
            linger: Duration::from_secs(60),
        }
    }
}

impl ProxyConfig {
    /// The read buffer, which hyper wants to have 8 KiB at least.
    pub(super) fn buffer(&self) -> usize {
        self.buffer_bytes.max(8 * 1024)
    }
}
