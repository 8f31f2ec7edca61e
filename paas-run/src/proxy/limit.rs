//! How much one client may have: connections at a time, and requests in a time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use paas_core::Rate;
use tokio::time::Instant;

/// So many clients are known at once. A sweep forgets those whose buckets are full, and all where that makes little room: the
/// next one is far.
const KNOWN: usize = 100_000;

/// A client by its address: of IPv6 the network of 64 bits, which is one customer's.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        four @ IpAddr::V4(_) => four,
    }
}

/// A bucket for each client.
#[derive(Debug, Clone)]
pub(super) struct Buckets {
    rate: Rate,
    epoch: Instant,
    /// When each client's bucket is full again, in microseconds after the epoch.
    full: Arc<Mutex<HashMap<IpAddr, u64>>>,
}

impl Buckets {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, epoch: Instant::now(), full: Arc::default() }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one from the client's bucket; or after what time there is one again.
    pub(super) fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let now = u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX);
        let one = 1_000_000 / u64::from(self.rate.per_second.max(1));
        let all = one * u64::from(self.rate.burst.max(1));
        let mut full = locked(&self.full);
        if full.len() >= KNOWN {
            full.retain(|_, at| *at > now);
            if full.len() > KNOWN / 2 {
                full.clear();
            }
        }
        let at = full.entry(client(address)).or_insert(now);
        let then = (*at).max(now) + one;
        if then > now + all {
            return Err(Duration::from_micros(then - now - all));
        }
        *at = then;
        Ok(())
    }
}

/// How many connections each client has.
#[derive(Debug, Default)]
pub(super) struct Guests(Mutex<HashMap<IpAddr, usize>>);

impl Guests {
    /// One more, where it has fewer than this.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Guest> {
        let client = client(address);
        let mut guests = locked(&self.0);
        let count = guests.entry(client).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Guest { of: Arc::clone(self), client })
    }
}

/// One connection of a client, until it is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    of: Arc<Guests>,
    client: IpAddr,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = locked(&self.of.0);
        if let Some(count) = guests.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                guests.remove(&self.client);
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one step: a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_what_its_bucket_holds_and_then_what_flows_in() {
        let buckets = Buckets::new(Rate::per_second(10).burst(3));
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(buckets.take(one, now), Ok(()));
        }
        let wait = buckets.take(one, now).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?}");
        assert_eq!(buckets.take(other, now), Ok(()));
        assert_eq!(buckets.take(one, now + wait), Ok(()));
        assert!(buckets.take(one, now + wait).is_err());
        let later = now + Duration::from_secs(60);
        assert_eq!((0..9).filter(|_| buckets.take(one, later).is_ok()).count(), 3);
    }

    #[test]
    fn the_addresses_of_one_network_of_ipv6_are_one_client() {
        let buckets = Buckets::new(Rate::per_second(1));
        let now = Instant::now();
        assert!(buckets.take("2001:db8::1".parse().unwrap(), now).is_ok());
        assert!(buckets.take("2001:db8::2".parse().unwrap(), now).is_err());
        assert!(buckets.take("2001:db8:0:1::1".parse().unwrap(), now).is_ok());
    }

    #[test]
    fn a_connection_that_ends_makes_room_for_another() {
        let guests = Arc::new(Guests::default());
        let one = "192.0.2.1".parse().unwrap();
        let first = guests.admit(one, 2).unwrap();
        let _second = guests.admit(one, 2).unwrap();
        assert!(guests.admit(one, 2).is_none());
        assert!(guests.admit("192.0.2.2".parse().unwrap(), 2).is_some());
        drop(first);
        assert!(guests.admit(one, 2).is_some());
    }
}
