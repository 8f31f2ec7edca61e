//! One backend: what is in flight at it, whether it answers, and its idle connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use paas_core::{AppId, Backend, Digest};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::mux::Mux;
use super::plain::Link;
use super::pool::Pool;
use super::pools::{Listed, Pools};
use super::reach::Way;
use super::upstream::Connection;

/// One backend of one app.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) backend: Backend,
    /// What a client's cookie says that comes to it again; nobody can make one up.
    pub(super) token: String,
    gate: Arc<Gate>,
    in_flight: AtomicUsize,
    retired: AtomicBool,
    drained: Arc<Notify>,
    /// Told to tunnels that they should end.
    pub(super) close_tunnels: CancellationToken,
    /// When this was made; times below count from here.
    made: Instant,
    /// Milliseconds since `made` until which it gets no requests; 0 for none.
    quarantine: AtomicU64,
    pub(super) connections: Pool<Connection>,
    /// Those of plain requests.
    pub(super) links: Pool<Link>,
    /// Those that requests share.
    pub(super) shared: Pool<Mux>,
    pools: Arc<Pools>,
    pub(super) listed: Listed,
}

/// So many connections of the kind that requests share are kept: several only where they came at once.
const SHARED: usize = 2;

impl Upstream {
    pub(super) fn new(
        backend: Backend,
        app: AppId,
        pools: &Arc<Pools>,
        drained: &Arc<Notify>,
        gate: &Arc<Gate>,
    ) -> Self {
        // The app's id isn't known outside, so the token says nothing about the inside.
        let token =
            Digest::of(format!("{app} {} {}", backend.instance, backend.address)).hex()[..32].to_owned();
        Self {
            backend,
            token,
            gate: Arc::clone(gate),
            in_flight: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            drained: Arc::clone(drained),
            close_tunnels: CancellationToken::new(),
            made: Instant::now(),
            quarantine: AtomicU64::new(0),
            connections: Pool::new(pools.each, pools),
            links: Pool::new(pools.each, pools),
            shared: Pool::new(SHARED.min(pools.each), pools),
            pools: Arc::clone(pools),
            listed: Listed::default(),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// It gets no new requests; its idle connections are closed.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.connections.close();
        self.links.close();
        self.shared.close();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    /// It refused a connection: others are tried first for a while.
    pub(super) fn quarantine(&self, now: Instant, time: Duration) {
        let until = (now + time).duration_since(self.made).as_millis();
        self.quarantine.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// It accepts connections.
    pub(super) fn trust(&self) {
        if self.quarantine.load(Ordering::Relaxed) != 0 {
            self.quarantine.store(0, Ordering::Relaxed);
        }
    }

    /// How long it gets no requests yet, if it refused a connection a moment ago.
    pub(super) fn quarantined_for(&self, now: Instant) -> Option<Duration> {
        let until = self.quarantine.load(Ordering::Relaxed);
        if until == 0 {
            return None;
        }
        let left = (self.made + Duration::from_millis(until)).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Keeps a connection for the next request, where there is room.
    pub(super) fn keep<W: Way>(self: &Arc<Self>, connection: W) {
        if W::pool(self).put(connection) {
            self.pools.rests(self);
        }
    }

    /// Whether it has idle connections.
    pub(super) fn is_resting(&self) -> bool {
        !(self.connections.is_empty() && self.links.is_empty() && self.shared.is_empty())
    }

    /// Closes all idle connections.
    pub(super) fn shed(&self) {
        self.connections.shed();
        self.links.shed();
        self.shared.shed();
    }

    /// Closes the connections that have been idle for too long.
    pub(super) fn reap(&self, now: Instant) {
        self.connections.reap(now);
        self.links.reap(now);
        self.shared.reap(now);
    }

    /// Which share of requests it bears now, for one that takes so long until it bears all of its own.
    pub(super) fn share(&self, now: Instant, slow_start: Duration) -> f64 {
        let age = now.saturating_duration_since(self.made);
        (age.as_secs_f64() / slow_start.as_secs_f64()).clamp(0.01, 1.0)
    }
}

/// Where requests of an app wait, if they have to.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Somebody may be waiting for a request that ends.
    pub(super) limits: AtomicBool,
    pub(super) freed: Notify,
    waiting: AtomicUsize,
}

impl Gate {
    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A place among those who wait, where there are fewer than this.
    pub(super) fn enter(self: &Arc<Self>, most: usize) -> Option<Place> {
        let more = |waiting: usize| (waiting < most).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Place(Arc::clone(self)))
    }
}

/// One of those who wait.
#[derive(Debug)]
pub(super) struct Place(Arc<Gate>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One request's, or one tunnel's, hold on a backend: in flight until it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) upstream: Arc<Upstream>,
}

impl Claim {
    /// Only under the routing lock.
    pub(super) fn new(upstream: &Arc<Upstream>) -> Self {
        upstream.in_flight.fetch_add(1, Ordering::SeqCst);
        Self { upstream: Arc::clone(upstream) }
    }

    /// The same, where fewer than this are in flight.
    pub(super) fn within(upstream: &Arc<Upstream>, most: usize) -> Option<Self> {
        let more = |count: usize| (count < most).then_some(count + 1);
        upstream.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        Some(Self { upstream: Arc::clone(upstream) })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let last = self.upstream.in_flight.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.upstream.is_retired() {
            self.upstream.drained.notify_waiters();
        }
        if self.upstream.gate.limits.load(Ordering::Relaxed) {
            self.upstream.gate.freed.notify_one();
        }
    }
}
