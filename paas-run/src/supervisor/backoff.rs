//! When a process that ended is started again.

use std::time::Duration;

/// At once the first time, then after pauses that double. Defaults are Heroku's documented figures: 10 minutes,
/// 20, 40, … up to 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    /// The pause after the second crash in a row.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// Whoever was up for this long starts anew with a restart at once.
    pub steady: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        let first = Duration::from_secs(10 * 60);
        Self { first, longest: Duration::from_secs(24 * 3600), steady: first }
    }
}

impl Backoff {
    /// With this pause after the second crash in a row, doubled after each more up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, ..Self::default() }
    }

    /// The pause after so many crashes in a row.
    pub fn pause(&self, crashes: u32) -> Duration {
        match crashes {
            0 | 1 => Duration::ZERO,
            more => {
                self.first.saturating_mul(1_u32.checked_shl(more - 2).unwrap_or(u32::MAX)).min(self.longest)
            }
        }
    }

    /// How many crashes in a row it is now, if it was up for so long before this one.
    pub fn count(&self, crashes: u32, up: Duration) -> u32 {
        if up >= self.steady { 1 } else { crashes.saturating_add(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_pauses_double_up_to_a_day() {
        let backoff = Backoff::default();
        let minutes: Vec<u64> = [1, 2, 3, 4, 9, 10, 33, 34, u32::MAX]
            .into_iter()
            .map(|crashes| backoff.pause(crashes).as_secs() / 60)
            .collect();
        assert_eq!(minutes, [0, 10, 20, 40, 1280, 1440, 1440, 1440, 1440]);
    }

    #[test]
    fn who_was_up_for_long_is_restarted_at_once_again() {
        let backoff = Backoff::default();
        assert_eq!(backoff.count(7, Duration::from_secs(5)), 8);
        assert_eq!(backoff.count(7, Duration::from_secs(3600)), 1);
    }
}
