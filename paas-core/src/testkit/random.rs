//! Numbers from a seed, and the seeds that a test runs with.

use std::ops::Range;
use std::time::Duration;

/// `SplitMix64`: a few lines that give the same numbers everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn index(&mut self, range: Range<usize>) -> usize {
        range.start + usize::try_from(self.below(range.len() as u64)).unwrap_or_default()
    }

    pub(crate) fn chance(&mut self) -> bool {
        self.below(2) == 0
    }

    pub(crate) fn time(&mut self, most: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(most.as_micros()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.index(0..from.len())].clone()
    }
}

/// The seeds for a test: the one that `PAAS_SEED` names, else as many as `PAAS_ROUNDS` says, else so many. They begin with
/// `PAAS_FIRST_SEED`, or 0.
///
/// # Panics
/// When one of them is no number.
pub fn seeds(rounds: u64) -> Range<u64> {
    let number = |name: &str| -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
    };
    if let Some(seed) = number("PAAS_SEED") {
        return seed..seed + 1;
    }
    let first = number("PAAS_FIRST_SEED").unwrap_or(0);
    first..first + number("PAAS_ROUNDS").unwrap_or(rounds)
}
