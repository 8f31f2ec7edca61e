//! Request ids: random enough to be unique, without asking the system for each.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::{Builder, Uuid};

static COUNT: AtomicU64 = AtomicU64::new(0);
static SEED: OnceLock<(u64, u64)> = OnceLock::new();

/// The length of an id's text.
pub(super) const LENGTH: usize = uuid::fmt::Hyphenated::LENGTH;

/// A new id as a UUID of version 4: two random numbers drawn at the start, and a count mixed with them. An id is for
/// finding a request in a log; it guards nothing.
pub(super) fn next(text: &mut [u8; LENGTH]) -> &str {
    let (high, low) = *SEED.get_or_init(|| Uuid::new_v4().as_u64_pair());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let bits = (u128::from(mix(high ^ count)) << 64) | u128::from(mix(low.wrapping_add(count)));
    Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().as_hyphenated().encode_lower(text)
}

/// The finalizer of `SplitMix64`: a bijection, so that different counts never meet.
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
