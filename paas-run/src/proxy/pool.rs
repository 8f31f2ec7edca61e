//! Idle connections of one kind to one backend.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::pools::Pools;

/// What a pool knows of a connection.
pub(super) trait Pooled {
    fn age(&self) -> &Age;

    /// Whether the backend hasn't closed it, as far as one can see.
    fn is_alive(&mut self) -> bool;
}

/// When a connection was used last, and for how long after that it may be used again.
#[derive(Debug)]
pub(super) struct Age {
    used: Instant,
    keep: Duration,
    /// It has carried a request before, so the backend may be closing it right now.
    pub(super) reused: bool,
}

impl Age {
    pub(super) fn new(keep: Duration) -> Self {
        Self { used: Instant::now(), keep, reused: false }
    }

    /// Marks it as used until now.
    pub(super) fn rest(&mut self, now: Instant) {
        self.used = now;
        self.reused = true;
    }

    /// The backend says for how many seconds it keeps its side of an idle connection.
    pub(super) fn keep_at_most(&mut self, seconds: u64) {
        let time = Duration::from_secs(seconds);
        self.keep = self.keep.min(time.saturating_sub(Duration::from_secs(1).min(time / 2)));
    }

    /// Whether it hasn't been idle for so long that the backend may be about to close it.
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) < self.keep
    }
}

#[derive(Debug)]
pub(super) struct Pool<T> {
    all: Arc<Pools>,
    kept: Mutex<Idle<T>>,
}

#[derive(Debug)]
struct Idle<T> {
    /// The one that was used last is taken first, so that the others grow old and go.
    idle: VecDeque<T>,
    /// How many may be idle; 0 once closed.
    room: usize,
}

impl<T: Pooled> Pool<T> {
    pub(super) fn new(room: usize, all: &Arc<Pools>) -> Self {
        Self { all: Arc::clone(all), kept: Mutex::new(Idle { idle: VecDeque::new(), room }) }
    }

    /// A connection that is still good.
    pub(super) fn take(&self, now: Instant) -> Option<T> {
        loop {
            let mut connection = self.lock().idle.pop_back()?;
            self.all.leave(1);
            if connection.age().is_fresh(now) && connection.is_alive() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request, where there is room; whether there was.
    pub(super) fn put(&self, connection: T) -> bool {
        let mut pool = self.lock();
        let kept = pool.idle.len() < pool.room && self.all.enter();
        if kept {
            pool.idle.push_back(connection);
        }
        kept
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().idle.is_empty()
    }

    /// Closes the connections that have been idle for too long.
    pub(super) fn reap(&self, now: Instant) {
        let mut pool = self.lock();
        let old = pool.idle.iter().take_while(|connection| !connection.age().is_fresh(now)).count();
        let old: Vec<T> = pool.idle.drain(..old).collect();
        // Sockets are closed without the lock.
        drop(pool);
        self.all.leave(old.len());
    }

    /// Closes all connections.
    pub(super) fn shed(&self) {
        let idle = std::mem::take(&mut self.lock().idle);
        self.all.leave(idle.len());
    }

    /// Keeps none any more.
    pub(super) fn close(&self) {
        self.lock().room = 0;
        self.shed();
    }

    fn lock(&self) -> MutexGuard<'_, Idle<T>> {
        // A panic under this lock leaves the pool whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
