//! One app's routes: the set of its backends, and the lock under which a request claims one of them.
//!
//! A claim picks a backend and counts as in flight while it holds the read lock; a swap takes the write lock. So once a
//! swap has returned, every later claim sees the new set, and every earlier one is counted: nothing new reaches what was
//! removed, and a drain misses nobody.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use http::StatusCode;
use paas_core::{AppName, AppRoutes, Backend, Error, ErrorCode, Result, RouteState};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backend::{Claim, Upstream};
use super::fault::Fault;
use super::traffic::{Counters, Traffic};

/// The routes of one app, over all its lives.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) app: AppName,
    set: RwLock<Set>,
    /// Spreads requests over backends that are equally busy.
    turn: AtomicUsize,
    /// Told of every new set.
    swapped: Notify,
    /// Told when a removed backend has nothing in flight any more.
    drained: Arc<Notify>,
    /// Made with the first request: of many apps most have none for long.
    counters: OnceLock<Counters>,
}

#[derive(Debug, Default)]
struct Set {
    applied: Option<AppRoutes>,
    upstreams: Vec<Arc<Upstream>>,
    /// Removed, and still with requests in flight.
    removed: Vec<Arc<Upstream>>,
}

/// Why nothing could be claimed.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is nobody to answer.
    Nobody(Fault),
    /// Somebody is about to: [`Route::served`] tells when.
    NobodyYet,
    /// All backends refused connections a moment ago; one may be tried again after this time.
    AllQuarantined(Duration),
}

impl Route {
    pub(super) fn new(app: AppName) -> Self {
        Self {
            app,
            set: RwLock::default(),
            turn: AtomicUsize::new(0),
            swapped: Notify::new(),
            drained: Arc::default(),
            counters: OnceLock::new(),
        }
    }

    /// Claims a backend for a request.
    pub(super) fn claim(&self, now: Instant) -> Result<Claim, Refused> {
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        let state = set.applied.as_ref().map_or(RouteState::Empty, |applied| applied.state);
        if state == RouteState::Maintenance {
            return Err(Refused::Nobody(Fault::Maintenance));
        }
        let chosen = match set.upstreams.as_slice() {
            [] if state == RouteState::Starting => return Err(Refused::NobodyYet),
            [] => return Err(Refused::Nobody(nobody(state))),
            [only] => only,
            many => self.less_busy_of_two(many),
        };
        if chosen.quarantined_for(now).is_none() {
            return Ok(Claim::new(chosen));
        }
        let free = set.upstreams.iter().filter(|upstream| upstream.quarantined_for(now).is_none());
        if let Some(free) = free.min_by_key(|upstream| upstream.in_flight()) {
            return Ok(Claim::new(free));
        }
        let wait = set.upstreams.iter().filter_map(|upstream| upstream.quarantined_for(now)).min();
        Err(Refused::AllQuarantined(wait.unwrap_or_default()))
    }

    /// Waits until somebody answers, or it is clear that nobody will.
    pub(super) async fn served(&self) {
        loop {
            let swapped = self.swapped.notified();
            {
                let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
                let state = set.applied.as_ref().map(|applied| applied.state);
                if !set.upstreams.is_empty() || state != Some(RouteState::Starting) {
                    return;
                }
            }
            swapped.await;
        }
    }

    /// The power of two choices: nearly as even as looking at all of them, at the cost of looking at two.
    fn less_busy_of_two<'a>(&self, upstreams: &'a [Arc<Upstream>]) -> &'a Arc<Upstream> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let first = turn % upstreams.len();
        // A second one that isn't the first, at a distance that changes.
        let step = 1 + (turn / upstreams.len()) % (upstreams.len() - 1);
        let second = (first + step) % upstreams.len();
        let (first, second) = (&upstreams[first], &upstreams[second]);
        if second.in_flight() < first.in_flight() { second } else { first }
    }

    /// How many backends there are.
    pub(super) fn backends(&self) -> usize {
        self.set.read().unwrap_or_else(PoisonError::into_inner).upstreams.len()
    }

    pub(super) fn applied(&self) -> Option<AppRoutes> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).applied.clone()
    }

    /// Whether these routes are newer than the applied ones; `false` if they are the same.
    ///
    /// # Errors
    /// `stale_generation` for older ones. Ids of an app's lives sort by time, so an earlier life is older too.
    pub(super) fn is_newer(&self, routes: &AppRoutes) -> Result<bool> {
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        let Some(applied) = &set.applied else { return Ok(true) };
        let (given, known) = ((routes.app_id, routes.generation), (applied.app_id, applied.generation));
        if given < known {
            let message = format!(
                "routes of {} at generation {} came after those at generation {}; read the app's routes again",
                routes.app, routes.generation, applied.generation
            );
            return Err(Error::new(ErrorCode::StaleGeneration, message));
        }
        Ok(given > known)
    }

    /// Replaces the backends: no later claim gets one that isn't named. Returns the routes that applied before.
    pub(super) fn swap(&self, routes: &AppRoutes, pool_size: usize) -> Option<AppRoutes> {
        let mut guard = self.set.write().unwrap_or_else(PoisonError::into_inner);
        let set = &mut *guard;
        let mut before = std::mem::take(&mut set.upstreams);
        for backend in &routes.backends {
            // One that stays keeps its connections and counters.
            let upstream = match before.iter().position(|upstream| upstream.backend == *backend) {
                Some(at) => before.swap_remove(at),
                None => Arc::new(Upstream::new(backend.clone(), pool_size, &self.drained)),
            };
            if !set.upstreams.iter().any(|known| known.backend == upstream.backend) {
                set.upstreams.push(upstream);
            }
        }
        for upstream in &before {
            upstream.retire();
        }
        set.removed.append(&mut before);
        set.removed.retain(|upstream| upstream.in_flight() > 0);
        let applied = set.applied.replace(routes.clone());
        drop(guard);
        self.swapped.notify_waiters();
        applied
    }

    /// Those of the removed backends that have requests in flight.
    pub(super) fn draining(&self, backends: &[Backend]) -> Vec<Arc<Upstream>> {
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        let named = |backend: &Backend| set.upstreams.iter().any(|upstream| upstream.backend == *backend);
        let asked = |upstream: &&Arc<Upstream>| {
            backends.contains(&upstream.backend) && !named(&upstream.backend) && upstream.in_flight() > 0
        };
        set.removed.iter().filter(asked).cloned().collect()
    }

    pub(super) fn drained(&self) -> &Notify {
        &self.drained
    }

    /// A request has ended.
    pub(super) fn count(&self, status: Option<StatusCode>, took: Duration, bytes: u64) {
        self.counters.get_or_init(Counters::default).count(status, took, bytes);
    }

    /// What went through; `None` before the first request has ended.
    pub(super) fn traffic(&self) -> Option<Traffic> {
        let counters = self.counters.get()?;
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        let in_flight =
            set.upstreams.iter().chain(&set.removed).map(|upstream| upstream.in_flight() as u64).sum();
        Some(counters.read(in_flight))
    }

    /// Every backend that may hold idle connections.
    pub(super) fn upstreams(&self) -> Vec<Arc<Upstream>> {
        self.set.read().unwrap_or_else(PoisonError::into_inner).upstreams.clone()
    }
}

/// What it means that an app in this state has no backends.
fn nobody(state: RouteState) -> Fault {
    match state {
        RouteState::Empty => Fault::BlankApp,
        RouteState::Serving => Fault::AppCrashed,
        RouteState::Stopped => Fault::NoWebProcesses,
        RouteState::Maintenance => Fault::Maintenance,
        // A state of a newer core.
        _ => Fault::Platform,
    }
}
