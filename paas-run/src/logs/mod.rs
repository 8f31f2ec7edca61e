//! Logs in files: one ordered stream per app, written by several processes at once.
//!
//! ```text
//! <root>/<app>/0000000007.log   sealed: its successor exists, nobody writes to it any more
//!              0000000008.log   every writer appends here, one write(2) with O_APPEND for each batch of lines
//! ```
//!
//! The engine writes through [`FileLogs`]; a helper process that outlives it appends to the same folder through
//! [`LogFile`]. The order of the file is the order of the log, so there is nothing to merge. A writer holds a shared
//! lock while it writes; whoever finds the segment full takes the exclusive one, makes the successor and so seals it:
//! once a reader sees a successor, the segment before it is final. That is why nothing is lost in a rotation.
//!
//! Every record begins with the mark of JSON text sequences (RFC 7464), so that a record that a full disk or a kill cut
//! short takes nothing with it. Every segment begins with how many lines came before it, so that a reader that fell
//! behind the bound is told exactly how many it missed.

mod file;
mod folder;
mod record;
mod store;
mod tail;

pub use file::LogFile;
pub use store::FileLogs;

/// How much of each app's log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogBounds {
    /// How many segments, at least 2: the oldest goes when one more is begun.
    pub segments: usize,
    /// A segment of this many bytes or more is followed by the next one.
    pub segment_bytes: u64,
}

impl LogBounds {
    /// So many segments of so many bytes each. At least two are kept, so that a rotation doesn't empty the log.
    pub fn new(segments: usize, segment_bytes: u64) -> Self {
        Self { segments: segments.max(2), segment_bytes }
    }
}

impl Default for LogBounds {
    /// 4 segments of 2 MiB: some 40,000 lines, where Heroku keeps 1,500.
    fn default() -> Self {
        Self::new(4, 2 << 20)
    }
}
