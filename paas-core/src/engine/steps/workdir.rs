//! Folders for the time of one step. A killed engine leaves its own behind; the next start removes them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::blocking;
use crate::{Error, Result};

/// A folder that is removed when this is dropped. Whoever holds it holds a lock beside it.
#[derive(Debug)]
pub(crate) struct WorkDir {
    path: PathBuf,
    lock: PathBuf,
    _held: File,
}

impl WorkDir {
    pub(crate) async fn make(root: &Path) -> Result<Self> {
        let root = root.to_owned();
        blocking(move || {
            let failed = |e| Error::from_io(format!("can't make a work folder in {}", root.display()), e);
            fs::create_dir_all(&root).map_err(failed)?;
            let name = Uuid::new_v4().simple().to_string();
            let (path, lock) = (root.join(&name), root.join(format!("{name}.lock")));
            let held = File::create_new(&lock).map_err(failed)?;
            held.lock().map_err(failed)?;
            fs::create_dir(&path).map_err(failed)?;
            Ok(Self { path, lock, _held: held })
        })
        .await
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        remove(&self.path, &self.lock);
    }
}

fn remove(path: &Path, lock: &Path) {
    for result in [fs::remove_dir_all(path), fs::remove_file(lock)] {
        if let Err(error) = result
            && error.kind() != std::io::ErrorKind::NotFound
        {
            // The next start tries again.
            tracing::warn!(error = %error, path = %path.display(), "can't remove a work folder");
        }
    }
}

/// Removes the folders of engines that are gone: those whose lock nobody holds.
pub(crate) async fn sweep(root: &Path) -> Result<()> {
    let root = root.to_owned();
    blocking(move || {
        let Ok(entries) = fs::read_dir(&root) else { return Ok(()) };
        for entry in entries.flatten() {
            let lock = entry.path();
            let ours = lock.extension().is_some_and(|e| e == "lock")
                && lock
                    .file_stem()
                    .and_then(|stem| stem.to_str())
                    .is_some_and(|stem| Uuid::parse_str(stem).is_ok());
            if ours && File::open(&lock).is_ok_and(|file| file.try_lock().is_ok()) {
                remove(&lock.with_extension(""), &lock);
            }
        }
        Ok(())
    })
    .await
}
