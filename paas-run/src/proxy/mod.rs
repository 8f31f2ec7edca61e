//! The `proxy` router: brings requests over HTTP/1.1 and HTTP/2 to instances.
//!
//! ```text
//! client -> serve -> table (host -> route) -> claim (a backend, under the routing lock) -> plain    -> backend
//!            wire     papaya, never locks       counts as in flight until the last byte      forward     pooled connections
//! ```
//!
//! | file | idea |
//! |---|---|
//! | `serve`, `wire`, `rewound`, `client` | a client's connection: accepting, draining, a client that takes nothing |
//! | `front` | proxies in front of this one: whose word holds, and how they give it |
//! | `table`, `route` | which host leads to which backends; the swap that drops nothing |
//! | `rules`, `limit` | what an app wants of its requests, and how much one client may have |
//! | `tls` | HTTPS: the certificate of the host that a client names |
//! | `trust` | until when that holds, for a proxy that follows a store |
//! | `reach`, `backend`, `pool`, `pools` | from a route to a connection: claims, attempts, idle connections |
//! | `plain` | a plain request's way, which most are: no hyper, two buffers, four system calls |
//! | `forward`, `headers`, `body` | any other request's way, what is changed on it |
//! | `tunnel`, `pipe`, `websocket` | after an upgrade: bytes both ways, and how a WebSocket is told that it ends |
//! | `upstream`, `deadline` | a connection of hyper's that is driven by the request that uses it, and a timer for it |
//! | `mux` | one of HTTP/2, which requests share |
//! | `traffic`, `metrics` | counters per app, and the page that Prometheus reads |
//! | `fault`, `page`, `dates`, `access` | Heroku's codes, what people see, and the line in the app's log |
//!
//! TLS fits around it, and whatever has a stream of bytes and a [`Client`] mounts [`Proxy::service`].

mod access;
mod backend;
mod body;
mod client;
mod config;
mod dates;
mod deadline;
mod fault;
mod forward;
mod front;
mod headers;
mod ids;
mod limit;
mod metrics;
mod mux;
mod page;
mod pipe;
mod plain;
mod pool;
mod pools;
mod reach;
mod rewound;
mod route;
mod rules;
mod serve;
mod table;
#[cfg(feature = "tls")]
pub mod tls;
mod traffic;
mod trust;
mod tunnel;
mod upstream;
mod websocket;
mod wire;

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use paas_core::{AppName, AppRoutes, Cancel, Clock, DrainRequest, Logs, Result, Router, RouterCapabilities};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::body::ProxyBody;
pub use self::client::Client;
use self::client::Peer;
pub use self::config::{ProxyConfig, TunnelDrain};
use self::dates::Dates;
pub use self::front::{Front, IpNet};
use self::limit::{Buckets, Guests};
pub use self::metrics::Metrics;
use self::pools::Pools;
use self::serve::Entry;
use self::table::Table;
pub use self::traffic::Traffic;
use self::trust::Trust;

/// A reverse proxy that is a [`Router`]. Clones share everything.
///
/// ```no_run
/// use std::sync::Arc;
/// use paas_core::{Cancel, SystemClock};
/// use paas_run::logs::{FileLogs, LogBounds};
/// use paas_run::proxy::{Proxy, ProxyConfig};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let logs = Arc::new(FileLogs::open("/var/lib/paas/logs", LogBounds::default())?);
/// let proxy = Proxy::new(ProxyConfig::default(), logs, Arc::new(SystemClock::new()));
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:5080").await?;
/// // `proxy.clone()` is what the engine gets as its router.
/// proxy.serve(listener, Cancel::new()).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

/// What all connections share.
struct Shared {
    config: ProxyConfig,
    table: Table,
    trust: Trust,
    logs: Arc<dyn Logs>,
    clock: Arc<dyn Clock>,
    dates: Dates,
    pools: Arc<Pools>,
    leaving: Leaving,
    guests: Arc<Guests>,
    buckets: Option<Buckets>,
    #[cfg(feature = "tls")]
    certificates: tls::Known,
}

/// Whether another process answers from now on.
#[derive(Debug, Default)]
struct Leaving {
    /// Asked for every answer, so it takes no lock.
    is: AtomicBool,
    told: CancellationToken,
}

impl Proxy {
    /// A proxy without routes. Its log lines, one for each request, go to `logs`.
    pub fn new(config: ProxyConfig, logs: Arc<dyn Logs>, clock: Arc<dyn Clock>) -> Self {
        let shared = Shared {
            guests: Arc::default(),
            buckets: config.client_rate.map(Buckets::new),
            pools: Arc::new(Pools::new(&config)),
            config,
            table: Table::default(),
            trust: Trust::default(),
            logs,
            clock,
            dates: Dates::default(),
            leaving: Leaving::default(),
            #[cfg(feature = "tls")]
            certificates: tls::Known::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Serves HTTP/1.1 and HTTP/2 (by prior knowledge) on this listener until cancelled; then no connection is accepted any more and requests in flight
    /// may take [`ProxyConfig::shutdown_grace`] to finish. After [`Proxy::leave`] it ends by itself. Any number of listeners may be served at once.
    ///
    /// # Errors
    /// When the listener can't tell its own address.
    pub async fn serve(&self, listener: TcpListener, cancel: Cancel) -> Result<()> {
        self.shared.pools.keep_reaping();
        serve::serve(Arc::clone(&self.shared), listener, Entry::Plain, cancel).await
    }

    /// Serves HTTPS on this listener, as [`Proxy::serve`] does HTTP.
    ///
    /// # Errors
    /// When the listener can't tell its own address; when TLS can't be set up.
    #[cfg(feature = "tls")]
    pub async fn serve_tls(
        &self,
        listener: TcpListener,
        certificates: Arc<dyn tls::Certificates>,
        cancel: Cancel,
    ) -> Result<()> {
        self.shared.pools.keep_reaping();
        let shared = &self.shared;
        shared.certificates.add(&certificates);
        // Whatever comes from here on is told by whoever applies it.
        for domain in
            shared.table.all().iter().filter_map(|route| route.applied()).flat_map(|routes| routes.domains)
        {
            certificates.routed(&domain, true);
        }
        let entry = Entry::Tls(tls::Handshakes::new(Arc::clone(&self.shared), certificates)?);
        serve::serve(Arc::clone(&self.shared), listener, entry, cancel).await
    }

    /// Leaves further connections to another process that has the same listeners: none is accepted any more, and each that
    /// there is gets one more answer, with `Connection: close`. [`Proxy::serve`] ends when all have ended, after
    /// [`ProxyConfig::linger`] at the latest, or when it is cancelled.
    ///
    /// No idle connection is closed for it, since its client may be sending a request just then, which would be lost.
    pub fn leave(&self) {
        self.shared.leaving.is.store(true, Ordering::SeqCst);
        self.shared.leaving.told.cancel();
    }

    /// The routes of all apps, as another proxy needs them to answer alike.
    pub fn routes(&self) -> Vec<AppRoutes> {
        self.shared.table.all().iter().filter_map(|route| route.applied()).collect()
    }

    /// An app's requests since this proxy began; `None` where it had none, or isn't there.
    pub fn traffic(&self, app: &AppName) -> Option<Traffic> {
        self.shared.table.app(app)?.traffic()
    }

    /// Routes as another proxy says they are, before anything else does.
    ///
    /// # Errors
    /// As [`Router::apply`].
    pub fn adopt(&self, routes: &[AppRoutes]) -> Result<()> {
        routes.iter().try_for_each(|routes| self.shared.apply(routes))
    }

    /// Serves one connection as [`Proxy::serve`] does: an entry for fuzzing, no part of the interface.
    #[cfg(feature = "fuzzing")]
    #[doc(hidden)]
    pub async fn serve_stream<S>(&self, stream: S, client: Client)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        serve::one(Arc::clone(&self.shared), stream, client).await;
    }

    /// The requests of one connection as a tower service, for embedders with a server, TLS or layers of their own.
    /// Tunnels end with their connection.
    pub fn service(&self, client: Client) -> ProxyService {
        let peer = Peer::new(client, TaskTracker::new(), CancellationToken::new());
        ProxyService { shared: Arc::clone(&self.shared), peer: Arc::new(peer) }
    }
}

impl Shared {
    fn apply(&self, routes: &AppRoutes) -> Result<()> {
        let hosts = self.table.apply(routes, &self.pools)?;
        #[cfg(feature = "tls")]
        self.certificates.routed(&hosts);
        #[cfg(not(feature = "tls"))]
        drop(hosts);
        Ok(())
    }
}

#[async_trait]
impl Router for Proxy {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::draining().expiring()
    }

    async fn apply(&self, _: &paas_core::Context, routes: &AppRoutes) -> Result<()> {
        self.shared.apply(routes)?;
        tracing::debug!(
            app.name = %routes.app,
            route.generation = routes.generation,
            route.backends = routes.backends.len(),
            "routes applied"
        );
        Ok(())
    }

    async fn observe(&self, app: &AppName) -> Result<Option<AppRoutes>> {
        Ok(self.shared.table.app(app).and_then(|route| route.applied()))
    }

    async fn drain(&self, ctx: &paas_core::Context, request: &DrainRequest) -> Result<u64> {
        let Some(route) = self.shared.table.app(&request.app) else { return Ok(0) };
        let close_tunnels =
            || route.draining(&request.backends).iter().for_each(|upstream| upstream.close_tunnels.cancel());
        let mut deadline = Instant::now() + request.timeout;
        let mut told = self.shared.config.tunnels == TunnelDrain::Close;
        if told {
            close_tunnels();
        }
        loop {
            // Listening before looking: what happens in between isn't missed.
            let mut drained = std::pin::pin!(route.drained().notified());
            drained.as_mut().enable();
            let left: usize =
                route.draining(&request.backends).iter().map(|upstream| upstream.in_flight()).sum();
            if left == 0 {
                return Ok(0);
            }
            tokio::select! {
                () = drained => {}
                () = tokio::time::sleep_until(deadline) => {
                    if told {
                        return Ok(left as u64);
                    }
                    told = true;
                    close_tunnels();
                    deadline += tunnel::FAREWELL;
                }
                reason = ctx.cancel.cancelled() => return Err(reason.into()),
            }
        }
    }

    fn serve_until(&self, until: Option<Instant>) -> Result<()> {
        self.shared.trust.set(until);
        Ok(())
    }
}

/// The requests of one client's connection.
#[derive(Clone)]
pub struct ProxyService {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
}

impl<B> tower::Service<Request<B>> for ProxyService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<ProxyBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.shared.pools.keep_reaping();
        Box::pin(Arc::clone(&self.shared).answer(Arc::clone(&self.peer), request))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("shared", &self.shared).finish()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ProxyService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyService").field("peer", &self.peer).finish_non_exhaustive()
    }
}
