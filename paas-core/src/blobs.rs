//! Content by digest: sources and slugs live here, so that any engine can go on with any workflow.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncRead;

use crate::{Digest, Error, ErrorCode, Result};

/// A stream of content.
pub type BlobReader = Box<dyn AsyncRead + Send + Unpin>;

/// Keeps content by digest.
#[async_trait]
pub trait Blobs: fmt::Debug + Send + Sync + 'static {
    /// Keeps the content of this file.
    ///
    /// # Behavior
    /// - Safe on disk when it returns. The same content again is no error and costs little.
    /// - May take the file away instead of copying it.
    ///
    /// # Errors
    /// `disk_full`; `corrupt` when the file's content doesn't have the digest.
    async fn put(&self, digest: Digest, file: &Path) -> Result<()>;

    /// Reads content.
    ///
    /// # Errors
    /// `not_found`.
    async fn get(&self, digest: Digest) -> Result<BlobReader>;

    /// Whether it is there.
    ///
    /// # Errors
    /// When it can't be told.
    async fn has(&self, digest: Digest) -> Result<bool>;

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
        Err(Error::new(ErrorCode::NotFound, format!("the content {digest} is not kept here")))
    }

    async fn has(&self, _: Digest) -> Result<bool> {
        Ok(false)
    }

    async fn delete(&self, _: Digest) -> Result<()> {
        Ok(())
    }
}

/// Content in a folder of this machine: `ab/cdef…`, each file written aside, synced and renamed.
#[derive(Debug, Clone)]
pub struct DirBlobs {
    root: PathBuf,
}

impl DirBlobs {
    /// Content in this folder, which is made with mode 0700 if it isn't there.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let root = root.into();
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root);
        made.map_err(|e| Error::from_io(format!("can't make the folder {}", root.display()), e))?;
        sweep(&root).map_err(|e| Error::from_io(format!("can't sweep the folder {}", root.display()), e))?;
        Ok(Self { root })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join(&hex[..2]).join(&hex[2..])
    }
}

/// What a put that died left behind is removed after a day; a younger one may be another process's at work.
fn sweep(root: &Path) -> std::io::Result<()> {
    const LONGEST_PUT: Duration = Duration::from_secs(24 * 60 * 60);
    for dir in std::fs::read_dir(root)? {
        let dir = dir?;
        if !dir.file_type()?.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(dir.path())? {
            let file = file?;
            let aside = file.file_name().as_encoded_bytes().starts_with(b".");
            // A time in the future, or a file that is gone meanwhile, counts as young.
            let age = || file.metadata().ok()?.modified().ok()?.elapsed().ok();
            if aside && age().is_some_and(|age| age > LONGEST_PUT) {
                std::fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}

#[async_trait]
impl Blobs for DirBlobs {
    async fn put(&self, digest: Digest, file: &Path) -> Result<()> {
        let (target, file) = (self.path(digest), file.to_owned());
        blocking(move || put_file(digest, &file, &target)).await
    }

    async fn get(&self, digest: Digest) -> Result<BlobReader> {
        match tokio::fs::File::open(self.path(digest)).await {
            Ok(file) => Ok(Box::new(file)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::new(ErrorCode::NotFound, format!("the content {digest} is not kept here")))
            }
            Err(e) => Err(Error::from_io(format!("can't read the content {digest}"), e)),
        }
    }

    async fn has(&self, digest: Digest) -> Result<bool> {
        let found = tokio::fs::try_exists(self.path(digest)).await;
        found.map_err(|e| Error::from_io(format!("can't look for the content {digest}"), e))
    }

    async fn delete(&self, digest: Digest) -> Result<()> {
        match tokio::fs::remove_file(self.path(digest)).await {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::from_io(format!("can't remove the content {digest}"), e))
            }
            _ => Ok(()),
        }
    }

    fn local_path(&self, digest: Digest) -> Option<PathBuf> {
        Some(self.path(digest))
    }
}

fn put_file(digest: Digest, file: &Path, target: &Path) -> Result<()> {
    let failed = |e| Error::from_io(format!("can't keep the content {digest}"), e);
    if target.exists() {
        return Ok(());
    }
    let dir = target.parent().unwrap_or(target);
    if !dir.exists() {
        std::fs::create_dir_all(dir).map_err(failed)?;
        // The new folder's own name must be safe, too.
        dir.parent().map_or(Ok(()), |root| std::fs::File::open(root)?.sync_all()).map_err(failed)?;
    }
    let aside = dir.join(format!(".{}", uuid::Uuid::new_v4()));
    let written = (|| {
        let mut from = std::fs::File::open(file)?;
        let mut to = HashingFile::create(&aside)?;
        std::io::copy(&mut from, &mut to)?;
        to.finish()
    })();
    let kept = match written {
        Ok(actual) if actual == digest => std::fs::rename(&aside, target)
            .and_then(|()| std::fs::File::open(dir)?.sync_all())
            .map_err(failed),
        Ok(actual) => {
            Err(Error::new(ErrorCode::Corrupt, format!("the content of {digest} has digest {actual}")))
        }
        Err(e) => Err(failed(e)),
    };
    if kept.is_err() {
        // It is ours and holds nothing that is needed.
        let _ = std::fs::remove_file(&aside);
    }
    kept
}

struct HashingFile {
    file: std::fs::File,
    hasher: crate::digest::Hasher,
}

impl HashingFile {
    fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: std::fs::File::create_new(path)?, hasher: crate::digest::Hasher::new() })
    }

    fn finish(self) -> std::io::Result<Digest> {
        self.file.sync_all()?;
        Ok(self.hasher.finish())
    }
}

impl std::io::Write for HashingFile {
    fn write(&mut self, content: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(content)?;
        self.hasher.update(&content[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
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

#[cfg(test)]
mod tests;
