//! Content by digest: sources and slugs live here, so that any engine can go on with any workflow.

mod dir;
#[cfg(feature = "blobs-s3")]
pub(crate) mod s3;
mod verified;

use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
pub use dir::DirBlobs;
use tokio::io::AsyncRead;

use crate::{Digest, Error, ErrorCode, Result};

/// A stream of content.
pub type BlobReader = Box<dyn AsyncRead + Send + Unpin>;

/// Content that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobEntry {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// When it was put or renewed the last time.
    pub used_at: DateTime<Utc>,
}

impl BlobEntry {
    /// Content of this size, used last at this time.
    pub fn new(digest: Digest, size: u64, used_at: DateTime<Utc>) -> Self {
        Self { digest, size, used_at }
    }
}

/// Keeps content by digest.
///
/// It belongs to one engine's store: the engine removes what neither a release nor a workflow of that store names. So give
/// it a folder or a prefix of its own; [`Blobs::claim`] guards that.
#[async_trait]
pub trait Blobs: fmt::Debug + Send + Sync + 'static {
    /// Says that this place belongs to the store of this id. Engines do so when they start; whoever is the first labels the
    /// place, and later ones must be of the same store. A place that has no label takes any.
    ///
    /// # Errors
    /// `exists` where it belongs to another store; when it can't be told.
    async fn claim(&self, store: &str) -> Result<()> {
        let _ = store;
        Ok(())
    }

    /// Keeps the content of this file.
    ///
    /// # Behavior
    /// - Safe on disk when it returns. The same content again is no error and costs little.
    /// - May take the file away instead of copying it, also when it is refused: give it a file of your own that you
    ///   need no more. What is kept doesn't change when somebody writes to the file by another name.
    ///
    /// # Errors
    /// `disk_full`; `corrupt` when the file's content doesn't have the digest.
    async fn put(&self, digest: Digest, file: &Path) -> Result<()>;

    /// Reads content. Where it isn't what was put any more, reading it ends with an error and not with its end.
    ///
    /// # Errors
    /// `not_found`.
    async fn get(&self, digest: Digest) -> Result<BlobReader>;

    /// Whether it is there.
    ///
    /// # Errors
    /// When it can't be told.
    async fn has(&self, digest: Digest) -> Result<bool>;

    /// Says that somebody is about to refer to the content: it counts as put now. False where it isn't there.
    ///
    /// # Errors
    /// When it can't be told.
    async fn renew(&self, digest: Digest) -> Result<bool> {
        self.has(digest).await
    }

    /// What is kept, in the order of the digests' bytes: after this one, at most `limit`. Where it can't be told, nothing
    /// is listed, and nothing collected.
    ///
    /// # Errors
    /// When it can't be read.
    async fn list(&self, after: Option<Digest>, limit: usize) -> Result<Vec<BlobEntry>> {
        let _ = (after, limit);
        Ok(Vec::new())
    }

    /// Forgets content that was neither put nor renewed since `before`, and says whether it did.
    ///
    /// # Behavior
    /// - Between the look and the end of the content nobody puts or renews it: either that comes first and the content
    ///   stays, or it comes after and finds the content gone.
    ///
    /// # Errors
    /// When it can't be removed.
    async fn collect(&self, digest: Digest, before: DateTime<Utc>) -> Result<bool> {
        let _ = (digest, before);
        Ok(false)
    }

    /// Forgets content. Forgetting what isn't there is no error.
    ///
    /// # Errors
    /// When it can't be removed.
    async fn delete(&self, digest: Digest) -> Result<()>;

    /// Where the content stands as a file on this machine, for those who can read it directly; `None`
    /// where it must be read through [`Blobs::get`].
    fn local_path(&self, digest: Digest) -> Option<PathBuf> {
        let _ = digest;
        None
    }
}

/// Keeps nothing: what an engine has until somebody gives it a place.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct NoBlobs;

impl NoBlobs {
    /// Keeps nothing.
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Blobs for NoBlobs {
    async fn put(&self, _: Digest, _: &Path) -> Result<()> {
        Err(Error::new(ErrorCode::Unavailable, "there is no place for content: set one up by with_blobs(…)"))
    }

    async fn get(&self, digest: Digest) -> Result<BlobReader> {
        Err(not_kept(digest))
    }

    async fn has(&self, _: Digest) -> Result<bool> {
        Ok(false)
    }

    async fn delete(&self, _: Digest) -> Result<()> {
        Ok(())
    }
}

/// The typed answer to who asks for content that isn't there.
fn not_kept(digest: Digest) -> Error {
    Error::new(ErrorCode::NotFound, format!("the content {digest} is not kept here"))
}

/// The typed answer to an engine of another store.
fn belongs_to_another(place: impl fmt::Display, owner: &str, store: &str) -> Error {
    let what = format!(
        "the content in {place} belongs to the store {owner}, and this engine's store is {store}: each would remove what \
         the other one needs; give this engine a place of its own, or the store that belongs to this one"
    );
    Error::new(ErrorCode::Exists, what)
}
