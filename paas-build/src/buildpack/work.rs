//! The folders of one build: where they lie, and where the build sees them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use paas_core::{Error, Result};
use paas_sandbox::{Profile, User};

use super::tree;

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
}

impl Work {
    /// New folders under `root`, owned by the build's user.
    pub(super) fn new(root: &Path, owner: Option<User>) -> Result<Self> {
        let work = Self { root: root.join(uuid::Uuid::new_v4().to_string()), owner };
        let made = tree::make(&work.root, None).and_then(|()| {
            ["tmp", "home", "result", "packs"]
                .iter()
                .try_for_each(|name| tree::make(&work.root.join(name), owner))
        });
        made.map_err(|e| Error::from_io("can't make the folders of a build", e))?;
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
