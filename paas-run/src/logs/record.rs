//! The format on disk: mark, JSON, line end.

use paas_core::LogLine;
use serde::{Deserialize, Serialize};

/// Begins every record; JSON never holds it raw (RFC 7464).
pub(super) const MARK: u8 = 0x1e;

/// The first record of a segment.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Header {
    /// How many lines the log had before this segment.
    pub(super) lines: u64,
}

/// Adds the line to `out`, as several where it is too long. Returns how many records that made.
pub(super) fn encode(line: &LogLine, out: &mut Vec<u8>) -> u64 {
    let forbidden = |c: char| c.is_control() && !matches!(c, '\t' | '\u{1b}');
    if line.text.len() <= LogLine::MAX_BYTES && !line.text.contains(forbidden) {
        put(line, out);
        return 1;
    }
    let clean: String = line.text.chars().filter(|c| !forbidden(*c)).collect();
    let mut rest = clean.as_str();
    let mut records = 0;
    loop {
        let mut cut = rest.len().min(LogLine::MAX_BYTES);
        while !rest.is_char_boundary(cut) {
            cut -= 1;
        }
        let (head, tail) = rest.split_at(cut);
        let mut part = line.clone();
        head.clone_into(&mut part.text);
        put(&part, out);
        records += 1;
        if tail.is_empty() {
            return records;
        }
        rest = tail;
    }
}

/// The bytes of a new segment.
pub(super) fn header(header: Header) -> Vec<u8> {
    let mut out = Vec::new();
    put(&header, &mut out);
    out
}

fn put(value: &impl Serialize, out: &mut Vec<u8>) {
    out.push(MARK);
    serde_json::to_writer(&mut *out, value).expect("a log line is plain data, and a Vec takes it all");
    out.push(b'\n');
}

/// One record without mark and line end; `None` for one that was cut short.
pub(super) fn decode<'a, T: Deserialize<'a>>(record: &'a [u8]) -> Option<T> {
    serde_json::from_slice(record).ok()
}

/// How many records begin in these bytes.
pub(super) fn count(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum + u64::from(*byte == MARK))
}

/// How many records end in these bytes.
pub(super) fn count_ends(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum + u64::from(*byte == b'\n'))
}
