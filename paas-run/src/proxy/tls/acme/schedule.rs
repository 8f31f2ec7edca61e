//! When a host's certificate is ordered next.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use paas_core::Digest;

/// After the first failure; each further one makes it four times as long.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How it stands with a host.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) until: Option<DateTime<Utc>>,
    pub(super) next: DateTime<Utc>,
    pub(super) under_way: bool,
    pub(super) failure: Option<String>,
    failures: u32,
}

impl Standing {
    /// It has none and wants one.
    pub(super) fn wanted(now: DateTime<Utc>) -> Self {
        Self { until: None, next: now, under_way: false, failure: None, failures: 0 }
    }

    /// It has one, which is renewed at two thirds of its life: authorities change how long that is. Up to a twentieth
    /// sooner, differently for each host, so that those which were made together aren't all renewed together.
    pub(super) fn has(host: &str, from: DateTime<Utc>, until: DateTime<Utc>) -> Self {
        let life = until - from;
        let next = from + life * 2 / 3 - life / 20 * part(host) / 256;
        Self { until: Some(until), next, under_way: false, failure: None, failures: 0 }
    }

    pub(super) fn failed(&mut self, now: DateTime<Utc>, host: &str, why: String) {
        let pause = FIRST.saturating_mul(4_u32.saturating_pow(self.failures)).min(LONGEST);
        let pause = TimeDelta::from_std(pause).unwrap_or(TimeDelta::days(1));
        // Up to a quarter longer, so that those which failed together don't all come again together.
        self.next = now + pause + pause / 4 * part(host) / 256;
        self.failures += 1;
        self.under_way = false;
        self.failure = Some(why);
    }
}

/// Which of 256 parts is the host's.
fn part(host: &str) -> i32 {
    i32::from(u8::from_str_radix(&Digest::of(host).hex()[..2], 16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_two_thirds_of_its_life_are_nearly_over_and_not_all_at_once() {
        let from = DateTime::UNIX_EPOCH;
        for days in [6, 45, 90, 398] {
            let until = from + TimeDelta::days(days);
            let hosts = ["a.example.com", "b.example.com", "c.example.com"];
            let next = hosts.map(|host| Standing::has(host, from, until).next);
            for next in next {
                let share = (next - from).as_seconds_f64() / (until - from).as_seconds_f64();
                assert!((0.61..=0.67).contains(&share), "{share}");
            }
            assert!(next[0] != next[1] && next[1] != next[2]);
        }
    }

    #[test]
    fn what_fails_is_tried_again_ever_more_rarely_up_to_once_a_day() {
        let now = DateTime::UNIX_EPOCH;
        let mut standing = Standing::wanted(now);
        let mut before = TimeDelta::zero();
        for _ in 0..6 {
            standing.failed(now, "a.example.com", "no".into());
            let pause = standing.next - now;
            assert!(pause > before, "{pause}");
            before = pause;
        }
        for _ in 0..100 {
            standing.failed(now, "a.example.com", "no".into());
            assert!(standing.next - now <= TimeDelta::hours(30), "{}", standing.next - now);
        }
    }
}
