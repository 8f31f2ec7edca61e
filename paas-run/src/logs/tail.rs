//! Reading an app's log: a cursor that moves from segment to segment.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;

use paas_core::{Clock as _, LogLine, LogQuery, LogSource, SystemClock};

use super::folder::{Folder, Segment};
use super::record::{self, MARK};

/// Bytes read at once: some 300 usual lines.
const CHUNK: usize = 64 * 1024;

/// Where a reader is. Blocking; each call reads one chunk at most.
#[derive(Debug)]
pub(super) struct Tail {
    folder: Folder,
    query: LogQuery,
    here: Option<Here>,
    /// The segment that was read last.
    seen: Option<Seen>,
    /// Where to stop: what was there when the reader came.
    end: Option<End>,
    /// How many more lines, where somebody asked for the last few.
    left: usize,
}

#[derive(Debug)]
struct Here {
    segment: Segment,
    /// How many bytes of it were read.
    offset: u64,
    /// The number of the line that comes next.
    line: u64,
    /// Read, but not whole yet.
    rest: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    segment: u64,
    /// The number of the line that comes next.
    line: u64,
    /// It was removed while we read it: by a rotation, or since the log was forgotten.
    removed: bool,
}

#[derive(Debug, Clone, Copy)]
struct End {
    segment: u64,
    offset: u64,
}

impl Tail {
    /// A reader at the first line that the query asks for.
    pub(super) fn open(folder: Folder, query: LogQuery) -> io::Result<Self> {
        let mut tail = Self { folder, query, here: None, seen: None, end: None, left: usize::MAX };
        if let Some(last) = tail.query.last {
            tail.seek_last(last)?;
        }
        if !tail.query.follow {
            tail.left = tail.query.last.unwrap_or(usize::MAX);
            tail.end = Some(tail.find_end()?);
        }
        Ok(tail)
    }

    /// The next lines; none if there are no more now.
    pub(super) fn next(&mut self) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        while lines.is_empty() && self.left > 0 {
            if self.here.is_none() && !self.enter(&mut lines)? {
                break;
            }
            let Some(here) = &mut self.here else { break };
            if self.end.is_some_and(|end| {
                here.segment.number > end.segment
                    || (here.segment.number == end.segment && here.offset >= end.offset)
            }) {
                break;
            }
            // Asked before reading: then what this read doesn't find will never come.
            let removed = here.segment.file.metadata()?.nlink() == 0;
            let is_final = removed || here.segment.is_sealed();
            if here.fill()? {
                here.take_lines(&self.query, &mut lines);
            } else if is_final {
                // A rest without an end was cut short by a kill or a full disk: a line nobody gets.
                let torn = record::count(&here.rest);
                self.seen = Some(Seen { segment: here.segment.number, line: here.line + torn, removed });
                self.here = None;
            } else {
                break;
            }
        }
        lines.truncate(self.left);
        if self.left != usize::MAX {
            self.left -= lines.len();
        }
        Ok(lines)
    }

    /// Opens the segment that comes next. `false` if there is none yet.
    fn enter(&mut self, lines: &mut Vec<LogLine>) -> io::Result<bool> {
        loop {
            let numbers = self.folder.numbers()?;
            let newer = numbers.iter().find(|number| self.seen.is_some_and(|seen| **number > seen.segment));
            // None is newer and the seen one is gone: the log was forgotten and is another one now.
            let reborn = newer.is_none()
                && self.seen.is_some_and(|seen| seen.removed || !numbers.contains(&seen.segment));
            let anew = self.seen.is_none() || reborn;
            let next = if anew { numbers.first() } else { newer }.copied();
            let Some(number) = next else { return Ok(false) };
            let (segment, before) = match self.folder.open(number) {
                Ok(opened) => opened,
                // Removed meanwhile: look again.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match self.seen {
                Some(seen) if !reborn && before > seen.line => lines.push(missed(before - seen.line)),
                _ => {}
            }
            self.here = Some(Here { segment, offset: 0, line: before, rest: Vec::new() });
            return Ok(true);
        }
    }

    /// Goes to where the last `wanted` lines begin.
    fn seek_last(&mut self, wanted: usize) -> io::Result<()> {
        let mut newer = 0;
        for number in self.folder.numbers()?.into_iter().rev() {
            let (segment, before) = match self.folder.open(number) {
                Ok(opened) => opened,
                // The oldest may be removed at any time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut bytes = Vec::new();
            segment.read_all(&mut bytes)?;
            let starts = self.wanted_starts(&bytes);
            if newer + starts.len() >= wanted {
                let skip = starts.len() - (wanted - newer);
                let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let offset = starts.get(skip).copied().unwrap_or(whole);
                // The first record is the header and no line.
                let line = before + record::count(&bytes[..offset]).saturating_sub(1);
                let offset = offset as u64;
                (&segment.file).seek(SeekFrom::Start(offset))?;
                self.here = Some(Here { segment, offset, line, rest: Vec::new() });
                return Ok(());
            }
            newer += starts.len();
        }
        Ok(())
    }

    fn wanted_starts(&self, bytes: &[u8]) -> Vec<usize> {
        let mut starts = Vec::new();
        let mut start = 0;
        for record in bytes.split_inclusive(|byte| *byte == b'\n') {
            let line = record.ends_with(b"\n").then(|| line_of(record)).flatten();
            if line.is_some_and(|line| self.query.wants(&line)) {
                starts.push(start);
            }
            start += record.len();
        }
        starts
    }

    fn find_end(&self) -> io::Result<End> {
        let Some(segment) = self.folder.numbers()?.last().copied() else {
            return Ok(End { segment: 0, offset: 0 });
        };
        match self.folder.open(segment) {
            Ok((open, _)) => Ok(End { segment, offset: open.file.metadata()?.len() }),
            // Forgotten meanwhile: nothing is there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(End { segment: 0, offset: 0 }),
            Err(error) => Err(error),
        }
    }
}

impl Here {
    /// Reads more. `false` at the end of what is there.
    fn fill(&mut self) -> io::Result<bool> {
        let before = self.rest.len();
        self.rest.reserve(CHUNK);
        (&self.segment.file).take(CHUNK as u64).read_to_end(&mut self.rest)?;
        let read = self.rest.len() - before;
        self.offset += read as u64;
        Ok(read > 0)
    }

    /// Takes the whole lines out of what was read.
    fn take_lines(&mut self, query: &LogQuery, lines: &mut Vec<LogLine>) {
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return };
        let begins_file = self.offset == self.rest.len() as u64;
        let whole = &self.rest[..=end];
        self.line += record::count(whole) - u64::from(begins_file);
        for record in whole.split_inclusive(|byte| *byte == b'\n').skip(usize::from(begins_file)) {
            lines.extend(line_of(record).filter(|line| query.wants(line)));
        }
        self.rest.drain(..=end);
    }
}

/// The line of what stands between two line ends. Records that were cut short may stand before it.
fn line_of(record: &[u8]) -> Option<LogLine> {
    let start = record.iter().rposition(|byte| *byte == MARK)?;
    record::decode(record[start..].strip_prefix(&[MARK])?)
}

fn missed(lines: u64) -> LogLine {
    let text = format!(
        "Error L11 (Tail buffer overflow): {lines} lines were dropped, since this reader was too slow"
    );
    LogLine::new(SystemClock::new().now(), LogSource::Platform, "logs", text)
}
