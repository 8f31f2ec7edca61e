//! Until when the routes hold: a proxy that follows a store must not use them longer than its lease.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// For ever.
const ALWAYS: u64 = u64::MAX;

/// Asked for every request, so it takes no lock.
#[derive(Debug)]
pub(super) struct Trust {
    epoch: Instant,
    /// Microseconds after the epoch.
    until: AtomicU64,
    changed: Notify,
}

impl Default for Trust {
    fn default() -> Self {
        Self { epoch: Instant::now(), until: AtomicU64::new(ALWAYS), changed: Notify::new() }
    }
}

impl Trust {
    pub(super) fn set(&self, until: Option<Instant>) {
        let micros = |until: Instant| {
            let after = until.saturating_duration_since(self.epoch).as_micros();
            u64::try_from(after).unwrap_or(ALWAYS - 1)
        };
        self.until.store(until.map_or(ALWAYS, micros), Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Whether the routes hold now.
    pub(super) fn holds(&self, now: Instant) -> bool {
        match self.until.load(Ordering::SeqCst) {
            ALWAYS => true,
            until => now.saturating_duration_since(self.epoch) < Duration::from_micros(until),
        }
    }

    /// Waits until they hold again, for at most this long; whether they do.
    pub(super) async fn regained(&self, patience: Duration) -> bool {
        let regained = async {
            loop {
                // Listening before looking: what happens in between isn't missed.
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                if self.holds(Instant::now()) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(patience, regained).await.is_ok()
    }
}
