//! When a host's certificate is ordered next.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use paas_core::Digest;

/// After the first failure; each further one makes it four times as long.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// How soon and how late an authority is asked again when it wants a certificate renewed (RFC 9773 section 4.3.2).
const ASK: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(24 * 60 * 60));

/// When a certificate is renewed of which its authority says nothing: at two thirds of its life, since authorities change
/// how long that is. Up to a twentieth sooner, differently for each host, so that those which were made together aren't all
/// renewed together.
pub(super) fn renewal(host: &str, from: DateTime<Utc>, until: DateTime<Utc>) -> DateTime<Utc> {
    let life = until - from;
    from + life * 2 / 3 - life / 20 * part(host) / 256
}

/// The host's own moment in the time in which its authority wants it renewed (RFC 9773 section 4.2).
pub(super) fn within(host: &str, start: DateTime<Utc>, end: DateTime<Utc>) -> DateTime<Utc> {
    start + (end - start).max(TimeDelta::zero()) / 256 * part(host)
}

/// When it is tried again that failed so often. Up to a quarter later, so that those which failed together don't all come
/// again together.
pub(super) fn retry(host: &str, tries: u32, now: DateTime<Utc>) -> DateTime<Utc> {
    let pause = FIRST.saturating_mul(4_u32.saturating_pow(tries.saturating_sub(1))).min(LONGEST);
    let pause = TimeDelta::from_std(pause).unwrap_or(TimeDelta::days(1));
    now + pause + pause / 4 * part(host) / 256
}

/// When an authority is asked again that said so.
pub(super) fn ask(now: DateTime<Utc>, after: Duration) -> DateTime<Utc> {
    now + TimeDelta::from_std(after.clamp(ASK.0, ASK.1)).unwrap_or(TimeDelta::days(1))
}

/// Which of 256 parts is the host's.
fn part(host: &str) -> i32 {
    i32::from(u8::from_str_radix(&Digest::of(host).hex()[..2], 16).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 3] = ["a.example.com", "b.example.com", "c.example.com"];

    #[test]
    fn a_certificate_is_renewed_when_two_thirds_of_its_life_are_nearly_over_and_not_all_at_once() {
        let from = DateTime::UNIX_EPOCH;
        for days in [6, 45, 90, 398] {
            let until = from + TimeDelta::days(days);
            let next = HOSTS.map(|host| renewal(host, from, until));
            for next in next {
                let share = (next - from).as_seconds_f64() / (until - from).as_seconds_f64();
                assert!((0.61..=0.67).contains(&share), "{share}");
            }
            assert!(next[0] != next[1] && next[1] != next[2]);
        }
    }

    #[test]
    fn an_authority_that_names_a_time_gets_each_host_at_its_own_moment_of_it() {
        let start = DateTime::UNIX_EPOCH;
        let end = start + TimeDelta::days(2);
        let next = HOSTS.map(|host| within(host, start, end));
        assert!(next.iter().all(|next| (start..end).contains(next)));
        assert!(next[0] != next[1] && next[1] != next[2]);
        assert_eq!(within("a.example.com", end, start), end);
    }

    #[test]
    fn what_fails_is_tried_again_ever_more_rarely_up_to_once_a_day() {
        let now = DateTime::UNIX_EPOCH;
        let mut before = TimeDelta::zero();
        for tries in 1..=6 {
            let pause = retry("a.example.com", tries, now) - now;
            assert!(pause > before, "{pause}");
            before = pause;
        }
        for tries in 7..100 {
            assert!(retry("a.example.com", tries, now) - now <= TimeDelta::hours(30));
        }
    }
}
