//! Chance that can be had again.

use std::time::Duration;

/// Small numbers that look random: the same ones for the same seed.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// By `PAAS_SEED`, or a seed that is printed.
    pub(crate) fn new() -> Self {
        let seed = std::env::var("PAAS_SEED").ok().map(|seed| seed.parse().expect("PAAS_SEED is a number"));
        let seed = seed.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
        eprintln!("PAAS_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, most: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half, which fits.
        u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap() % most
    }

    /// A moment of something that usually takes so long, or shortly after it.
    pub(crate) fn moment(&mut self, usual: Duration) -> Duration {
        usual * self.below(1300) / 1000
    }

    pub(crate) fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(u32::try_from(all.len()).unwrap()) as usize]
    }
}

/// How many rounds to play: `PAAS_ROUNDS`, or so many.
pub(crate) fn rounds(usual: u32) -> u32 {
    std::env::var("PAAS_ROUNDS").map_or(usual, |rounds| rounds.parse().expect("PAAS_ROUNDS is a number"))
}
