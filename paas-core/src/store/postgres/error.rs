//! What the database's errors mean. Its details are left out: they may quote what was being written.

use std::error::Error as _;

use tokio_postgres::error::SqlState;

use crate::{Error, ErrorCode, Retry};

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(database) = error.as_db_error() else {
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            return lost(format!("the connection to the store's database was lost: {cause}"));
        };
        let (code, retry, message) = classify(database.code());
        let what = format!("{message}: {}", database.message());
        Self::new(code, what).with_retry(retry).with("sqlstate", database.code().code())
    }
}

fn classify(state: &SqlState) -> (ErrorCode, Retry, &'static str) {
    let code = state.code();
    match (&code[..2], code) {
        (_, "53100") => (
            ErrorCode::DiskFull,
            Retry::Backoff,
            "the disk of the store's database is full: free some space there; nothing of this was written",
        ),
        (_, "25006") => (
            ErrorCode::Unavailable,
            Retry::Backoff,
            "the store's database only reads, as a standby does; name the primary, or all of them with \
             target_session_attrs=read-write",
        ),
        ("28" | "3D", _) | (_, "42501") => (
            ErrorCode::Unavailable,
            Retry::Backoff,
            "the store's database lets us not in or not do our work; check the user, the database and its rights",
        ),
        ("08" | "25" | "40" | "53" | "55" | "57" | "58", _) => {
            (ErrorCode::Unavailable, Retry::Backoff, "the store's database can't do this now")
        }
        ("22" | "54", _) => (ErrorCode::InvalidParams, Retry::Never, "the store's database can't keep this"),
        ("3F", _) | (_, "42P01" | "42883" | "42703" | "XX001" | "XX002") => (
            ErrorCode::Corrupt,
            Retry::Never,
            "the store's schema is damaged or gone; put a backup in its place",
        ),
        _ => (ErrorCode::Internal, Retry::Never, "the store doesn't understand its own statement or row"),
    }
}

/// Whether the same transaction may go through when it is made again from what is there now: it was undone since
/// somebody else changed a row that it was made from.
pub(super) fn is_overtaken(error: &tokio_postgres::Error) -> bool {
    let overtaken =
        [&SqlState::T_R_SERIALIZATION_FAILURE, &SqlState::T_R_DEADLOCK_DETECTED, &SqlState::UNIQUE_VIOLATION];
    error.code().is_some_and(|code| overtaken.contains(&code))
}

/// Nobody knows whether it happened.
pub(super) fn lost(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Unavailable, message).with_retry(Retry::Backoff)
}

/// A stored text that no writer of ours can have written.
pub(super) fn unreadable(what: &str, key: &str) -> Error {
    Error::new(ErrorCode::Corrupt, format!("the store has no readable {what} in the row {key:?}"))
}
