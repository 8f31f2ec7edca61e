//! The folders of one build: where they lie, and where the build sees them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use paas_core::{Error, Result};
use paas_sandbox::{Group, Profile, User, tree};

/// Where every build sees its folders. The same for all, so that the same input gives the same slug.
pub(super) mod seen {
    pub(in super::super) const HOME: &str = "/app";
    pub(in super::super) const BUILD: &str = "/tmp/build";
    pub(in super::super) const CACHE: &str = "/tmp/cache";
    pub(in super::super) const PACKS: &str = "/tmp/packs";
    pub(in super::super) const RESULT: &str = "/tmp/result";
    /// In memory: config vars never touch the disk in the clear.
    pub(in super::super) const ENV: &str = "/dev/shm/env";
}

/// One build's folders on the disk; dropping it removes them.
#[derive(Debug)]
pub(super) struct Work {
    root: PathBuf,
    owner: Option<User>,
    /// Says to other engines that the build is not an orphan.
    _lock: fs::File,
}

impl Work {
    /// New folders under `root`, owned by the build's user.
    pub(super) fn new(root: &Path, owner: Option<User>) -> Result<Self> {
        let failed = |e| Error::from_io("can't make the folders of a build", e);
        let root = root.join(uuid::Uuid::new_v4().to_string());
        tree::make(&root, None).map_err(failed)?;
        let lock = fs::File::create(root.join("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let work = Self { root, owner, _lock: lock };
        let folders = ["tmp", "home", "result", "packs"];
        folders.iter().try_for_each(|name| tree::make(&work.root.join(name), owner)).map_err(failed)?;
        Ok(work)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the pack of this number lies.
    pub(super) fn pack(&self, number: usize) -> PathBuf {
        self.root.join("packs").join(number.to_string())
    }

    /// What the build told the platform. Of a file that the build could have replaced, so no link is followed.
    pub(super) fn result(&self, name: &str) -> Result<Option<String>> {
        let content = crate::file::read_small(&self.root.join("result"), name, 64 * 1024)?;
        Ok(content.map(|content| String::from_utf8_lossy(&content).into_owned()))
    }

    /// Shows the folders to the build.
    pub(super) fn show(&self, profile: Profile) -> Profile {
        profile
            .user(self.owner)
            .group(group(&self.root))
            .tmp(self.root.join("tmp"))
            .bind(self.root.join("home"), seen::HOME)
            .bind(self.root.join("packs"), seen::PACKS)
            .bind(self.root.join("result"), seen::RESULT)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let root = std::mem::take(&mut self.root);
        let remove = move || {
            if let Err(e) = tree::remove(&root) {
                tracing::warn!(error = %e, folder = %root.display(), "can't remove a build's folder; the next start tries again");
            }
        };
        // Nobody has to wait for it.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// The control group of the build with this folder.
fn group(root: &Path) -> String {
    format!("build-{}", root.file_name().unwrap_or_default().display())
}

/// Ends the builds that a killed engine left running, and removes their folders. Those of another engine that lives
/// stay.
pub(super) fn end_orphans(root: &Path) -> Result<()> {
    let failed = |e| Error::from_io("can't remove what builds of a killed engine left", e);
    for entry in fs::read_dir(root).map_err(failed)? {
        let folder = entry.map_err(failed)?.path();
        let Ok(lock) = fs::File::open(folder.join("lock")) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        if let Err(e) = end(&folder) {
            tracing::warn!(error = %e, "can't end a build that was left running");
        }
        tree::remove(&folder).map_err(failed)?;
    }
    Ok(())
}

/// Kills all processes of the build with this folder.
fn end(folder: &Path) -> paas_sandbox::Result<()> {
    let left = Group::find(&group(folder));
    // Killed processes need a moment until they are gone; the kernel may still write for them.
    for _ in 0..1000 {
        if left.remove() {
            return Ok(());
        }
        left.kill();
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(paas_sandbox::Error::Setup("its killed processes are not gone after 5 s".to_owned()))
}

/// Removes what `.slugignore` names, as Heroku does before anything is compiled.
pub(super) fn leave_out(dir: &Path) -> Result<()> {
    let Some(text) = crate::file::read_small(dir, ".slugignore", 256 * 1024)? else { return Ok(()) };
    let mut rules = ignore::gitignore::GitignoreBuilder::new(dir);
    for line in String::from_utf8_lossy(&text).lines() {
        // Git leaves out what is no pattern, too.
        if let Err(e) = rules.add_line(None, line) {
            tracing::debug!(error = %e, "a line of .slugignore is no pattern");
        }
    }
    let Ok(rules) = rules.build() else { return Ok(()) };
    remove_ignored(dir, dir, &rules).map_err(|e| Error::from_io("can't leave out what .slugignore names", e))
}

fn remove_ignored(root: &Path, dir: &Path, rules: &ignore::gitignore::Gitignore) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let (entry, folder) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?.is_dir())))?;
        if rules.matched(entry.strip_prefix(root).unwrap_or(&entry), folder).is_ignore() {
            if folder { tree::remove(&entry)? } else { fs::remove_file(&entry)? }
        } else if folder {
            remove_ignored(root, &entry, rules)?;
        }
    }
    Ok(())
}
