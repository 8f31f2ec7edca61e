//! A clock of one's own.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::Clock;

/// A clock that stands until it is set, or follows tokio's time. Share it in an `Arc`.
#[derive(Debug)]
pub struct ManualClock(Mutex<Hands>);

#[derive(Debug)]
struct Hands {
    shown: DateTime<Utc>,
    follows_since: Option<Instant>,
}

impl Hands {
    /// In whole milliseconds while it follows: stores that are told each change of the time are told few.
    fn now(&self) -> DateTime<Utc> {
        let passed = self.follows_since.map_or(0, |since| since.elapsed().as_millis());
        self.shown + Duration::from_millis(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    fn set(&mut self, now: DateTime<Utc>) {
        self.shown = now;
        self.follows_since = self.follows_since.map(|_| Instant::now());
    }
}

impl ManualClock {
    /// A clock that shows this time.
    pub fn new(now: DateTime<Utc>) -> Self {
        Self(Mutex::new(Hands { shown: now, follows_since: None }))
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets it, backwards too.
    pub fn set(&self, now: DateTime<Utc>) {
        self.hands().set(now);
    }

    /// Moves it forward.
    pub fn advance(&self, by: Duration) {
        let mut hands = self.hands();
        let now = hands.now() + by;
        hands.set(now);
    }

    /// Follows tokio's time from now on, a paused one too.
    pub fn follow(&self) {
        let mut hands = self.hands();
        let now = hands.now();
        *hands = Hands { shown: now, follows_since: Some(Instant::now()) };
    }

    /// Stands again.
    pub fn stand(&self) {
        let mut hands = self.hands();
        let now = hands.now();
        *hands = Hands { shown: now, follows_since: None };
    }
}

impl Default for ManualClock {
    /// A clock that shows the first second of 2026, the same for every test.
    fn default() -> Self {
        Self::new(DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default())
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        self.hands().now()
    }
}
