//! Where the frames of a WebSocket begin and end (RFC 6455, section 5.2), so that a word of ours falls between two of
//! them; and that word.

/// What a server says that goes away: a close frame with status 1001 (section 7.4.1).
pub(super) const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xE9];

/// The same as a client says it: masked (section 5.3).
pub(super) fn going_away_masked(key: [u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = key;
    [0x88, 0x82, a, b, c, d, 0x03 ^ a, 0xE9 ^ b]
}

const CLOSE: u8 = 0x8;

/// Follows one direction's frames, whatever pieces they come in.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// What came of the frame's head, less its mask, which counts as payload here.
    head: [u8; 10],
    /// How much of it came; 0 between two frames.
    have: usize,
    /// How much payload is to come.
    left: u64,
    closed: bool,
}

impl Frames {
    /// Whether all that passed were whole frames.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0
    }

    /// Whether a close frame has passed: nothing follows it.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes all of this.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.advance(bytes)..];
        }
    }

    /// How much of this belongs to a frame that has begun, and takes that.
    pub(super) fn finish(&mut self, bytes: &[u8]) -> usize {
        if self.is_between() { 0 } else { self.advance(bytes) }
    }

    /// Takes what is there of one frame, and says how much that is.
    fn advance(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while self.left == 0 {
            let Some(byte) = bytes.get(used) else { return used };
            self.head[self.have] = *byte;
            self.have += 1;
            used += 1;
            if self.have == self.head_length() {
                self.left = self.payload_length();
                if self.left == 0 {
                    self.end();
                    return used;
                }
            }
        }
        let rest = bytes.len() - used;
        let taken = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
        self.left -= taken as u64;
        if self.left == 0 {
            self.end();
        }
        used + taken
    }

    fn end(&mut self) {
        self.closed |= self.head[0] & 0x0F == CLOSE;
        self.have = 0;
    }

    fn head_length(&self) -> usize {
        match self.head[1] & 0x7F {
            _ if self.have < 2 => 2,
            126 => 4,
            127 => 10,
            _ => 2,
        }
    }

    fn payload_length(&self) -> u64 {
        let [_, second, long @ ..] = self.head;
        let [high, low, ..] = long;
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let length = match second & 0x7F {
            126 => u64::from(u16::from_be_bytes([high, low])),
            127 => u64::from_be_bytes(long),
            short => u64::from(short),
        };
        length.saturating_add(mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame of this opcode and so much payload, its length written in so many bytes.
    fn frame(opcode: u8, payload: usize, width: usize) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match width {
            0 => frame.push(0x80 | u8::try_from(payload).unwrap()),
            2 => {
                frame.push(0xFE);
                frame.extend(u16::try_from(payload).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(0xFF);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        // Bytes that would be heads, if anybody took them for that.
        frame.extend((0..payload).map(|at| [0x88, 0xFF, 0x00][at % 3]));
        frame
    }

    #[test]
    fn frames_end_where_they_end_in_whatever_pieces_they_come() {
        let frames =
            [frame(1, 0, 0), frame(2, 125, 0), frame(0, 126, 2), frame(2, 70_000, 8), GOING_AWAY.into()];
        let whole = frames.concat();
        let ends: Vec<usize> = frames
            .iter()
            .scan(0, |at, frame| {
                *at += frame.len();
                Some(*at)
            })
            .collect();
        for piece in [1, 2, 3, 7, 1000, 100_000] {
            let (mut seen, mut at) = (Frames::default(), 0);
            for bytes in whole.chunks(piece) {
                seen.pass(bytes);
                at += bytes.len();
                assert_eq!(seen.is_between(), ends.contains(&at), "after {at} bytes in pieces of {piece}");
                assert_eq!(seen.is_closed(), at == whole.len(), "after {at} bytes in pieces of {piece}");
            }
        }
    }

    #[test]
    fn what_has_begun_is_finished_and_nothing_after_it() {
        let (first, second) = (frame(1, 300, 2), frame(1, 5, 0));
        let both = [first.clone(), second].concat();
        let mut seen = Frames::default();
        assert_eq!(seen.finish(&both), 0, "between two frames is a place");
        seen.pass(&both[..3]);
        assert_eq!(seen.finish(&both[3..]), first.len() - 3);
        assert!(seen.is_between());
    }

    #[test]
    fn a_length_that_is_too_long_to_be_true_is_no_fault_of_ours() {
        let mut seen = Frames::default();
        seen.pass(&[0x82, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3]);
        assert!(!seen.is_between());
    }

    #[test]
    fn a_client_that_goes_away_says_what_a_server_says_under_its_mask() {
        let key = [7, 200, 33, 4];
        let masked = going_away_masked(key);
        assert_eq!((masked[0], masked[1]), (GOING_AWAY[0], 0x80 | GOING_AWAY[1]));
        assert_eq!([masked[6] ^ key[0], masked[7] ^ key[1]], GOING_AWAY[2..]);
    }
}
