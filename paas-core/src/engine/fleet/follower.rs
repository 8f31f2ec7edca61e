//! A proxy's side: applies what the store says, says up to where, and trusts no routes beyond its lease.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Follower, PARENT, is_news};
use crate::engine::ledger::{Ledger, encode};
use crate::engine::presence;
use crate::store::{Expect, Table, Transaction, Write};
use crate::{
    AppId, AppName, AppRoutes, Backend, Cancel, Context, DrainRequest, Error, ErrorCode, IdempotencyKey,
    LogSource, LogWriter, MemoryLogs, OwnerId, Result, Router, StepName, Store, SystemClock, WorkflowId,
};

/// How many events are read at once.
const PAGE: usize = 500;

/// Applies the routes of the store to a router, in a process with or without an engine, as long as it can be sure that
/// they are the newest.
///
/// The engines on that store have a [`FleetRouter`](super::FleetRouter).
#[derive(Clone)]
pub struct RouteFollower {
    ledger: Ledger,
    router: Arc<dyn Router>,
    at: String,
    lease: Duration,
    serves: watch::Sender<bool>,
}

impl RouteFollower {
    /// Fills this router, which nobody else does, from this store.
    ///
    /// # Errors
    /// `unsupported` where the router can't be told until when its routes hold.
    pub fn new(store: Arc<dyn Store>, router: Arc<dyn Router>) -> Result<Self> {
        if !router.capabilities().expires {
            return Err(Error::unsupported("routing until a given time, which a follower's router needs,"));
        }
        let ledger = Ledger { store, clock: Arc::new(SystemClock::new()) };
        let (at, lease) = (presence::here(), Duration::from_secs(15));
        Ok(Self { ledger, router, at, lease, serves: watch::Sender::new(false) })
    }

    /// Uses routes for at most this long without a word with the store; 15 s by default. So long a deploy waits for a proxy
    /// that died, and so long the store may be away until requests are held and then refused.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Follows until it is cancelled. Then the router's routes hold no more, so end what accepts requests before.
    ///
    /// What fails is tried again: after the lease's end with all routes anew.
    pub async fn follow(&self, cancel: &Cancel) {
        let owner = OwnerId::new();
        let mut following = Following {
            key: format!("{PARENT}/{owner}"),
            owner: owner.to_string(),
            of: self,
            cancel: cancel.clone(),
            lease: None,
            place: 0,
            known: BTreeMap::new(),
            draining: BTreeMap::new(),
            drains: JoinSet::new(),
            written: Follower::default(),
        };
        if let Err(error) = self.router.serve_until(Some(Instant::now())) {
            tracing::error!(error = %error, "a router that must wait for its routes can't");
        }
        let mut changes = self.ledger.store.changes();
        let pause = (self.lease / 8).min(Duration::from_secs(1));
        loop {
            changes.mark_unchanged();
            let Ok(kept_up) = cancel.guard(following.keep_up()).await else { break };
            let failed = kept_up.is_err();
            if let Err(error) = kept_up {
                tracing::warn!(error = %error, "can't follow the routes of the store; trying again");
            }
            self.serves.send_replace(following.is_trusted());
            tokio::select! {
                _ = cancel.cancelled() => break,
                Ok(()) = changes.changed(), if !failed => {}
                Some(drained) = following.drains.join_next() => following.has_drained(drained.ok()),
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.serves.send_replace(false);
        if let Err(error) = following.leave().await {
            tracing::debug!(error = %error, "the engines learn by our lease that this proxy is gone");
        }
    }

    /// Waits until the router has all routes, and may use them.
    pub async fn serves(&self) {
        // The sender lives as long as this follower.
        let _ = self.serves.subscribe().wait_for(|serves| *serves).await;
    }
}

impl fmt::Debug for RouteFollower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ledger, router, at, lease, .. } = self;
        let mut shown = f.debug_struct("RouteFollower");
        shown.field("at", at).field("lease", lease).field("store", &ledger.store).field("router", router);
        shown.finish_non_exhaustive()
    }
}

/// A follower at work.
struct Following<'a> {
    of: &'a RouteFollower,
    key: String,
    owner: String,
    cancel: Cancel,
    /// When the lease was asked for the last time, and when it ends at the earliest.
    lease: Option<(Instant, Instant)>,
    /// The place of the newest event that was read, with its routes applied.
    place: u64,
    /// What the router knows.
    known: BTreeMap<AppName, (AppId, u64)>,
    draining: BTreeMap<AppName, u64>,
    drains: JoinSet<(AppName, u64)>,
    written: Follower,
}

impl Following<'_> {
    fn is_trusted(&self) -> bool {
        self.lease.is_some_and(|(_, until)| Instant::now() < until)
    }

    async fn keep_up(&mut self) -> Result<()> {
        if !self.is_trusted() {
            let joined = self.join().await;
            if joined.is_err() {
                // We send nothing, so nobody has to wait for us; where this fails too, the lease ends.
                let _ = self.of.ledger.store.unlease(&self.key, &self.owner).await;
            }
            return joined;
        }
        let changed = self.catch_up().await?;
        // Only who keeps up stays.
        let renews = self.lease.is_some_and(|(asked, _)| asked.elapsed() > self.of.lease / 4);
        if changed || renews || self.draining != self.written.draining {
            self.tell().await?;
        }
        if !renews {
            return Ok(());
        }
        let lease = self.ask().await?;
        if self.is_trusted() { self.trust(lease) } else { Ok(()) }
    }

    /// Begins anew: engines may have gone on without this proxy.
    async fn join(&mut self) -> Result<()> {
        let lease = self.ask().await?;
        // Whoever changes routes from here on waits for us; what was changed before is in the list.
        self.written = Follower { at: self.of.at.clone(), ..Follower::default() };
        let place = self.write().await?;
        let mut all = self.of.ledger.all_routes().await?;
        let gone: Vec<AppName> = {
            let there: BTreeSet<&AppName> = all.iter().map(|routes| &routes.app).collect();
            self.known.keys().filter(|app| !there.contains(app)).cloned().collect()
        };
        for app in &gone {
            self.withdraw(app).await?;
        }
        // A host that went from one app to another is free only once the first has heard of it.
        while !all.is_empty() {
            let (mut refused, count) = (Vec::new(), all.len());
            for routes in all {
                match self.apply(&routes).await {
                    Err(error) if error.code() == ErrorCode::Conflict => refused.push((routes, error)),
                    applied => applied?,
                }
            }
            if refused.len() == count {
                return refused.pop().map_or(Ok(()), |(_, error)| Err(error));
            }
            all = refused.into_iter().map(|(routes, _)| routes).collect();
        }
        self.place = place;
        self.tell().await?;
        self.trust(lease)
    }

    /// Takes or prolongs the lease. By our clock it ends no later than by the store's, which began to count after us.
    async fn ask(&self) -> Result<(Instant, Instant)> {
        let (asked, ttl) = (Instant::now(), self.of.lease);
        if !self.of.ledger.store.lease(&self.key, &self.owner, ttl).await? {
            return Err(Error::new(ErrorCode::LeaseLost, "another proxy has this one's name"));
        }
        // Clocks don't run equally fast.
        Ok((asked, asked + ttl - ttl / 20))
    }

    fn trust(&mut self, lease: (Instant, Instant)) -> Result<()> {
        self.lease = Some(lease);
        self.of.router.serve_until(Some(lease.1))
    }

    /// Applies what changed since the last look; whether anything did.
    async fn catch_up(&mut self) -> Result<bool> {
        let (mut apps, mut place) = (BTreeSet::new(), self.place);
        loop {
            let events = self.of.ledger.events(place, None, PAGE).await?;
            let news = events.iter().filter(|event| is_news(&event.kind));
            apps.extend(news.filter_map(|event| event.app.clone()));
            place = events.last().map_or(place, |event| event.seq);
            if events.len() < PAGE {
                break;
            }
        }
        // Read after the events, so they are at least as new.
        for app in &apps {
            self.look(app).await?;
        }
        self.place = place;
        Ok(!apps.is_empty())
    }

    async fn look(&mut self, app: &AppName) -> Result<()> {
        match self.of.ledger.routes(app).await? {
            Some(routes) => self.apply(&routes.value).await,
            None => self.withdraw(app).await,
        }
    }

    async fn withdraw(&mut self, app: &AppName) -> Result<()> {
        let Some((id, generation)) = self.known.get(app).copied() else { return Ok(()) };
        self.apply(&AppRoutes::new(app.clone(), id, generation + 1)).await
    }

    async fn apply(&mut self, routes: &AppRoutes) -> Result<()> {
        let (router, ctx) = (&self.of.router, context(&routes.app, &self.cancel));
        let before = router.observe(&routes.app).await?.map(|before| before.backends).unwrap_or_default();
        match router.apply(&ctx, routes).await {
            // It never goes back: it has newer ones already.
            Err(error) if error.code() == ErrorCode::StaleGeneration => {}
            applied => applied?,
        }
        self.known.insert(routes.app.clone(), (routes.app_id, routes.generation));
        let removed: Vec<Backend> =
            before.into_iter().filter(|backend| !routes.backends.contains(backend)).collect();
        if removed.is_empty() {
            return Ok(());
        }
        let drain = DrainRequest::new(routes.app.clone(), removed);
        let left = router.drain(&ctx, &drain.clone().with_timeout(Duration::ZERO)).await?;
        if left > 0 {
            *self.draining.entry(routes.app.clone()).or_default() += left;
            let (router, app) = (router.clone(), routes.app.clone());
            self.drains.spawn(async move {
                while router.drain(&ctx, &drain).await.is_ok_and(|left| left > 0) {}
                (app, left)
            });
        }
        Ok(())
    }

    fn has_drained(&mut self, drained: Option<(AppName, u64)>) {
        let Some((app, count)) = drained else { return };
        let left = self.draining.remove(&app).map_or(0, |left| left.saturating_sub(count));
        if left > 0 {
            self.draining.insert(app, left);
        }
    }

    /// Writes down how far it is.
    async fn tell(&mut self) -> Result<()> {
        let draining = self.draining.clone();
        let now = Follower { at: self.of.at.clone(), place: self.place, draining };
        if now == self.written {
            return Ok(());
        }
        self.written = now;
        let told = self.write().await.map(drop);
        if told.as_ref().is_err_and(|error| error.code() == ErrorCode::LeaseLost) {
            self.lease = None;
        }
        told.inspect_err(|_| self.written = Follower::default())
    }

    async fn write(&self) -> Result<u64> {
        let body = encode(&self.written)?;
        let write = Write::put(Table::Platform, self.key.clone(), PARENT, Expect::Any, body);
        let mut tx = Transaction::new().write(write);
        tx.lease = Some((self.key.clone(), self.owner.clone()));
        self.of.ledger.store.commit(tx).await
    }

    /// Sends nothing any more, and says so.
    async fn leave(mut self) -> Result<()> {
        self.of.router.serve_until(Some(Instant::now()))?;
        self.drains.shutdown().await;
        let gone = Write::delete(Table::Platform, self.key.clone(), Expect::Any);
        self.of.ledger.store.commit(Transaction::new().write(gone)).await?;
        self.of.ledger.store.unlease(&self.key, &self.owner).await
    }
}

fn context(app: &AppName, cancel: &Cancel) -> Context {
    let step = StepName::new("follow").expect("a constant");
    let key = IdempotencyKey::new(WorkflowId::from(uuid::Uuid::nil()), step);
    let (clock, logs) = (Arc::new(SystemClock::new()), Arc::new(MemoryLogs::new()));
    let log = LogWriter::new(logs, clock.clone(), app.clone(), LogSource::Platform, "router");
    Context::new(key, cancel.clone(), clock, log)
}
