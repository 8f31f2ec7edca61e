//! Content in a folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::verified::Verified;
use super::{BlobEntry, BlobReader, Blobs, belongs_to_another, not_kept};
use crate::{Clock, Digest, Error, ErrorCode, Result, SystemClock, blocking};

/// Content in a folder of this machine: `ab/cdef…`, each file put aside, checked, synced and renamed. A file on the same
/// disk is moved, not copied. When content was used last is the file's time of change.
#[derive(Debug, Clone)]
pub struct DirBlobs {
    root: PathBuf,
    clock: Arc<dyn Clock>,
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
        Ok(Self { root, clock: Arc::new(SystemClock::new()) })
    }

    /// By this clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
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
    async fn claim(&self, store: &str) -> Result<()> {
        let (blobs, store) = (self.clone(), store.to_owned());
        blocking(move || {
            let failed = |e| Error::from_io(format!("can't label the folder {}", blobs.root.display()), e);
            let _turn = blobs.turn().map_err(failed)?;
            let owner = blobs.owner(&store).map_err(failed)?;
            if owner == store {
                return Ok(());
            }
            Err(belongs_to_another(format!("the folder {}", blobs.root.display()), &owner, &store))
        })
        .await
    }

    async fn put(&self, digest: Digest, file: &Path) -> Result<()> {
        let (blobs, file) = (self.clone(), file.to_owned());
        blocking(move || blobs.put_file(digest, &file)).await
    }

    async fn get(&self, digest: Digest) -> Result<BlobReader> {
        match tokio::fs::File::open(self.path(digest)).await {
            Ok(file) => Ok(Box::new(Verified::new(file, digest))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(not_kept(digest)),
            Err(e) => Err(Error::from_io(format!("can't read the content {digest}"), e)),
        }
    }

    async fn has(&self, digest: Digest) -> Result<bool> {
        let found = tokio::fs::try_exists(self.path(digest)).await;
        found.map_err(|e| Error::from_io(format!("can't look for the content {digest}"), e))
    }

    async fn renew(&self, digest: Digest) -> Result<bool> {
        let blobs = self.clone();
        blocking(move || {
            let failed = |e| Error::from_io(format!("can't renew the content {digest}"), e);
            let _turn = blobs.turn().map_err(failed)?;
            blobs.touch(&blobs.path(digest)).map_err(failed)
        })
        .await
    }

    async fn list(&self, after: Option<Digest>, limit: usize) -> Result<Vec<BlobEntry>> {
        let root = self.root.clone();
        blocking(move || {
            list(&root, after, limit)
                .map_err(|e| Error::from_io(format!("can't list what is kept in {}", root.display()), e))
        })
        .await
    }

    async fn collect(&self, digest: Digest, before: DateTime<Utc>) -> Result<bool> {
        let blobs = self.clone();
        blocking(move || {
            let failed = |e| Error::from_io(format!("can't remove the content {digest}"), e);
            let _turn = blobs.turn().map_err(failed)?;
            let path = blobs.path(digest);
            let used = match std::fs::metadata(&path) {
                Ok(found) => DateTime::<Utc>::from(found.modified().map_err(failed)?),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
                Err(e) => return Err(failed(e)),
            };
            let old = used < before;
            if old {
                std::fs::remove_file(&path).map_err(failed)?;
            }
            Ok(old)
        })
        .await
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

impl DirBlobs {
    /// Only one at a time puts, renews or collects, of all processes that use the folder.
    fn turn(&self) -> std::io::Result<std::fs::File> {
        let path = self.root.join(".turn");
        let turn = std::fs::File::options().create(true).truncate(false).write(true).open(path)?;
        turn.lock()?;
        Ok(turn)
    }

    /// Whose label it has; with none it gets this store's, written aside so that it is never half there.
    fn owner(&self, store: &str) -> std::io::Result<String> {
        let label = self.root.join(".store");
        match std::fs::read_to_string(&label) {
            Ok(owner) => return Ok(owner.trim().to_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let aside = self.root.join(".store.new");
        std::fs::write(&aside, format!("{store}\n"))?;
        std::fs::File::open(&aside)?.sync_all()?;
        std::fs::rename(&aside, &label)?;
        std::fs::File::open(&self.root)?.sync_all()?;
        Ok(store.to_owned())
    }

    /// Marks it as used now; false where it isn't there.
    fn touch(&self, path: &Path) -> std::io::Result<bool> {
        match std::fs::File::open(path) {
            Ok(file) => file.set_modified(self.clock.now().into()).map(|()| true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn put_file(&self, digest: Digest, file: &Path) -> Result<()> {
        let failed = |e| Error::from_io(format!("can't keep the content {digest}"), e);
        let target = self.path(digest);
        // Whoever looked without the turn and found nothing has nothing to mark; it takes the turn to put its own in place.
        if target.exists() {
            let _turn = self.turn().map_err(failed)?;
            if self.touch(&target).map_err(failed)? {
                return Ok(());
            }
        }
        self.write_file(digest, file, &target)
    }

    /// Writes it aside and puts it in its place.
    fn write_file(&self, digest: Digest, file: &Path, target: &Path) -> Result<()> {
        let failed = |e| Error::from_io(format!("can't keep the content {digest}"), e);
        let dir = target.parent().unwrap_or(target);
        if !dir.exists() {
            std::fs::create_dir_all(dir).map_err(failed)?;
            // The new folder's own name must be safe, too.
            dir.parent().map_or(Ok(()), |root| std::fs::File::open(root)?.sync_all()).map_err(failed)?;
        }
        let aside = dir.join(format!(".{}", uuid::Uuid::new_v4()));
        let kept = match put_aside(file, &aside) {
            Ok(actual) if actual == digest => {
                let placed = self.turn().and_then(|_turn| {
                    self.touch(&aside)?;
                    std::fs::rename(&aside, target)
                });
                placed.and_then(|()| std::fs::File::open(dir)?.sync_all()).map_err(failed)
            }
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
}

/// The entries of a folder in the order of their names.
fn sorted(dir: &Path) -> std::io::Result<Vec<std::fs::DirEntry>> {
    let mut entries = std::fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    Ok(entries)
}

/// Whatever isn't named like content is somebody else's.
fn list(root: &Path, after: Option<Digest>, limit: usize) -> std::io::Result<Vec<BlobEntry>> {
    let after = after.map(|after| after.hex()).unwrap_or_default();
    let mut found = Vec::new();
    for dir in sorted(root)? {
        let prefix = dir.file_name().to_string_lossy().into_owned();
        if prefix.len() != 2 || !dir.file_type()?.is_dir() || *prefix < *after.get(..2).unwrap_or_default() {
            continue;
        }
        for file in sorted(&dir.path())? {
            let hex = format!("{prefix}{}", file.file_name().to_string_lossy());
            let Ok(digest) = format!("sha256:{hex}").parse::<Digest>() else { continue };
            if hex <= after {
                continue;
            }
            if found.len() == limit {
                return Ok(found);
            }
            match file.metadata() {
                Ok(is) => found.push(BlobEntry::new(digest, is.len(), is.modified()?.into())),
                // Somebody removed it meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(found)
}

/// Moves or copies a file, makes it safe on disk and says what its content is.
fn put_aside(file: &Path, aside: &Path) -> std::io::Result<Digest> {
    if take(file, aside)? {
        let mut taken = std::fs::File::open(aside)?;
        let mut hashing = Hashing::new(std::io::sink());
        std::io::copy(&mut taken, &mut hashing)?;
        taken.sync_all()?;
        return Ok(hashing.hasher.finish());
    }
    let mut from = std::fs::File::open(file)?;
    let mut hashing = Hashing::new(std::fs::File::create_new(aside)?);
    std::io::copy(&mut from, &mut hashing)?;
    hashing.to.sync_all()?;
    Ok(hashing.hasher.finish())
}

/// Moves a file that is ours alone: nobody can change it by another name, or because it belongs to them. False on
/// another disk, or where we may not move it.
fn take(file: &Path, aside: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let is = std::fs::symlink_metadata(file)?;
    let ours = std::fs::metadata(aside.parent().unwrap_or(aside))?.uid();
    Ok(is.is_file() && is.nlink() == 1 && is.uid() == ours && std::fs::rename(file, aside).is_ok())
}

/// Hashes what passes.
struct Hashing<W> {
    to: W,
    hasher: crate::digest::Hasher,
}

impl<W> Hashing<W> {
    fn new(to: W) -> Self {
        Self { to, hasher: crate::digest::Hasher::new() }
    }
}

impl<W: std::io::Write> std::io::Write for Hashing<W> {
    fn write(&mut self, content: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(content)?;
        self.hasher.update(&content[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests;
