//! The machine's languages, as builds and apps find them: those of the system are there anyway; those in a closed home
//! folder are shown read-only.

use std::path::{Path, PathBuf};

use crate::Profile;

/// What is always on the PATH, as on Heroku.
const SYSTEM: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Folders to show, and the PATH that leads to their programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Toolchains {
    /// What to show read-only, as [`Profile::read_only`] does.
    pub folders: Vec<PathBuf>,
    /// The PATH: the system's folders, then those of homes.
    pub path: String,
}

impl Toolchains {
    /// Those on the platform's own PATH.
    pub fn here() -> Self {
        Self::on(&std::env::var("PATH").unwrap_or_default())
    }

    /// Those on this PATH that lie in a home folder.
    pub fn on(path: &str) -> Self {
        let mut found = Self { folders: Vec::new(), path: SYSTEM.to_owned() };
        for dir in path.split(':').map(Path::new).filter(|dir| dir.is_absolute() && dir.is_dir()) {
            let system = Profile::SYSTEM.iter().any(|system| dir.starts_with(system));
            let Some(text) = dir.to_str().filter(|_| !system) else { continue };
            for folder in needed(dir) {
                if folder.exists() && !found.folders.iter().any(|known| folder.starts_with(known)) {
                    found.folders.push(folder);
                }
            }
            found.path = format!("{}:{text}", found.path);
        }
        found
    }

    /// Size and time of the programs that apps are built with: another version gives another artifact.
    pub fn identity(&self) -> Vec<String> {
        use std::os::unix::fs::MetadataExt;
        let names = ["bash", "node", "npm", "python3", "ruby", "go", "cargo"];
        let found =
            names.iter().flat_map(|name| self.path.split(':').map(move |dir| Path::new(dir).join(name)));
        found
            .filter_map(|program| {
                let meta = program.metadata().ok()?;
                Some(format!("{} {} {}", program.display(), meta.size(), meta.mtime()))
            })
            .collect()
    }
}

/// What a folder of programs needs beside it, and nothing else of a home.
fn needed(bin: &Path) -> Vec<PathBuf> {
    let parent = bin.parent().unwrap_or(bin);
    let named = |path: &Path, name: &str| path.file_name().is_some_and(|found| found == name);
    if named(parent, ".cargo") {
        // Beside it lie credentials; what the programs need is rustup's.
        let rustup = parent.parent().map(|home| home.join(".rustup"));
        return std::iter::once(bin.to_owned()).chain(rustup).collect();
    }
    // `~/.pyenv/shims` and `~/.nvm/versions/node/v20/bin` need what is around them; `~/bin` and `~/.local/bin` don't.
    let tool = named(bin, "shims") || (named(bin, "bin") && !named(parent, ".local"));
    let hidden = parent.components().any(|part| part.as_os_str().as_encoded_bytes().starts_with(b"."));
    vec![if tool && hidden { parent.to_owned() } else { bin.to_owned() }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_shows_its_toolchains_and_nothing_else() {
        let home = tempfile::Builder::new().prefix("home").tempdir().unwrap();
        let at = |path: &str| home.path().join(path);
        for dir in [".cargo/bin", ".rustup", ".pyenv/shims", "bin", ".local/bin", ".nvm/v20/bin"] {
            std::fs::create_dir_all(at(dir)).unwrap();
        }
        let dirs = [".cargo/bin", ".pyenv/shims", "bin", ".local/bin", ".nvm/v20/bin", "missing"];
        let path: Vec<_> = dirs.iter().map(|dir| at(dir).display().to_string()).collect();
        let found = Toolchains::on(&format!("/usr/bin:{}", path.join(":")));
        let shown = [".cargo/bin", ".rustup", ".pyenv", "bin", ".local/bin", ".nvm/v20"].map(at);
        assert_eq!(found.folders, shown);
        assert!(found.path.starts_with(SYSTEM) && found.path.ends_with(".nvm/v20/bin"));
    }
}
