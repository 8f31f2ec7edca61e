//! The engines' side: routes are applied once every follower has them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Follower, PARENT, is_news};
use crate::engine::ledger::Ledger;
use crate::engine::presence;
use crate::{
    AppName, AppRoutes, Cancel, Context, DrainRequest, Error, ErrorCode, Result, Router, RouterCapabilities,
    Store, SystemClock,
};

/// How often the store is asked when no hint came.
const POLL: Duration = Duration::from_millis(50);

/// How many events are read at once.
const PAGE: usize = 200;

/// The router of engines whose proxies run elsewhere, or beside other engines: each of them as a
/// [`RouteFollower`](super::RouteFollower) of the same store.
///
/// The engine's transaction is what changes the routes. [`Router::apply`] waits until every follower has them; one that
/// gives no sign of life is waited for until its lease ends, and by then it serves nobody. [`Router::drain`] waits for the
/// requests that are in flight at all of them.
#[derive(Clone)]
pub struct FleetRouter {
    ledger: Ledger,
}

impl FleetRouter {
    /// Of all followers of this store, which must be the engine's.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { ledger: Ledger { store, clock: Arc::new(SystemClock::new()) } }
    }

    /// Those who are there, and who may send requests by what they know.
    async fn followers(&self) -> Result<Vec<Follower>> {
        presence::present(self.ledger.store.as_ref(), PARENT).await
    }

    /// Whether a follower has yet to hear of routes of this app.
    async fn is_behind(&self, follower: &Follower, app: &AppName) -> Result<bool> {
        let mut after = follower.place;
        loop {
            let events = self.ledger.events(after, Some(app), PAGE).await?;
            if events.iter().any(|event| is_news(&event.kind)) {
                return Ok(true);
            }
            match events.last() {
                Some(last) if events.len() == PAGE => after = last.seq,
                _ => return Ok(false),
            }
        }
    }

    async fn behind(&self, app: &AppName) -> Result<Vec<String>> {
        let mut behind = Vec::new();
        for follower in self.followers().await? {
            if self.is_behind(&follower, app).await? {
                behind.push(follower.at);
            }
        }
        Ok(behind)
    }
}

impl fmt::Debug for FleetRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetRouter").field("store", &self.ledger.store).finish()
    }
}

#[async_trait]
impl Router for FleetRouter {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities { drain: true, durable: true, ..RouterCapabilities::default() }
    }

    async fn apply(&self, ctx: &Context, routes: &AppRoutes) -> Result<()> {
        let order = |routes: &AppRoutes| (routes.app_id, routes.generation);
        let stored = self.ledger.routes(&routes.app).await?.map(|stored| stored.value);
        if stored.is_some_and(|stored| order(&stored) > order(routes)) {
            let what = format!(
                "generation {} of the routes of {} is older than the store's",
                routes.generation, routes.app
            );
            return Err(Error::new(ErrorCode::StaleGeneration, what));
        }
        let mut changes = self.ledger.store.changes();
        let mut said = Vec::new();
        loop {
            changes.mark_unchanged();
            let behind = self.behind(&routes.app).await?;
            if behind.is_empty() {
                return Ok(());
            }
            if behind != said {
                tracing::debug!(app.name = %routes.app, route.generation = routes.generation, proxies = ?behind, "waiting for proxies");
                said = behind;
            }
            change(&mut changes, &ctx.cancel).await?;
        }
    }

    async fn observe(&self, app: &AppName) -> Result<Option<AppRoutes>> {
        Ok(self.ledger.routes(app).await?.map(|stored| stored.value))
    }

    async fn drain(&self, ctx: &Context, request: &DrainRequest) -> Result<u64> {
        let deadline = Instant::now() + request.timeout;
        let mut changes = self.ledger.store.changes();
        loop {
            changes.mark_unchanged();
            let followers = self.followers().await?;
            let left = followers.iter().filter_map(|follower| follower.draining.get(&request.app)).sum();
            if left == 0 || Instant::now() >= deadline {
                return Ok(left);
            }
            change(&mut changes, &ctx.cancel).await?;
        }
    }
}

/// Waits until the store may have something new to say.
async fn change(changes: &mut watch::Receiver<u64>, cancel: &Cancel) -> Result<()> {
    tokio::select! {
        reason = cancel.cancelled() => Err(reason.into()),
        Ok(()) = changes.changed() => Ok(()),
        () = tokio::time::sleep(POLL) => Ok(()),
    }
}
