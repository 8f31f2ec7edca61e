//! What SQLite's errors mean.

use rusqlite::ffi;

use crate::{Error, ErrorCode, Retry};

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Cause;
        let (code, retry, message) = match error.sqlite_error_code() {
            Some(Cause::DiskFull) => disk_full(),
            // The shared index of the log is made with other calls, which have no code of their own for this.
            Some(Cause::SystemIoFailure) if is_no_room(&error) => disk_full(),
            Some(Cause::DatabaseBusy | Cause::DatabaseLocked) => {
                (ErrorCode::Unavailable, Retry::Backoff, "another process is writing to the store")
            }
            Some(Cause::NotADatabase | Cause::DatabaseCorrupt) => (
                ErrorCode::Corrupt,
                Retry::Never,
                "the store's file is damaged or not a store; put a backup in its place",
            ),
            Some(Cause::CannotOpen | Cause::PermissionDenied | Cause::ReadOnly) => (
                ErrorCode::Unavailable,
                Retry::Backoff,
                "the store's file can't be opened for writing; check its folder, owner and mode",
            ),
            Some(Cause::SystemIoFailure | Cause::OutOfMemory | Cause::OperationAborted) => {
                (ErrorCode::Unavailable, Retry::Backoff, "the store's file can't be read or written now")
            }
            _ => (ErrorCode::Internal, Retry::Never, "the store doesn't understand its own statement or row"),
        };
        Self::new(code, message).with_retry(retry).with_source(error)
    }
}

fn disk_full() -> (ErrorCode, Retry, &'static str) {
    (
        ErrorCode::DiskFull,
        Retry::Backoff,
        "the store's disk is full: free some space; nothing of this was written",
    )
}

fn is_no_room(error: &rusqlite::Error) -> bool {
    let extended = match error {
        rusqlite::Error::SqliteFailure(failure, _) => failure.extended_code,
        _ => return false,
    };
    matches!(extended, ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_SHMMAP)
}

/// A stored text that no writer of ours can have written.
pub(super) fn unreadable(what: &str, key: &str) -> Error {
    Error::new(ErrorCode::Corrupt, format!("the store has no readable {what} in the row {key:?}"))
}
