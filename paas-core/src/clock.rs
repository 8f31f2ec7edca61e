//! Time is injected, so that tests own it.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustix::time::{ClockId, clock_gettime};

/// Tells what time it is. Waiting is done with `tokio::time`, never with a clock.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> DateTime<Utc>;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clock.
    pub fn new() -> Self {
        Self
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that asks the machine")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// The machine's time when this clock was made, and what has passed since. It counts what the machine slept, and doesn't
/// jump when somebody sets the machine's clock: leases, pauses and what is kept for a time go by it. Until the program is
/// started again it tells another time than the machine's clock then does.
#[derive(Debug, Clone, Copy)]
pub struct SteadyClock {
    start: DateTime<Utc>,
    booted: Duration,
}

impl SteadyClock {
    /// Tells the machine's time from now on.
    pub fn new() -> Self {
        Self { start: SystemClock::new().now(), booted: since_boot() }
    }
}

impl Default for SteadyClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> DateTime<Utc> {
        self.start + since_boot().saturating_sub(self.booted)
    }
}

fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    // It never goes back and begins at 0, so neither part is negative.
    let passed = clock_gettime(clock);
    Duration::new(passed.tv_sec.unsigned_abs(), u32::try_from(passed.tv_nsec).unwrap_or_default())
}
