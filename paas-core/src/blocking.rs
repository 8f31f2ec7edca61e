//! Work that blocks.

use crate::{Error, ErrorCode, Result};

/// Runs work that blocks, such as most of the file system's, apart from the threads that must not. It goes on when
/// nobody waits for it any more.
///
/// # Errors
/// The work's own; `internal` when it panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(ErrorCode::Internal, "blocking work panicked").with_source(e)),
    }
}
