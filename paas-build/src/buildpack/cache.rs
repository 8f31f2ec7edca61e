//! What an app's builds keep for the next one: changed by a build that succeeds, and by no other.
//!
//! A build sees a layer over the kept folder, so starting costs nothing however large it is, and keeping costs as much
//! as the build changed. Where the kernel or the disk can't do that, the build gets a copy.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use paas_core::AppId;
use paas_sandbox::{Profile, User, tree};

/// The kept folders of all apps.
#[derive(Debug, Clone)]
pub(super) struct Caches {
    root: PathBuf,
    layers: bool,
}

impl Caches {
    pub(super) fn new(root: PathBuf, layers: bool) -> Self {
        Self { root, layers }
    }

    /// Makes a build's view of the app's kept folder, with what it needs in the folder `work`.
    pub(super) fn open(&self, app: AppId, work: &Path, owner: Option<User>) -> io::Result<Cache> {
        let home = self.root.join(app.to_string());
        let kept = home.join("kept");
        // An engine was killed while it was keeping: what is there belongs to no build.
        if home.join("keeping").exists() {
            tree::remove(&home)?;
        }
        if !kept.exists() {
            fs::create_dir_all(&home)?;
            tree::make(&kept, owner)?;
        }
        let cache = Cache { home, kept, seen: work.join("cache"), layers: self.layers };
        if self.layers {
            tree::make(&cache.seen, owner)?;
        } else {
            tree::copy(&cache.kept, &cache.seen, owner)?;
        }
        Ok(cache)
    }

    /// Forgets what was kept for an app.
    pub(super) fn forget(&self, app: AppId) -> io::Result<()> {
        tree::remove(&self.root.join(app.to_string()))
    }
}

/// One build's view of what is kept.
#[derive(Debug)]
pub(super) struct Cache {
    home: PathBuf,
    kept: PathBuf,
    /// The copy, or what was changed.
    seen: PathBuf,
    layers: bool,
}

impl Cache {
    /// Shows it to a confined build in this place.
    pub(super) fn show(&self, profile: Profile, to: &Path) -> Profile {
        if self.layers { profile.overlay(&self.kept, &self.seen, to) } else { profile.bind(&self.seen, to) }
    }

    /// Keeps what the build made of it. The build's processes must be gone.
    pub(super) fn keep(&self) -> io::Result<()> {
        let changes = self.seen.join("upper");
        if self.layers && fs::read_dir(&changes)?.next().is_none() {
            return Ok(());
        }
        let keeping = self.home.join("keeping");
        fs::write(&keeping, "")?;
        if self.layers {
            merge(&changes, &self.kept)?;
        } else {
            tree::remove(&self.kept)?;
            fs::rename(&self.seen, &self.kept)?;
        }
        fs::remove_file(keeping)
    }
}

/// Moves the changes of a layer into the folder that it lay over. Nothing is followed: links are moved.
fn merge(layer: &Path, into: &Path) -> io::Result<()> {
    for entry in fs::read_dir(layer)? {
        let entry = entry?;
        let (from, to) = (entry.path(), into.join(entry.file_name()));
        let meta = entry.metadata()?;
        let there = fs::symlink_metadata(&to).ok();
        let both_folders = meta.is_dir() && there.as_ref().is_some_and(fs::Metadata::is_dir);
        if both_folders && !is_opaque(&from)? {
            merge(&from, &to)?;
            fs::set_permissions(&to, meta.permissions())?;
            continue;
        }
        match there {
            Some(there) if there.is_dir() => tree::remove(&to)?,
            Some(_) => fs::remove_file(&to)?,
            None => {}
        }
        // The kernel's mark for what the build removed.
        let removed = meta.file_type().is_char_device() && meta.rdev() == 0;
        if !removed {
            fs::rename(&from, &to)?;
        }
    }
    Ok(())
}

/// Whether a folder of a layer replaces the one below it instead of adding to it.
fn is_opaque(dir: &Path) -> io::Result<bool> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        let mut value = [0_u8; 8];
        match rustix::fs::lgetxattr(dir, name, &mut value) {
            Ok(length) if value[..length] == *b"y" => return Ok(true),
            Ok(_) | Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_layers_a_build_gets_a_copy_that_replaces_the_kept_folder_when_it_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::new(dir.path().join("cache"), false);
        let app = AppId::new();
        let open = |name: &str| {
            let work = dir.path().join(name);
            fs::create_dir(&work).unwrap();
            caches.open(app, &work, None).unwrap()
        };
        let first = open("first");
        fs::write(first.seen.join("a"), "1").unwrap();
        first.keep().unwrap();
        let failed = open("failed");
        fs::write(failed.seen.join("a"), "2").unwrap();
        fs::write(failed.seen.join("b"), "").unwrap();
        let next = open("next");
        assert_eq!(fs::read_to_string(next.seen.join("a")).unwrap(), "1");
        assert!(!next.seen.join("b").exists());
    }

    #[test]
    fn a_cache_that_was_being_kept_when_the_engine_was_killed_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::new(dir.path().join("cache"), false);
        let app = AppId::new();
        let home = dir.path().join("cache").join(app.to_string());
        fs::create_dir_all(home.join("kept")).unwrap();
        fs::write(home.join("kept/half"), "").unwrap();
        fs::write(home.join("keeping"), "").unwrap();
        let work = dir.path().join("work");
        fs::create_dir(&work).unwrap();
        let cache = caches.open(app, &work, None).unwrap();
        assert!(!cache.seen.join("half").exists());
        caches.forget(app).unwrap();
        caches.forget(app).unwrap();
        assert!(!home.exists());
    }
}
