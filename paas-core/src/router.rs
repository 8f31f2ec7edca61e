//! Brings users' requests to instances.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{AppId, AppName, Context, DomainName, Result, RouteSettings, Version};

/// Where the requests of one app go: a full statement, not a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AppRoutes {
    /// The app.
    pub app: AppName,
    /// The app's life.
    pub app_id: AppId,
    /// Grows with every change of this app's routes, counted in the store. It never goes back.
    pub generation: u64,
    /// The hosts that lead to the app; none when the app is gone.
    pub domains: Vec<DomainName>,
    /// Whose instances these are.
    pub version: Option<Version>,
    /// The web instances that are up.
    pub backends: Vec<Backend>,
    /// What people see when there are no backends.
    pub state: RouteState,
    /// How requests are brought there.
    #[serde(default)]
    pub settings: RouteSettings,
}

impl AppRoutes {
    /// No hosts and no backends.
    pub fn new(app: AppName, app_id: AppId, generation: u64) -> Self {
        Self {
            app,
            app_id,
            generation,
            domains: Vec::new(),
            version: None,
            backends: Vec::new(),
            state: RouteState::Empty,
            settings: RouteSettings::default(),
        }
    }
}

/// What an app is doing, for when there is nobody to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RouteState {
    /// Nothing was deployed yet (Heroku's H81).
    Empty,
    /// Its web processes are about to be up: a router that can holds requests until they are (H20 when that takes too
    /// long), any other answers as if it had crashed.
    Starting,
    /// Requests go to the backends; without any, the app has crashed (H10).
    Serving,
    /// The web type is scaled to 0 (H14).
    Stopped,
    /// Switched off by its owner (H80).
    Maintenance,
    /// Its owner changes something behind it: a router that can holds requests, though there are backends, as for
    /// [`RouteState::Starting`]; any other goes on.
    Paused,
}

/// One web instance that takes requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Backend {
    /// Its name, for the log: `web.1`.
    pub instance: String,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Backend {
    /// The instance of this name at this address.
    pub fn new(instance: impl Into<String>, address: SocketAddr) -> Self {
        Self { instance: instance.into(), address }
    }
}

/// Which requests to wait for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DrainRequest {
    /// The app.
    pub app: AppName,
    /// Backends that no longer get requests.
    pub backends: Vec<Backend>,
    /// How long at most.
    pub timeout: Duration,
}

impl DrainRequest {
    /// Waits for these backends' requests for at most 30 s.
    pub fn new(app: AppName, backends: Vec<Backend>) -> Self {
        Self { app, backends, timeout: Duration::from_secs(30) }
    }

    /// For at most this long.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What a router can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouterCapabilities {
    /// [`Router::drain`] sees the requests in flight; without, it returns at once and the runtime's grace must do.
    pub drain: bool,
    /// Routes are kept over a restart of the router; without, the engine fills it again.
    pub durable: bool,
    /// [`Router::serve_until`] works.
    pub expires: bool,
}

impl RouterCapabilities {
    /// Sees requests in flight, and is filled again after a restart.
    pub fn draining() -> Self {
        Self { drain: true, durable: false, expires: false }
    }

    /// And can be told until when its routes hold.
    #[must_use]
    pub fn expiring(mut self) -> Self {
        self.expires = true;
        self
    }
}

/// Brings users' requests to instances. Declarative: the engine states an app's routes at a generation.
#[async_trait]
pub trait Router: fmt::Debug + Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> RouterCapabilities;

    /// Makes these the routes of the app.
    ///
    /// # Behavior
    /// - Returns once no new request can reach a backend that is not in `routes`; requests in flight go on.
    /// - Between the old and the new routes no request fails: each goes to one or to the other.
    /// - A lower generation than the applied one of the same life of the app is refused, so an engine that lost its lease
    ///   can't bring old routes back. The same generation again is no error and changes nothing.
    /// - Hosts that are no longer named lead nowhere; other apps' hosts are not touched. A host of another app is refused.
    ///
    /// # Errors
    /// `stale_generation`, `conflict` for a host of another app, `unavailable` (retried).
    async fn apply(&self, ctx: &Context, routes: &AppRoutes) -> Result<()>;

    /// The routes that are applied now.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn observe(&self, app: &AppName) -> Result<Option<AppRoutes>>;

    /// Waits until no request is in flight at backends that were removed before.
    ///
    /// # Behavior
    /// - Returns how many are still in flight: 0, or more when the time is up.
    /// - Backends that the routes still name are not waited for.
    ///
    /// # Errors
    /// `cancelled`.
    async fn drain(&self, ctx: &Context, request: &DrainRequest) -> Result<u64>;

    /// Tells it until when its routes hold; `None` is for ever, as it is at first.
    ///
    /// # Behavior
    /// - From then on no request reaches a backend: it waits a moment for another word, and is then answered with 503.
    ///   That needs nobody who calls, since whoever would may be frozen or cut off. Requests in flight go on.
    /// - A later time makes all routes hold again, as they were applied last.
    ///
    /// # Errors
    /// `unsupported` where [`RouterCapabilities::expires`] is false.
    fn serve_until(&self, until: Option<Instant>) -> Result<()> {
        let _ = until;
        Err(crate::Error::unsupported("routing until a given time"))
    }
}

const _: fn(&dyn Router) = |_| {};
