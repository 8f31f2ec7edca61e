//! What the pools of all backends share: how many connections may be idle, and who has any.
//!
//! Of a hundred thousand backends most have none, so only those are looked at that were given one since.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::backend::Upstream;
use super::config::ProxyConfig;

/// How often idle connections are looked at that nobody asks for any more.
const REAP: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Pools {
    /// How many connections of one backend may be idle.
    pub(super) each: usize,
    /// How many of all together.
    all: usize,
    idle: AtomicUsize,
    /// Those with idle connections, and a few that have none any more.
    resting: Mutex<Vec<Weak<Upstream>>>,
    reaper: Once,
}

/// Whether a backend is among the [`Pools`]' resting ones.
#[derive(Debug, Default)]
pub(super) struct Listed(AtomicBool);

impl Pools {
    pub(super) fn new(config: &ProxyConfig) -> Self {
        Self {
            each: config.pool_size,
            all: config.pool_total,
            idle: AtomicUsize::new(0),
            resting: Mutex::default(),
            reaper: Once::new(),
        }
    }

    /// Takes room for one more idle connection, where there is any.
    pub(super) fn enter(&self) -> bool {
        let before = self.idle.fetch_add(1, Ordering::Relaxed);
        if before >= self.all {
            self.leave(1);
        }
        before < self.all
    }

    /// So many aren't idle any more.
    pub(super) fn leave(&self, count: usize) {
        self.idle.fetch_sub(count, Ordering::Relaxed);
    }

    /// A backend has idle connections now.
    pub(super) fn rests(&self, upstream: &Arc<Upstream>) {
        let listed = &upstream.listed.0;
        if !listed.load(Ordering::SeqCst) && !listed.swap(true, Ordering::SeqCst) {
            self.resting().push(Arc::downgrade(upstream));
        }
    }

    /// Lets each close connections, and forgets those that have none any more.
    fn visit(&self, close: impl Fn(&Upstream)) {
        let upstreams = std::mem::take(&mut *self.resting());
        for upstream in upstreams.iter().filter_map(Weak::upgrade) {
            // Whoever gives it another one from here on lists it again.
            upstream.listed.0.store(false, Ordering::SeqCst);
            close(&upstream);
            if upstream.is_resting() {
                self.rests(&upstream);
            }
        }
    }

    /// Closes all idle connections: files or ports have run out, and these are what can be spared.
    pub(super) fn shed(&self) {
        self.visit(Upstream::shed);
    }

    /// From now on, closes what has been idle for too long. Ends with the proxy.
    pub(super) fn keep_reaping(self: &Arc<Self>) {
        self.reaper.call_once(|| {
            let pools = Arc::downgrade(self);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(REAP).await;
                    let Some(pools) = pools.upgrade() else { return };
                    let now = Instant::now();
                    pools.visit(|upstream| upstream.reap(now));
                }
            });
        });
    }

    fn resting(&self) -> MutexGuard<'_, Vec<Weak<Upstream>>> {
        // A panic under this lock leaves the list whole.
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
