//! One backend: what is in flight at it, whether it answers, and its idle connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use paas_core::Backend;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::plain::Link;
use super::pool::Pool;
use super::upstream::Connection;

/// One backend of one app.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) backend: Backend,
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
}

impl Upstream {
    pub(super) fn new(backend: Backend, pool_size: usize, drained: &Arc<Notify>) -> Self {
        Self {
            backend,
            in_flight: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            drained: Arc::clone(drained),
            close_tunnels: CancellationToken::new(),
            made: Instant::now(),
            quarantine: AtomicU64::new(0),
            connections: Pool::new(pool_size),
            links: Pool::new(pool_size),
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

    /// Closes the connections that have been idle for too long.
    pub(super) fn reap(&self, now: Instant) {
        self.connections.reap(now);
        self.links.reap(now);
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
}

impl Drop for Claim {
    fn drop(&mut self) {
        let last = self.upstream.in_flight.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.upstream.is_retired() {
            self.upstream.drained.notify_waiters();
        }
    }
}
