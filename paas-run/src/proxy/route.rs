//! One app's routes: the set of its backends, and the lock under which a request claims one of them.
//!
//! A claim picks a backend and counts as in flight while it holds the read lock; a swap takes the write lock. So once a
//! swap has returned, every later claim sees the new set, and every earlier one is counted: nothing new reaches what was
//! removed, and a drain misses nobody.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use http::StatusCode;
use paas_core::{AppName, AppRoutes, Backend, Balance, Concurrency, Error, ErrorCode, Result, RouteState};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::backend::{Claim, Gate, Upstream};
use super::fault::Fault;
use super::pools::Pools;
use super::rules::{RULED, Rules};
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
    /// What of `rules` a request has to know before it asks for them; nothing for most apps.
    marks: AtomicU8,
    rules: RwLock<Option<Arc<Rules>>>,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Set {
    applied: Option<AppRoutes>,
    rules: Option<Arc<Rules>>,
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
    /// All backends have as many requests as they take; so many may wait.
    Full(usize),
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
            marks: AtomicU8::new(0),
            rules: RwLock::default(),
            gate: Arc::default(),
        }
    }

    /// Which of the marks in [`rules`](super::rules) the app has.
    pub(super) fn marks(&self) -> u8 {
        self.marks.load(Ordering::Acquire)
    }

    /// The app's settings, where they are not what they always are.
    pub(super) fn rules(&self) -> Option<Arc<Rules>> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those that every request has to heed.
    pub(super) fn heeded(&self) -> Option<Arc<Rules>> {
        if self.marks() & RULED == 0 { None } else { self.rules() }
    }

    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Claims a backend for a request: the `wanted` one, if it is there. `queued`: it waited for its turn.
    pub(super) fn claim(&self, now: Instant, wanted: Option<&str>, queued: bool) -> Result<Claim, Refused> {
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        let state = set.applied.as_ref().map_or(RouteState::Empty, |applied| applied.state);
        match state {
            RouteState::Maintenance => return Err(Refused::Nobody(Fault::Maintenance)),
            RouteState::Paused => return Err(Refused::NobodyYet),
            _ => {}
        }
        if let Some(rules) = &set.rules
            && let Some(limit) = rules.settings.concurrency
            && !set.upstreams.is_empty()
        {
            return self.claim_within(&set, limit, now, wanted, queued);
        }
        let chosen = match set.upstreams.as_slice() {
            [] if state == RouteState::Starting => return Err(Refused::NobodyYet),
            [] => return Err(Refused::Nobody(nobody(state))),
            [only] => only,
            many => self.choose(set.rules.as_deref(), many, now, wanted),
        };
        if chosen.quarantined_for(now).is_none() {
            return Ok(Claim::new(chosen));
        }
        let free = set.upstreams.iter().filter(|upstream| upstream.quarantined_for(now).is_none());
        if let Some(free) = free.min_by_key(|upstream| upstream.in_flight()) {
            return Ok(Claim::new(free));
        }
        Err(set.all_quarantined(now))
    }

    /// Claims the least busy of those that take another request.
    fn claim_within(
        &self,
        set: &Set,
        limit: Concurrency,
        now: Instant,
        wanted: Option<&str>,
        queued: bool,
    ) -> Result<Claim, Refused> {
        let free = set.upstreams.iter().filter(|upstream| upstream.quarantined_for(now).is_none());
        let mut free: Vec<_> = free.collect();
        if free.is_empty() {
            return Err(set.all_quarantined(now));
        }
        // Nobody goes before those who wait.
        if queued || self.gate.waiting() == 0 {
            free.sort_by_key(|upstream| (Some(upstream.token.as_str()) != wanted, upstream.in_flight()));
            let most = limit.per_instance as usize;
            if let Some(claim) = free.into_iter().find_map(|upstream| Claim::within(upstream, most)) {
                return Ok(claim);
            }
        }
        Err(Refused::Full(limit.queue as usize))
    }

    /// Waits for other routes.
    pub(super) fn swapped(&self) -> &Notify {
        &self.swapped
    }

    /// Waits until somebody answers, or it is clear that nobody will.
    pub(super) async fn served(&self) {
        loop {
            // Listening before looking: what happens in between isn't missed.
            let mut swapped = std::pin::pin!(self.swapped.notified());
            swapped.as_mut().enable();
            {
                let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
                let state = set.applied.as_ref().map(|applied| applied.state);
                let starts = state == Some(RouteState::Starting) && set.upstreams.is_empty();
                if !starts && state != Some(RouteState::Paused) {
                    return;
                }
            }
            swapped.await;
        }
    }

    /// Which of several gets a request, whether it is in quarantine or not.
    fn choose<'a>(
        &self,
        rules: Option<&Rules>,
        upstreams: &'a [Arc<Upstream>],
        now: Instant,
        wanted: Option<&str>,
    ) -> &'a Arc<Upstream> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let Some(rules) = rules else {
            return &upstreams[less_busy_of_two(turn, upstreams.len(), |at| upstreams[at].in_flight())];
        };
        let known = wanted.and_then(|wanted| upstreams.iter().find(|upstream| upstream.token == wanted));
        if let Some(known) = known {
            return known;
        }
        let Some(slow_start) = rules.slow_start() else {
            return &upstreams[pick(rules, turn, upstreams.len(), |at| upstreams[at].in_flight())];
        };
        // One that is half as far as the oldest takes part in half of the choices.
        let shares: Vec<_> = upstreams.iter().map(|upstream| upstream.share(now, slow_start)).collect();
        let most = shares.iter().copied().fold(0.0, f64::max);
        let dice = f64::from(random(turn)) / f64::from(u32::MAX);
        let taking: Vec<_> = upstreams
            .iter()
            .zip(shares)
            .filter(|(_, share)| share / most >= dice)
            .map(|(one, _)| one)
            .collect();
        taking[pick(rules, turn, taking.len(), |at| taking[at].in_flight())]
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
    pub(super) fn swap(&self, routes: &AppRoutes, pools: &Arc<Pools>) -> Option<AppRoutes> {
        let mut guard = self.set.write().unwrap_or_else(PoisonError::into_inner);
        let set = &mut *guard;
        let mut before = std::mem::take(&mut set.upstreams);
        for backend in &routes.backends {
            // One that stays keeps its connections and counters.
            let upstream = match before.iter().position(|upstream| upstream.backend == *backend) {
                Some(at) => before.swap_remove(at),
                None => {
                    Arc::new(Upstream::new(backend.clone(), routes.app_id, pools, &self.drained, &self.gate))
                }
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
        let rules = Rules::new(&routes.settings, set.rules.as_deref()).map(Arc::new);
        set.rules.clone_from(&rules);
        self.gate.limits.store(routes.settings.concurrency.is_some(), Ordering::SeqCst);
        drop(guard);
        let marks = rules.as_ref().map_or(0, |rules| rules.marks());
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        self.marks.store(marks, Ordering::Release);
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
        Some(counters.read(in_flight, self.gate.waiting() as u64))
    }
}

impl Set {
    fn all_quarantined(&self, now: Instant) -> Refused {
        let waits = self.upstreams.iter().filter_map(|upstream| upstream.quarantined_for(now));
        Refused::AllQuarantined(waits.min().unwrap_or_default())
    }
}

/// A number without a pattern: neighbouring turns are far from each other in it (Knuth, section 6.4).
fn random(turn: usize) -> u32 {
    u32::try_from((turn as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).unwrap_or_default()
}

/// Which of so many gets a request, as the app wants it.
fn pick(rules: &Rules, turn: usize, count: usize, in_flight: impl Fn(usize) -> usize) -> usize {
    match rules.settings.balance {
        Balance::Random => random(turn) as usize % count,
        // Beginning elsewhere each time, or the first would get whatever is equal.
        Balance::LeastConnections => {
            (0..count).map(|step| (turn + step) % count).min_by_key(|at| in_flight(*at)).unwrap_or_default()
        }
        _ => less_busy_of_two(turn, count, in_flight),
    }
}

/// The power of two choices: nearly as even as looking at all of them, at the cost of looking at two.
fn less_busy_of_two(turn: usize, count: usize, in_flight: impl Fn(usize) -> usize) -> usize {
    let first = turn % count;
    // A second one that isn't the first, at a distance that changes.
    let step = 1 + (turn / count) % (count - 1).max(1);
    let second = (first + step) % count;
    if in_flight(second) < in_flight(first) { second } else { first }
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

#[cfg(test)]
mod tests {
    use paas_core::AppId;

    use super::*;

    fn routes(generation: u64, id: AppId, balance: Balance, ports: &[u16]) -> AppRoutes {
        let mut routes = AppRoutes::new("hello".parse().expect("a name"), id, generation);
        routes.backends = ports
            .iter()
            .map(|port| Backend::new(format!("web.{port}"), ([127, 0, 0, 1], *port).into()))
            .collect();
        (routes.settings.balance, routes.settings.slow_start) = (balance, 60);
        routes.state = RouteState::Serving;
        routes
    }

    /// How many of a thousand requests, one after the other, each of these gets.
    fn shares<const N: usize>(route: &Route, ports: [u16; N]) -> [usize; N] {
        let mut counts = [0; N];
        for _ in 0..1000 {
            let claim = route.claim(Instant::now(), None, false).expect("somebody is there");
            let port = claim.upstream.backend.address.port();
            counts[ports.iter().position(|known| *known == port).expect("one of them")] += 1;
        }
        counts
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_instance_gets_its_share_by_and_by_and_new_ones_share_alike() {
        for balance in [Balance::TwoChoices, Balance::Random, Balance::LeastConnections] {
            let pools = Arc::new(Pools::new(&super::super::ProxyConfig::default()));
            let (route, id) = (Route::new("hello".parse().expect("a name")), AppId::new());
            route.swap(&routes(1, id, balance, &[1, 2]), &pools);
            let near = |count: usize, expected: usize| count.abs_diff(expected) <= 60;
            tokio::time::advance(Duration::from_secs(2)).await;
            let equal = shares(&route, [1, 2]);
            assert!(near(equal[0], 500), "{balance:?}: {equal:?}");
            tokio::time::advance(Duration::from_secs(60)).await;
            route.swap(&routes(2, id, balance, &[1, 2, 3]), &pools);
            for (seconds, expected) in [(0, 3), (15, 83), (30, 166), (60, 333)] {
                let all = shares(&route, [1, 2, 3]);
                assert!(near(all[2], expected), "{balance:?} after {seconds} s: {all:?}");
                assert!(near(all[0], all[1]), "{balance:?} after {seconds} s: {all:?}");
                tokio::time::advance(Duration::from_secs(if seconds == 30 { 30 } else { 15 })).await;
            }
        }
    }
}
