//! Appending to an app's log, from any process.

use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use paas_core::{Clock as _, Error, LogLine, LogSource, Result, SystemClock};
use rustix::fs::FlockOperation;

use super::LogBounds;
use super::folder::{Folder, Segment, lock};
use super::record;

/// Appends to one app's log, beside any number of other writers in this and other processes.
///
/// Without tokio, for helper processes: each call is one `write(2)` to the page cache. Never fails its caller: what
/// can't be kept is counted, and told in the log once it can be written again.
///
/// ```
/// use paas_core::{Clock as _, LogLine, LogSource, SystemClock};
/// use paas_run::logs::{LogBounds, LogFile};
///
/// let folder = tempfile::tempdir()?;
/// let log = LogFile::open(&folder.path().join("hello"), LogBounds::default())?;
/// log.append(&LogLine::new(SystemClock::new().now(), LogSource::App, "web.1", "Listening on 5000"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LogFile {
    folder: Folder,
    bounds: LogBounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Option<Segment>,
    /// Lines that could not be kept since the last one that could.
    missed: u64,
    /// Filled by each call, kept for the next.
    scratch: Vec<u8>,
}

/// How often a segment that was sealed or removed under our hands is looked for anew.
const ATTEMPTS: usize = 16;

impl LogFile {
    /// Opens the log in this folder, which is made if it is missing, readable by this user only.
    ///
    /// # Errors
    /// When the folder or its first segment can't be made or opened.
    pub fn open(folder: &Path, bounds: LogBounds) -> Result<Self> {
        let at = folder;
        let folder = Folder::new(folder);
        let open = folder
            .newest()
            .map_err(|error| Error::from_io(format!("can't open the log in {}", at.display()), error))?;
        let state = Mutex::new(State { open: Some(open), ..State::default() });
        Ok(Self { folder, bounds, state })
    }

    /// Adds a line; one longer than [`LogLine::MAX_BYTES`] as several. Control characters are left out.
    pub fn append(&self, line: &LogLine) {
        let mut state = self.state();
        let mut bytes = std::mem::take(&mut state.scratch);
        bytes.clear();
        let lines = record::encode(line, &mut bytes);
        self.write(&mut state, &bytes, lines);
        state.scratch = bytes;
    }

    /// Adds records as [`record::encode`] made them.
    pub(super) fn append_records(&self, records: &[u8], lines: u64) {
        self.write(&mut self.state(), records, lines);
    }

    /// Adds to the count of lines that were lost before they came here.
    pub(super) fn lost(&self, lines: u64) {
        self.state().missed += lines;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole: it is only replaced, never half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, state: &mut State, records: &[u8], lines: u64) {
        if !self.tell_missed(state) {
            state.missed += lines;
            return;
        }
        if let Err(Short { written, error }) = self.write_now(state, records) {
            // The record in which the disk became full is lost too.
            let whole = record::count_ends(&records[..written]);
            state.missed += lines - whole;
            tracing::warn!(error = %error, log.folder = ?self.folder, "log lines can't be written");
        }
    }

    /// `false` if there is something to tell and that can't be written either.
    fn tell_missed(&self, state: &mut State) -> bool {
        if state.missed == 0 {
            return true;
        }
        let text = format!(
            "Error L12 (Local buffer overflow): {} lines of this log could not be written",
            state.missed
        );
        let remark = LogLine::new(SystemClock::new().now(), LogSource::Platform, "logs", text);
        let mut bytes = Vec::new();
        record::encode(&remark, &mut bytes);
        let told = self.write_now(state, &bytes).is_ok();
        if told {
            state.missed = 0;
        }
        told
    }

    fn write_now(&self, state: &mut State, bytes: &[u8]) -> Result<(), Short> {
        for _ in 0..ATTEMPTS {
            let segment = match state.open.take() {
                Some(segment) => segment,
                None => match self.folder.newest() {
                    Ok(segment) => segment,
                    // Removed between being listed and being opened.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error.into()),
                },
            };
            let size = segment.file.metadata()?.len();
            if size >= self.bounds.segment_bytes && self.rotate(&segment, size)? {
                continue;
            }
            if write_to(&segment, bytes)? {
                state.open = Some(segment);
                return Ok(());
            }
        }
        Err(io::Error::other("the log's segments are removed faster than they can be opened").into())
    }

    /// Follows a full segment by the next. `false` if that must wait and the segment takes some more lines.
    fn rotate(&self, segment: &Segment, size: u64) -> io::Result<bool> {
        // Others may write right now; they will rotate, and beyond twice the bound we wait for them.
        let patient = size >= self.bounds.segment_bytes.saturating_mul(2);
        match self.folder.rotate(segment, self.bounds, patient) {
            // A rotation that keeps failing must not let the log outgrow its bound for ever.
            Err(error) if size < self.bounds.segment_bytes.saturating_mul(4) => {
                tracing::warn!(error = %error, log.folder = ?self.folder, "a log segment can't be followed by the next");
                Ok(false)
            }
            other => other,
        }
    }
}

/// `false` if this segment takes no more lines.
fn write_to(segment: &Segment, bytes: &[u8]) -> Result<bool, Short> {
    lock(&segment.file, FlockOperation::LockShared)?;
    let result = write_locked(segment, bytes);
    lock(&segment.file, FlockOperation::Unlock)?;
    result
}

fn write_locked(segment: &Segment, bytes: &[u8]) -> Result<bool, Short> {
    if segment.is_sealed() || segment.file.metadata()?.nlink() == 0 {
        return Ok(false);
    }
    let mut written = 0;
    while written < bytes.len() {
        match (&segment.file).write(&bytes[written..]) {
            Ok(0) => return Err(Short { written, error: io::ErrorKind::WriteZero.into() }),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Short { written, error }),
        }
    }
    Ok(true)
}

impl Drop for LogFile {
    /// Nobody comes after this to tell what was missed.
    fn drop(&mut self) {
        let mut state = self.state();
        self.tell_missed(&mut state);
    }
}

/// Not all could be written.
struct Short {
    written: usize,
    error: io::Error,
}

impl From<io::Error> for Short {
    fn from(error: io::Error) -> Self {
        Self { written: 0, error }
    }
}

impl fmt::Debug for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFile")
            .field("folder", &self.folder)
            .field("bounds", &self.bounds)
            .finish_non_exhaustive()
    }
}
