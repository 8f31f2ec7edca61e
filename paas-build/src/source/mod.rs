//! Sources: where code comes from.

#[cfg(any(feature = "git", feature = "tarball"))]
pub(crate) mod address;
#[cfg(feature = "directory")]
pub(crate) mod directory;
#[cfg(feature = "git")]
pub(crate) mod git;
#[cfg(feature = "tarball")]
pub(crate) mod tarball;

use paas_core::{Error, ErrorCode, Result};

/// A location that is refused.
fn bad(why: impl Into<String>) -> Error {
    Error::new(ErrorCode::BadSource, why)
}

/// Runs blocking work apart from the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(ErrorCode::Internal, "a blocking task panicked").with_source(e)),
    }
}
