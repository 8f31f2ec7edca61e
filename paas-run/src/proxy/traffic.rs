//! What went through: per app, counted without a lock, to be read by people, by `metrics` and by whoever scales.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;

/// Each doubling of a time is cut into so many buckets: a time is known to an eighth.
const PARTS: u64 = 8;
/// From a microsecond to more than an hour.
const BUCKETS: usize = 32 * 8;

/// Counters of one app.
#[derive(Debug)]
pub(super) struct Counters {
    classes: [AtomicU64; 5],
    bytes: AtomicU64,
    micros: AtomicU64,
    durations: Box<[AtomicU64]>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            classes: Default::default(),
            bytes: AtomicU64::new(0),
            micros: AtomicU64::new(0),
            durations: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Counters {
    pub(super) fn count(&self, status: Option<StatusCode>, took: Duration, bytes: u64) {
        let class = status.map_or(5, |status| status.as_u16() / 100).clamp(1, 5);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.classes[usize::from(class) - 1].fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.durations[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, in_flight: u64, waiting: u64) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            classes: self.classes.each_ref().map(read),
            bytes: read(&self.bytes),
            in_flight,
            waiting,
            micros: read(&self.micros),
            durations: self.durations.iter().map(read).collect(),
        }
    }
}

/// The bucket of a time in microseconds.
fn bucket(micros: u64) -> usize {
    let micros = micros.max(1);
    let doublings = u64::from(micros.ilog2());
    // The bits below the first one tell the part.
    let part = if doublings >= 3 { (micros >> (doublings - 3)) & 7 } else { (micros << (3 - doublings)) & 7 };
    usize::try_from(doublings * PARTS + part).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

/// The first time in microseconds that is beyond this bucket.
fn end(bucket: usize) -> u64 {
    let (doublings, part) = (bucket as u64 / PARTS, bucket as u64 % PARTS);
    ((PARTS + part + 1) << doublings).div_ceil(PARTS)
}

/// An app's requests since the proxy began, as this proxy saw them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// How many were answered with a status of 1xx (tunnels), 2xx, 3xx, 4xx and 5xx.
    pub classes: [u64; 5],
    /// How many bytes the bodies had that the app answered with.
    pub bytes: u64,
    /// How many are being answered now.
    pub in_flight: u64,
    /// How many wait now until the app takes them: it boots, is paused, or has as many as it takes.
    pub waiting: u64,
    pub(super) micros: u64,
    durations: Vec<u64>,
}

impl Traffic {
    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// What came after `before`: two readings a minute apart tell of that minute.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut classes = self.classes;
        for (class, before) in classes.iter_mut().zip(before.classes) {
            *class = class.saturating_sub(before);
        }
        let durations = self.durations.iter().zip(&before.durations);
        Self {
            classes,
            bytes: self.bytes.saturating_sub(before.bytes),
            in_flight: self.in_flight,
            waiting: self.waiting,
            micros: self.micros.saturating_sub(before.micros),
            durations: durations.map(|(now, before)| now.saturating_sub(*before)).collect(),
        }
    }

    /// The time within which this share of the requests was answered, 0.95 for p95, from their heads to their last byte;
    /// up to an eighth too long. `None` where there were none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let all = self.timed();
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank need not be exact beyond 2^52 requests"
        )]
        let rank = ((all as f64 * share.clamp(0.0, 1.0)).ceil() as u64).clamp(1, all.max(1));
        let mut seen = 0;
        let found = self.durations.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map(|bucket| Duration::from_micros(end(bucket)))
    }

    /// Both together: of proxies that serve the same apps.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let mut classes = self.classes;
        for (class, other) in classes.iter_mut().zip(other.classes) {
            *class += other;
        }
        Self {
            classes,
            bytes: self.bytes + other.bytes,
            in_flight: self.in_flight + other.in_flight,
            waiting: self.waiting + other.waiting,
            micros: self.micros + other.micros,
            durations: self.durations.iter().zip(&other.durations).map(|(one, other)| one + other).collect(),
        }
    }

    /// How many there were by the time that they took, in all.
    pub(super) fn timed(&self) -> u64 {
        self.durations.iter().sum()
    }

    /// How many took no longer than this.
    pub(super) fn within(&self, micros: u64) -> u64 {
        self.durations
            .iter()
            .enumerate()
            .filter(|(bucket, _)| end(*bucket) <= micros)
            .map(|(_, count)| count)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_before_the_end_of_its_bucket_and_near_it() {
        for micros in (1..5_000).chain([10_000, 123_456, 30_000_000, 3_000_000_000]) {
            let end = end(bucket(micros));
            assert!(micros <= end && end <= micros + micros / 8 + 1, "{micros} ends at {end}");
            assert!(bucket(micros) <= bucket(micros + 1), "{micros}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_what_was_counted_and_a_difference_tells_of_the_time_between() {
        let counters = Counters::default();
        for millis in 1..=100 {
            counters.count(Some(StatusCode::OK), Duration::from_millis(millis), 10);
        }
        let first = counters.read(0, 0);
        assert_eq!((first.requests(), first.bytes), (100, 1000));
        let near = |found: Option<Duration>, millis: u64| {
            let found = found.expect("there were requests");
            let (least, most) =
                (Duration::from_millis(millis), Duration::from_millis(millis + millis / 8 + 1));
            assert!(least <= found && found <= most, "{found:?} for {millis} ms");
        };
        near(first.quantile(0.5), 50);
        near(first.quantile(0.95), 95);
        counters.count(None, Duration::from_secs(2), 0);
        let later = counters.read(0, 0).since(&first);
        assert_eq!((later.requests(), later.classes), (1, [0, 0, 0, 0, 1]));
        near(later.quantile(0.5), 2000);
        assert_eq!(later.since(&later).quantile(0.5), None);
        assert_eq!(first.with(&later), counters.read(0, 0));
    }
}
