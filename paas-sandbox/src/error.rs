//! What can go wrong before a confined program runs.

use std::io;

/// A result with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a program could not be started apart, or its end could not be learnt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The current binary can't serve as its own helper.
    #[error(
        "the helper process is not set up: call paas::init() as the first line of main, or name a helper \
         binary with with_helper(path)"
    )]
    NotInitialised,
    /// The program isn't there or can't be executed.
    #[error("can't run {program}: {reason}")]
    Program {
        /// The program as asked for.
        program: String,
        /// What the system said.
        reason: String,
    },
    /// A wall of the sandbox could not be put up; the program was not started.
    #[error("the sandbox can't be set up: {0}")]
    Setup(String),
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
