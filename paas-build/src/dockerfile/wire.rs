//! As much of protocol buffers as BuildKit's few messages need: fields of numbers, texts and messages.

/// A field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Bytes(_) => 0,
        }
    }

    pub(super) fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) => &[],
        }
    }

    /// Texts of a build are what a stranger's program printed.
    pub(super) fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// The fields of a message with their numbers, up to the first that can't be read.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let key = number(&mut rest)?;
        let value = match key & 7 {
            0 => Value::Number(number(&mut rest)?),
            1 => Value::Bytes(take(&mut rest, 8)?),
            2 => {
                let length = number(&mut rest)?;
                Value::Bytes(take(&mut rest, usize::try_from(length).ok()?)?)
            }
            5 => Value::Bytes(take(&mut rest, 4)?),
            _ => return None,
        };
        Some((key >> 3, value))
    })
}

/// Adds a field of bytes or text to a message.
pub(super) fn put(message: &mut Vec<u8>, field: u8, content: &[u8]) {
    message.push(field << 3 | 2);
    put_varint(message, content.len() as u64);
    message.extend_from_slice(content);
}

/// Adds a field of a number to a message; zero is what is not there.
pub(super) fn put_number(message: &mut Vec<u8>, field: u8, number: u64) {
    if number != 0 {
        message.push(field << 3);
        put_varint(message, number);
    }
}

fn put_varint(message: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        message.push(if number > 0 { low | 0x80 } else { low & 0x7f });
        if number == 0 {
            break;
        }
    }
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *take(rest, 1)?.first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_read_as_the_format_writes_them() {
        // 1: 150 (its documentation's own example), 2: "testing", then a group, which nothing of ours has.
        let message = b"\x08\x96\x01\x12\x07testing\x0b";
        let read: Vec<_> = fields(message).collect();
        assert_eq!(read, [(1, Value::Number(150)), (2, Value::Bytes(b"testing"))]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(message: Vec<u8>) {
            fields(&message).for_each(drop);
        }

        #[test]
        fn what_is_put_is_what_is_read(field in 1_u8..16, content in prop::collection::vec(any::<u8>(), 0..500)) {
            let mut message = Vec::new();
            put(&mut message, field, &content);
            let read: Vec<_> = fields(&message).collect();
            prop_assert_eq!(read, [(u64::from(field), Value::Bytes(&content))]);
        }

        #[test]
        fn what_number_is_put_is_what_is_read(field in 1_u8..16, number in 1_u64..) {
            let mut message = Vec::new();
            put_number(&mut message, field, number);
            let read: Vec<_> = fields(&message).collect();
            prop_assert_eq!(read, [(u64::from(field), Value::Number(number))]);
        }
    }
}
