//! Cancelling says why, and each reason has its own behaviour.

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{Error, ErrorCode, Result, Retry};

/// Why work stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CancelReason {
    /// A person wants it: everything that was started is undone.
    User,
    /// Another engine owns the work now: stop, write nothing.
    LeaseLost,
    /// This engine is going down: stop, give the lease back; another start goes on.
    Shutdown,
    /// It took longer than it may: it has failed.
    Timeout,
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "cancelled by a person",
            Self::LeaseLost => "another engine took over",
            Self::Shutdown => "the engine is shutting down",
            Self::Timeout => "it took too long",
        })
    }
}

/// A token that is cancelled once, with a reason; clones share it.
#[derive(Clone, Default)]
pub struct Cancel {
    token: CancellationToken,
    reason: Arc<OnceLock<CancelReason>>,
}

impl Cancel {
    /// Not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels; the first reason stays.
    pub fn cancel(&self, reason: CancelReason) {
        // A second reason comes too late, by definition.
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    /// The reason, once cancelled.
    pub fn reason(&self) -> Option<CancelReason> {
        if self.token.is_cancelled() { self.reason.get().copied() } else { None }
    }

    /// Whether it is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until it is cancelled.
    pub async fn cancelled(&self) -> CancelReason {
        self.token.cancelled().await;
        self.reason.get().copied().unwrap_or(CancelReason::Shutdown)
    }

    /// An error if it is cancelled: for loops between two awaits.
    ///
    /// # Errors
    /// [`ErrorCode::Cancelled`] or, by its reason, [`ErrorCode::Timeout`] or [`ErrorCode::LeaseLost`].
    pub fn check(&self) -> Result<()> {
        self.reason().map_or(Ok(()), |reason| Err(reason.into()))
    }

    /// Runs a future until it ends or this is cancelled. The future is dropped then, so it must clean
    /// up on drop.
    ///
    /// # Errors
    /// As [`Cancel::check`].
    pub async fn guard<F: Future>(&self, future: F) -> Result<F::Output> {
        tokio::select! {
            biased;
            reason = self.cancelled() => Err(reason.into()),
            output = future => Ok(output),
        }
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancel({:?})", self.reason())
    }
}

impl From<CancelReason> for Error {
    fn from(reason: CancelReason) -> Self {
        let code = match reason {
            CancelReason::User | CancelReason::Shutdown => ErrorCode::Cancelled,
            CancelReason::LeaseLost => ErrorCode::LeaseLost,
            CancelReason::Timeout => ErrorCode::Timeout,
        };
        Self::new(code, reason.to_string()).with_retry(Retry::Never)
    }
}
