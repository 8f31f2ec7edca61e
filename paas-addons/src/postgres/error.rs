//! What a database server's answers mean to the platform.

use std::time::Duration;

use paas_core::{Error, ErrorCode, Retry};
use tokio_postgres::error::SqlState;

/// An error of the server or of the way to it. `doing` says what was tried.
pub(super) fn sql(doing: &str, error: tokio_postgres::Error) -> Error {
    let (code, retry, hint) = classify(&error);
    Error::new(code, format!("{doing}{hint}")).with_retry(retry).with_source(error)
}

fn classify(error: &tokio_postgres::Error) -> (ErrorCode, Retry, &'static str) {
    let Some(state) = error.code() else {
        // No answer of the server at all: it is down, going down or out of reach.
        return (ErrorCode::Unavailable, Retry::Backoff, ": the database server can't be reached");
    };
    match *state {
        SqlState::DISK_FULL => {
            (ErrorCode::DiskFull, Retry::Never, ": the database server's disk is full; make room there")
        }
        SqlState::TOO_MANY_CONNECTIONS => (
            ErrorCode::Unavailable,
            Retry::After(Duration::from_secs(1)),
            ": all connections of the database server are taken",
        ),
        SqlState::CANNOT_CONNECT_NOW
        | SqlState::ADMIN_SHUTDOWN
        | SqlState::CRASH_SHUTDOWN
        | SqlState::OBJECT_IN_USE
        | SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::QUERY_CANCELED => (ErrorCode::Unavailable, Retry::Backoff, ""),
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            (ErrorCode::Unauthorized, Retry::Never, ": the server refuses the platform's own login")
        }
        SqlState::INSUFFICIENT_PRIVILEGE => (
            ErrorCode::Forbidden,
            Retry::Never,
            ": the platform's role there needs SUPERUSER, or CREATEDB and CREATEROLE",
        ),
        _ => (ErrorCode::Internal, Retry::Never, ""),
    }
}

/// Something isn't there that an operator can put there.
pub(super) fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Unavailable, message).with_retry(Retry::Backoff)
}
