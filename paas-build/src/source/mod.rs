//! Sources: where code comes from.

#[cfg(any(feature = "git", feature = "tarball"))]
pub(crate) mod address;
#[cfg(feature = "directory")]
pub(crate) mod directory;
#[cfg(feature = "git")]
pub(crate) mod git;
#[cfg(feature = "tarball")]
pub(crate) mod tarball;

use paas_core::{Error, ErrorCode};

/// A location that is refused.
fn bad(why: impl Into<String>) -> Error {
    Error::new(ErrorCode::BadSource, why)
}
