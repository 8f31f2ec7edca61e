//! One app's folder: which segments there are, and how the next one is begun.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::LogBounds;
use super::record::{self, Header};

/// The folder of one app's log.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
}

/// One segment, open.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) file: File,
    /// Where its successor will be.
    next: PathBuf,
}

impl Segment {
    /// Whether nobody writes to it any more. What was written before is readable once this is seen.
    pub(super) fn is_sealed(&self) -> bool {
        rustix::fs::access(&self.next, rustix::fs::Access::EXISTS).is_ok()
    }
}

/// Takes a lock, whatever signals come.
pub(super) fn lock(file: &File, operation: FlockOperation) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| flock(file, operation))?)
}

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The numbers of its segments in their order; none where there is no folder.
    pub(super) fn numbers(&self) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok());
            numbers.extend(number);
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Opens a segment for reading, and tells how many lines came before it.
    pub(super) fn open(&self, number: u64) -> io::Result<(Segment, u64)> {
        let file = File::open(self.segment(number))?;
        let segment = Segment { number, file, next: self.segment(number + 1) };
        let header = segment.header()?;
        Ok((segment, header.lines))
    }

    /// Opens the newest segment for writing, the first one if there is none.
    pub(super) fn newest(&self) -> io::Result<Segment> {
        let number = match self.numbers()?.last() {
            Some(number) => *number,
            None => self.begin(0, Header { lines: 0 })?,
        };
        // Read access too: whoever rotates counts the lines.
        let file = OpenOptions::new().append(true).read(true).open(self.segment(number))?;
        Ok(Segment { number, file, next: self.segment(number + 1) })
    }

    /// Seals a full segment by making its successor, and removes what is beyond the bound. `false` if somebody
    /// writes to it right now and `patient` is not set.
    pub(super) fn rotate(&self, full: &Segment, bounds: LogBounds, patient: bool) -> io::Result<bool> {
        let operation =
            if patient { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
        match lock(&full.file, operation) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            other => other?,
        }
        let result = self.seal(full, bounds);
        lock(&full.file, FlockOperation::Unlock)?;
        result.map(|()| true)
    }

    fn seal(&self, full: &Segment, bounds: LogBounds) -> io::Result<()> {
        if full.is_sealed() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        full.read_all(&mut bytes)?;
        let lines = full.header()?.lines + record::count(&bytes).saturating_sub(1);
        let newest = self.begin(full.number, Header { lines })?;
        for number in self.numbers()? {
            if number + bounds.segments as u64 <= newest {
                match fs::remove_file(self.segment(number)) {
                    // Another writer came first.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Makes the segment after `from` unless somebody did already. Returns the newest one's number.
    fn begin(&self, from: u64, header: Header) -> io::Result<u64> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        let folder = File::open(&self.path)?;
        lock(&folder, FlockOperation::LockExclusive)?;
        let newest = self.numbers()?.last().copied().unwrap_or(0);
        if newest > from {
            return Ok(newest);
        }
        // Under a name that is no segment's until its header is whole: a reader never sees half of it.
        let unfinished = self.path.join("next");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&record::header(header))?;
        fs::rename(&unfinished, self.segment(from + 1))?;
        Ok(from + 1)
    }

    /// Removes all of it.
    pub(super) fn remove(&self) -> io::Result<()> {
        match File::open(&self.path) {
            Ok(folder) => {
                lock(&folder, FlockOperation::LockExclusive)?;
                fs::remove_dir_all(&self.path)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:010}.log"))
    }
}

impl Segment {
    /// Everything in it, wherever it was read to before.
    pub(super) fn read_all(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        use std::io::{Seek as _, SeekFrom};
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(bytes)?;
        Ok(())
    }

    fn header(&self) -> io::Result<Header> {
        use std::os::unix::fs::FileExt as _;
        let mut start = [0; 128];
        let read = self.file.read_at(&mut start, 0)?;
        start[..read]
            .split(|byte| *byte == b'\n')
            .next()
            .and_then(|record| record::decode(record.strip_prefix(&[record::MARK])?))
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "a log segment without its first record")
            })
    }
}
