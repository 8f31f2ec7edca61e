//! Where an answer's body ends.

/// How a body is framed, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    Chunks(Chunks),
    /// Everything until the app closes the connection.
    Rest,
}

/// What came of a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// How many of the bytes belong to it.
    pub(super) bytes: usize,
    /// How many of those are content.
    pub(super) content: u64,
}

/// The chunks are not what they should be.
#[derive(Debug)]
pub(super) struct Malformed;

impl Framing {
    /// Takes what of these bytes is of the body.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<Passed, Malformed> {
        match self {
            Self::Length(left) => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= take as u64;
                Ok(Passed { bytes: take, content: take as u64 })
            }
            Self::Chunks(chunks) => chunks.pass(bytes),
            Self::Rest => Ok(Passed { bytes: bytes.len(), content: bytes.len() as u64 }),
        }
    }

    /// Whether nothing more can come.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunks(chunks) => chunks.at == At::End,
            Self::Rest => false,
        }
    }
}

/// Reads chunks as RFC 9112 section 7.1 has them, byte for byte as they are passed on.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    /// Of the chunk at hand.
    left: u64,
    digits: u8,
    /// Of the line at hand, or of all trailers.
    line: usize,
    /// The line has something in it.
    filled: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    /// After the size, up to the end of its line.
    Extension,
    SizeEnd,
    Content,
    ContentReturn,
    ContentEnd,
    Trailer,
    TrailerEnd,
    End,
}

/// The longest extension, and the longest trailers.
const LINE: usize = 16 * 1024;

impl Chunks {
    fn pass(&mut self, bytes: &[u8]) -> Result<Passed, Malformed> {
        let mut passed = Passed::default();
        while let Some(byte) = bytes.get(passed.bytes)
            && self.at != At::End
        {
            if self.at == At::Content {
                let rest = bytes.len() - passed.bytes;
                let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest);
                passed.bytes += take;
                passed.content += take as u64;
                self.left -= take as u64;
                if self.left == 0 {
                    self.at = At::ContentReturn;
                }
                continue;
            }
            self.at = self.step(*byte)?;
            passed.bytes += 1;
        }
        Ok(passed)
    }

    fn step(&mut self, byte: u8) -> Result<At, Malformed> {
        match (self.at, byte) {
            (At::Size, byte) if byte.is_ascii_hexdigit() && self.digits < 15 => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.left = self.left * 16 + u64::from(digit);
                self.digits += 1;
                Ok(At::Size)
            }
            (At::Size, b'\r') if self.digits > 0 => Ok(At::SizeEnd),
            (At::Size, b';' | b' ' | b'\t') if self.digits > 0 => {
                self.line = 0;
                Ok(At::Extension)
            }
            (At::Extension, b'\r') => Ok(At::SizeEnd),
            (At::Extension, byte) if byte != b'\n' => self.within(At::Extension),
            (At::SizeEnd, b'\n') => {
                self.digits = 0;
                self.line = 0;
                self.filled = false;
                Ok(if self.left == 0 { At::Trailer } else { At::Content })
            }
            (At::ContentReturn, b'\r') => Ok(At::ContentEnd),
            (At::ContentEnd, b'\n') => Ok(At::Size),
            (At::Trailer, b'\r') => Ok(At::TrailerEnd),
            (At::Trailer, byte) if byte != b'\n' => {
                self.filled = true;
                self.within(At::Trailer)
            }
            (At::TrailerEnd, b'\n') if self.filled => {
                self.filled = false;
                Ok(At::Trailer)
            }
            (At::TrailerEnd, b'\n') => Ok(At::End),
            _ => Err(Malformed),
        }
    }

    fn within(&mut self, at: At) -> Result<At, Malformed> {
        self.line += 1;
        if self.line > LINE { Err(Malformed) } else { Ok(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(bytes: &[u8]) -> Option<(usize, u64)> {
        let mut framing = Framing::Chunks(Chunks::default());
        let passed = framing.pass(bytes).ok()?;
        framing.is_done().then_some((passed.bytes, passed.content))
    }

    #[test]
    fn chunks_end_where_they_say() {
        assert_eq!(chunks(b"0\r\n\r\n"), Some((5, 0)));
        assert_eq!(chunks(b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1"), Some((15, 5)));
        assert_eq!(chunks(b"00A;a=b\r\n0123456789\r\n0\r\nX: 1\r\nY: 2\r\n\r\n"), Some((38, 10)));
        assert_eq!(chunks(b"5  \r\nhello\r\n0\r\n\r\n").map(|(_, content)| content), Some(5));
    }

    #[test]
    fn chunks_that_can_be_read_in_two_ways_are_none() {
        for bytes in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"0\r\nX: 1\n\r\n",
            b"1000000000000000\r\n",
        ] {
            assert!(Framing::Chunks(Chunks::default()).pass(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn chunks_are_read_alike_however_they_come() {
        let bytes = b"5;x\r\nhello\r\n3\r\nyou\r\n0\r\nX: 1\r\n\r\n";
        for cut in 0..bytes.len() {
            let mut framing = Framing::Chunks(Chunks::default());
            let first = framing.pass(&bytes[..cut]).unwrap();
            assert_eq!((first.bytes, framing.is_done()), (cut, false));
            let second = framing.pass(&bytes[cut..]).unwrap();
            assert_eq!(first.content + second.content, 8);
            assert!(framing.is_done());
        }
    }
}
