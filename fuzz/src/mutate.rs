//! Makes new inputs of known ones.
//!
//! Our own, since what there is for stable Rust either makes inputs from nothing (bolero's random engine, proptest) or
//! changes typed values (mutatis); formats of bytes need pieces of good inputs, put together wrongly.

/// A small generator whose whole state is its seed: a run can be repeated. (Steele, Lea, Flood: `SplitMix64`.)
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below this one; 0 below 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = end.max(1) as u64;
        usize::try_from(self.next() % end).unwrap_or_default()
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }

    fn byte(&mut self) -> u8 {
        // The lowest byte of what is left.
        self.next().to_le_bytes()[0]
    }
}

/// Bytes that parsers treat apart.
const SPECIAL: &[u8] = b"\0\n\r\t :;,.=-_/\\\"'{}[]#%&@\x01\x1b\x7f\x80\xc3\xff0159afAFzZ";

/// Inputs don't grow beyond this, in bytes.
const LARGEST: usize = 64 * 1024;

/// Changes an input in a few places. `others` are other inputs, `words` what the format is made of.
pub(crate) fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], words: &[&str], random: &mut Random) {
    for _ in 0..=random.below(5) {
        let at = random.below(input.len() + 1);
        let some = at..(at + 1 + random.below(16)).min(input.len());
        match random.below(10) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.byte(),
            2 if at < input.len() => input[at] = *random.pick(SPECIAL).unwrap_or(&0),
            3 => drop(input.splice(at..at, random.pick(SPECIAL).copied())),
            4 => drop(input.drain(some.start.min(some.end)..some.end)),
            5 => {
                // The same again, up to many times: lists, depths and limits.
                let piece = input[some.start.min(some.end)..some.end].to_vec();
                let times = 1 << random.below(10);
                input.splice(at..at, piece.repeat(times));
            }
            6 => {
                let piece = part(random.pick(others).map_or(&[][..], Vec::as_slice), random).to_vec();
                input.splice(at..at, piece);
            }
            7 => {
                let piece = part(random.pick(others).map_or(&[][..], Vec::as_slice), random).to_vec();
                let end = (at + piece.len()).min(input.len());
                input.splice(at..end, piece);
            }
            8 => digits(input, at, random),
            _ => {
                let word = random.pick(words).map_or(&[][..], |word| word.as_bytes());
                let end = if random.below(2) == 0 { at } else { (at + word.len()).min(input.len()) };
                input.splice(at..end, word.iter().copied());
            }
        }
        input.truncate(LARGEST);
    }
}

fn part<'a>(of: &'a [u8], random: &mut Random) -> &'a [u8] {
    let from = random.below(of.len());
    &of[from..from + random.below(of.len() - from + 1)]
}

/// Replaces the next number in the text by one at the edge of something.
fn digits(input: &mut Vec<u8>, from: usize, random: &mut Random) {
    const EDGES: &[&str] =
        &["0", "1", "-1", "00", "127", "255", "65535", "65536", "2147483648", "4294967296", "1e9"];
    const FAR: &[&str] =
        &["9223372036854775807", "18446744073709551615", "18446744073709551616", "0.1", "+5"];
    let Some(start) = input[from..].iter().position(u8::is_ascii_digit).map(|at| from + at) else { return };
    let end =
        input[start..].iter().position(|byte| !byte.is_ascii_digit()).map_or(input.len(), |n| start + n);
    let edges = if random.below(3) == 0 { FAR } else { EDGES };
    let edge = random.pick(edges).map_or(&[][..], |edge| edge.as_bytes());
    input.splice(start..end, edge.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs() {
        let inputs = |seed| {
            let mut random = Random::new(seed);
            let others = [b"web: node\n".to_vec(), b"worker: 12".to_vec()];
            let mut input = others[0].clone();
            (0..1000).for_each(|_| mutate(&mut input, &others, &["clock"], &mut random));
            input
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
    }

    #[test]
    fn inputs_stay_small_and_may_begin_with_nothing() {
        let mut random = Random::new(1);
        let mut input = Vec::new();
        for _ in 0..20_000 {
            mutate(&mut input, &[], &[], &mut random);
            assert!(input.len() <= LARGEST);
        }
    }
}
