//! What went wrong: a stable code, whether trying again can help, what was being done, and why.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::StepName;

/// A result with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// What kind of thing went wrong. The text is stable; each has a page under `docs/errors/`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", from = "String")]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable text, such as `not_found`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

codes! {
    /// The input breaks a rule; the message says which and where.
    InvalidParams = "invalid_params",
    /// There is no such thing.
    NotFound = "not_found",
    /// A thing of that name is there already.
    Exists = "exists",
    /// Somebody else changed it meanwhile.
    Conflict = "conflict",
    /// Who asks isn't known.
    Unauthorized = "unauthorized",
    /// Who asks may not do that.
    Forbidden = "forbidden",
    /// This implementation can't do that.
    Unsupported = "unsupported",
    /// This workflow belongs to another engine now; nothing more may be written.
    LeaseLost = "lease_lost",
    /// The work was cancelled; the cause says why.
    Cancelled = "cancelled",
    /// It is too late to cancel: users see the new release already.
    PastPivot = "past_pivot",
    /// Nothing goes live for a while: somebody froze the app or the platform.
    Frozen = "frozen",
    /// Somebody gave the work up; what could not be undone or done is named.
    Abandoned = "abandoned",
    /// It took longer than it may.
    Timeout = "timeout",
    /// No builder knows what to do with this source.
    NotDetected = "not_detected",
    /// The build ended with an error.
    BuildFailed = "build_failed",
    /// The release phase ended with an error, or its end could not be learnt.
    ReleasePhaseFailed = "release_phase_failed",
    /// A process ended before it was healthy.
    ProcessCrashed = "process_crashed",
    /// A web process didn't listen on its port in time (Heroku's R10).
    BootTimeout = "boot_timeout",
    /// A health check failed.
    Unhealthy = "unhealthy",
    /// An older route generation arrived after a newer one.
    StaleGeneration = "stale_generation",
    /// A limit of size, count or memory was reached.
    LimitExceeded = "limit_exceeded",
    /// The disk is full.
    DiskFull = "disk_full",
    /// The source can't be read or isn't allowed.
    BadSource = "bad_source",
    /// The branch moved since the push began.
    BranchMoved = "branch_moved",
    /// A key doesn't open what is stored.
    WrongKey = "wrong_key",
    /// Stored data can't be read.
    Corrupt = "corrupt",
    /// What is needed isn't installed or isn't reachable.
    Unavailable = "unavailable",
    /// Taken over too many times without progress.
    RecoveryExhausted = "recovery_exhausted",
    /// The helper process is not set up: `paas::init()` was not called.
    NotInitialised = "not_initialised",
    /// A fault of ours.
    Internal = "internal",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<ErrorCode> for String {
    fn from(code: ErrorCode) -> Self {
        code.as_str().to_owned()
    }
}

impl From<String> for ErrorCode {
    /// A code of a newer version reads as [`ErrorCode::Internal`].
    fn from(text: String) -> Self {
        Self::ALL.iter().copied().find(|c| c.as_str() == text).unwrap_or(Self::Internal)
    }
}

/// Whether trying again can help. Set where the cause is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// The same call will fail the same way.
    Never,
    /// The other side said when.
    After(Duration),
    /// It may pass: try again with growing pauses.
    Backoff,
}

/// An error: code, retry class, what was being done, context and source.
///
/// Display is one line for people and says what to do next; Debug is a page. Values of config vars
/// must never get into the message or the context.
pub struct Error(Box<Inner>);

struct Inner {
    code: ErrorCode,
    retry: Retry,
    message: String,
    context: Vec<(&'static str, String)>,
    output: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error that trying again won't help.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            retry: Retry::Never,
            message: message.into(),
            context: Vec::new(),
            output: Vec::new(),
            source: None,
        }))
    }

    /// An error of this code with the cause, its retry class taken from the I/O error if it is one.
    pub fn from_io(message: impl Into<String>, source: std::io::Error) -> Self {
        let full = source.kind() == std::io::ErrorKind::StorageFull
            || source.kind() == std::io::ErrorKind::QuotaExceeded;
        let code = if full { ErrorCode::DiskFull } else { ErrorCode::Internal };
        Self::new(code, message).with_source(source)
    }

    /// The typed answer of an implementation that can't do something.
    pub fn unsupported(what: &str) -> Self {
        Self::new(ErrorCode::Unsupported, format!("{what} is not supported here"))
    }

    /// With this retry class.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// With a fact for whoever reads the error.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// With the last lines that the failing process printed, already redacted.
    #[must_use]
    pub fn with_output(mut self, lines: Vec<String>) -> Self {
        self.0.output = lines;
        self
    }

    /// With its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The stable code.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// Whether trying again can help.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The facts.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// The failing process's last lines.
    pub fn output(&self) -> &[String] {
        &self.0.output
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut source = self.0.source.as_deref().map(|s| s as &dyn StdError);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("code", &self.0.code)
            .field("retry", &self.0.retry)
            .field("message", &self.0.message)
            .field("context", &self.0.context)
            .field("output", &self.0.output)
            .field("source", &self.0.source)
            .finish()
    }
}

// The causes are part of Display, so they are not offered again as `source()`.
impl StdError for Error {}

impl From<crate::NameError> for Error {
    fn from(error: crate::NameError) -> Self {
        Self::new(ErrorCode::InvalidParams, error.to_string())
    }
}

/// The durable twin of an [`Error`]: what is stored of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Failure {
    /// The stable code.
    pub code: ErrorCode,
    /// One line for people.
    pub message: String,
    /// The step that failed, where it was one.
    pub step: Option<StepName>,
    /// The attempt that failed last.
    pub attempt: u32,
    /// When.
    pub at: DateTime<Utc>,
    /// Whether trying again fails the same way, as far as whoever failed can tell.
    #[serde(default)]
    pub permanent: bool,
    /// The failing process's last lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
}

impl Failure {
    /// What to store of this error.
    pub fn of(error: &Error, step: Option<StepName>, attempt: u32, at: DateTime<Utc>) -> Self {
        let output = error.output().to_vec();
        let permanent = error.retry() == Retry::Never;
        Self { code: error.code(), message: error.to_string(), step, attempt, at, permanent, output }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code, failure.message).with_output(failure.output)
    }
}
