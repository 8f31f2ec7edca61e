//! The steady state: what is live runs and is routed, at start and whenever something changes.
//!
//! A pass over an app holds the app's lease, or the lease of a round over all, so that of several engines one does it. Passes only ever speak of
//! the live release; what comes and goes during a roll-out is the workflow's business.

mod limit;
mod looks;
mod rounds;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::Semaphore;

use self::limit::Calls;
pub(crate) use self::looks::Looks;
use self::looks::Pass;
use self::rounds::rounds;
use super::Inner;
use super::ledger::{Ledger, put_routes};
use crate::store::{Expect, Transaction};
use crate::{
    App, AppName, AppRoutes, Error, ErrorCode, EventKind, InstanceState, ReleaseId, Result, RuntimeEvent,
    Subject,
};

/// How many apps are looked at at once.
const AT_ONCE: u32 = 16;

/// A pass that takes longer than this no longer counts as one of those at once: what hangs holds nobody up.
const SLOW: Duration = Duration::from_secs(10);

/// What keeps an engine from doing what another one does just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    /// The app's lease, held during the pass.
    ByLease,
    /// The round is this engine's: no app needs a lease of its own, which would be two writes for each in each round.
    ByRound,
}

/// Reconciles until the engine shuts down.
pub(crate) async fn reconcile(inner: Arc<Inner>) {
    let slots = Arc::new(Semaphore::new(AT_ONCE as usize));
    let hints = inner.runtime.watch();
    fill(&inner, &slots).await;
    inner.routed.send_replace(true);
    // A long round holds no hint up.
    tokio::join!(follow(&inner, &slots, hints), rounds(&inner, &slots));
}

async fn follow(inner: &Arc<Inner>, slots: &Arc<Semaphore>, mut hints: BoxStream<'static, RuntimeEvent>) {
    loop {
        tokio::select! {
            _ = inner.shutdown.cancelled() => return,
            Some(event) = hints.next() => spawn_pass(inner, slots, event.app, Pass::Routes, Alone::ByLease).await,
        }
    }
}

/// Tells the router of all apps, as far as their processes are there: an empty router would answer for nobody.
async fn fill(inner: &Arc<Inner>, slots: &Arc<Semaphore>) {
    let all = loop {
        match inner.ledger.all_routes().await {
            Ok(all) => break all,
            Err(error) => tracing::warn!(error = %error, "can't read the routes; trying again"),
        }
        tokio::select! {
            _ = inner.shutdown.cancelled() => return,
            () = tokio::time::sleep(inner.options.poll) => {}
        }
    };
    for routes in all {
        spawn_pass(inner, slots, routes.app, Pass::Routes, Alone::ByLease).await;
    }
    // Each is through, or hangs and has given its slot up.
    tokio::select! {
        _ = inner.shutdown.cancelled() => {}
        // Nobody closes the semaphore.
        _ = slots.acquire_many(AT_ONCE) => {}
    }
}

async fn spawn_pass(inner: &Arc<Inner>, slots: &Arc<Semaphore>, name: AppName, what: Pass, alone: Alone) {
    let Some(mut under_way) = inner.looks.begin(name.clone(), what) else { return };
    let slot = tokio::select! {
        _ = inner.shutdown.cancelled() => return,
        slot = slots.clone().acquire_owned() => slot,
    };
    let inner = inner.clone();
    inner.tasks.clone().spawn(async move {
        let mut passes = std::pin::pin!(async {
            loop {
                look(&inner, &name, what, alone).await;
                match under_way.again() {
                    Some(again) => under_way = again,
                    None => return,
                }
            }
        });
        if tokio::time::timeout(SLOW, &mut passes).await.is_err() {
            drop(slot);
            passes.await;
        }
    });
}

impl Inner {
    /// Looks after an app at once.
    pub(crate) async fn look_after(&self, name: &AppName) {
        look(self, name, Pass::Whole, Alone::ByLease).await;
    }
}

async fn look(inner: &Inner, name: &AppName, what: Pass, alone: Alone) {
    let Err(error) = pass(inner, name, what, alone).await else {
        if inner.looks.succeeded(name, what) {
            tracing::info!(app.name = %name, "an app is kept as it should be again");
        }
        return;
    };
    let lost =
        matches!(error.code(), ErrorCode::LeaseLost | ErrorCode::Conflict | ErrorCode::StaleGeneration);
    if lost || inner.shutdown.is_cancelled() {
        return tracing::debug!(app.name = %name, error = %error, "another pass was faster, or the engine ends");
    }
    tracing::warn!(app.name = %name, error = %error, "an app can't be kept as it should be; trying again");
    if inner.looks.failed(name, what, &error, inner.clock.now()) {
        tell(inner, name, &error).await;
    }
}

/// What hangs calls a person, once until it is well again.
async fn tell(inner: &Inner, name: &AppName, error: &Error) {
    let mut tx = Transaction::new();
    let neglected = EventKind::Neglected { why: error.message().to_owned() };
    let noted = Ledger::note(&mut tx, &inner.ledger.event(Some(name), None, neglected));
    let told = match noted {
        Ok(()) => inner.store.commit(tx).await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        tracing::warn!(app.name = %name, error = %error, "can't write down that an app is neglected");
    }
}

async fn pass(inner: &Inner, name: &AppName, what: Pass, alone: Alone) -> Result<()> {
    let calls = inner.calls(name);
    // A router that lost its routes in a restart is filled at once; that needs no lease, since generations order it.
    // Routes to what isn't there any more are written anew before the router hears of them.
    if !inner.is_misrouted(name).await? {
        inner.tell_router(&calls, name).await?;
        if what == Pass::Routes {
            return Ok(());
        }
    }
    if (what, alone) == (Pass::Whole, Alone::ByRound) {
        return keep(inner, &calls, name, None).await;
    }
    let (lease, owner) = (format!("reconcile/{name}"), inner.owner.to_string());
    if !inner.store.lease(&lease, &owner, inner.options.lease).await? {
        return inner.tell_router(&calls, name).await;
    }
    let result = match what {
        Pass::Routes => inner.route(&calls, name, Some(&lease)).await,
        Pass::Whole => keep(inner, &calls, name, Some(&lease)).await,
    };
    inner.store.unlease(&lease, &owner).await?;
    result
}

async fn keep(inner: &Inner, calls: &Calls<'_>, name: &AppName, lease: Option<&str>) -> Result<()> {
    let app = inner.ledger.find_app(name).await?.map(|stored| stored.value);
    let Some(app) = app.filter(|app| !app.destroying) else {
        return orphans(inner, calls, name, None).await;
    };
    if inner.home_elsewhere(&app).is_some() {
        // It was moved away while this node was lost.
        return orphans(inner, calls, name, None).await;
    }
    let Some(live) = app.live.clone() else { return orphans(inner, calls, name, Some(&app)).await };
    let release = inner.ledger.release(&app, live.version).await?.value;
    let busy = is_busy(inner, name).await?;
    if !busy {
        let (env, _) = inner.environment(&app, &release).await?;
        for (process, scale) in &live.formation {
            let Some(spec) = inner.spec(&app, &release, process, scale.quantity, &env) else { continue };
            // A roll-out may have come and gone since, and its old processes must not come back.
            if !is_still(inner, &app).await? {
                return Ok(());
            }
            let starting = format!("keeping {process} of {} up", release.version);
            calls.make(starting, inner.runtime.ensure(&calls.ctx, &spec)).await?;
        }
    }
    inner.route(calls, name, lease).await?;
    if busy { Ok(()) } else { orphans(inner, calls, name, Some(&app)).await }
}

/// Whether what is live is as it was, and nobody is about to change it.
async fn is_still(inner: &Inner, app: &App) -> Result<bool> {
    if is_busy(inner, &app.name).await? {
        return Ok(false);
    }
    let now = inner.ledger.find_app(&app.name).await?.map(|stored| stored.value);
    Ok(now.is_some_and(|now| {
        now.id == app.id && !now.destroying && now.live == app.live && now.node == app.node
    }))
}

/// Whether a workflow changes what runs of this app.
async fn is_busy(inner: &Inner, name: &AppName) -> Result<bool> {
    let open = inner.ledger.open_workflows(&Subject::App(name.clone())).await?;
    Ok(open.iter().any(|(stored, _)| stored.value.state.is_active()))
}

/// Ends what no release and no workflow wants: left behind by an engine that died at the wrong moment.
async fn orphans(inner: &Inner, calls: &Calls<'_>, name: &AppName, app: Option<&App>) -> Result<()> {
    let observed = inner.look("the look at what runs", inner.runtime.observe(name)).await?;
    let live = app.and_then(|app| app.live.as_ref()).map(|live| live.release);
    let stray = |i: &&crate::Instance| Some(i.release) != live && i.state != InstanceState::Stopping;
    let strays: BTreeSet<ReleaseId> = observed.iter().filter(stray).map(|i| i.release).collect();
    let elsewhere = async || -> Result<bool> {
        let app = inner.ledger.find_app(name).await?;
        Ok(app.is_some_and(|app| inner.home_elsewhere(&app.value).is_some()))
    };
    if strays.is_empty() || (is_busy(inner, name).await? && !elsewhere().await?) {
        return Ok(());
    }
    // What a workflow started between the two looks is its own.
    let now = inner.ledger.find_app(name).await?.map(|stored| stored.value);
    let now = now.filter(|app| inner.home_elsewhere(app).is_none());
    let now = now.and_then(|app| app.live).map(|live| live.release);
    for release in strays.into_iter().filter(|release| Some(*release) != now) {
        tracing::info!(app.name = %name, release.id = %release, "ending processes that no release wants");
        let ending = "ending processes that no release wants";
        calls.make(ending, inner.runtime.retire(&calls.ctx, name, release)).await?;
    }
    Ok(())
}

/// Whether routes differ in nothing but their generation.
fn is_same(old: Option<&AppRoutes>, new: &AppRoutes) -> bool {
    old.is_some_and(|old| AppRoutes { generation: new.generation, ..old.clone() } == *new)
}

impl Inner {
    /// Whether the routes should be others than they are.
    async fn is_misrouted(&self, name: &AppName) -> Result<bool> {
        let Some(app) = self.ledger.find_app(name).await?.filter(|app| !app.value.destroying) else {
            return Ok(false);
        };
        let stored = self.ledger.routes(name).await?.map(|stored| stored.value);
        let routes = self.wanted_routes(&app.value, stored.as_ref()).await?;
        Ok(!is_same(stored.as_ref(), &routes))
    }

    /// Writes an app's routes anew if they changed, and tells the router.
    async fn route(&self, calls: &Calls<'_>, name: &AppName, lease: Option<&str>) -> Result<()> {
        let app = self.ledger.app(name).await?;
        let stored = self.ledger.routes(name).await?;
        let routes = self.wanted_routes(&app.value, stored.as_ref().map(|stored| &stored.value)).await?;
        if !is_same(stored.as_ref().map(|stored| &stored.value), &routes) {
            let expect = stored.map_or(Expect::Absent, |stored| Expect::Rev(stored.rev));
            let mut tx = Transaction::new().write(put_routes(&routes, expect)?);
            // Nobody switches the release between our look and our write.
            tx = tx.write(super::ledger::put_app(&app.value, Expect::Rev(app.rev))?);
            tx.lease = lease.map(|lease| (lease.to_owned(), self.owner.to_string()));
            let changed = EventKind::RoutesChanged { generation: routes.generation };
            Ledger::note(&mut tx, &self.ledger.event(Some(name), None, changed))?;
            self.store.commit(tx).await?;
        }
        self.tell_router(calls, name).await
    }

    async fn wanted_routes(&self, app: &App, stored: Option<&AppRoutes>) -> Result<AppRoutes> {
        self.look("the look at what runs", self.routes_for(app, stored)).await
    }

    async fn tell_router(&self, calls: &Calls<'_>, name: &AppName) -> Result<()> {
        calls.make("telling the router", self.publish(&calls.ctx, name)).await
    }

    /// After a change of domains or maintenance mode.
    pub(crate) async fn refresh_routes(&self, name: &AppName) -> Result<()> {
        let calls = self.calls(name);
        let mut pause = Duration::from_millis(1);
        loop {
            match self.route(&calls, name, None).await {
                Err(error) if error.code() == ErrorCode::Conflict && pause < Duration::from_secs(1) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
    }
}
