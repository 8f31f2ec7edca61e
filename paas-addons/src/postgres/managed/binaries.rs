//! Finds installed servers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// The oldest major version that can drop a database somebody is connected to.
const OLDEST: u32 = 13;

/// Folders of distributions in which each version has a folder of its own: parent, prefix, rest.
const VERSIONED: [(&str, &str, &str); 6] = [
    ("/usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                   // PostgreSQL's own packages for RHEL, Fedora, SUSE
    ("/usr/libexec", "postgresql", ""),          // Alpine
    ("/usr/lib", "postgresql", "bin"),           // SUSE
    ("/opt/homebrew/opt", "postgresql@", "bin"), // Homebrew
    ("/usr/local/opt", "postgresql@", "bin"),    // Homebrew
];

/// A folder with `initdb` and `postgres` of one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Binaries {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) folder: PathBuf,
}

impl Binaries {
    /// Whether they read data of this major version; any do where there is none yet. They may have been
    /// removed or replaced since they were found.
    pub(super) fn suits(&self, version: Option<&str>) -> bool {
        version.is_none_or(|version| self.major.to_string() == version)
            && self.folder.join("postgres").is_file()
    }
}

/// All that are installed, the newest last. With `only` just those of that folder.
pub(super) async fn installed(only: Option<&Path>) -> Vec<Binaries> {
    let folders = only.map_or_else(candidates, |folder| BTreeSet::from([folder.to_owned()]));
    let mut found = Vec::new();
    for folder in folders {
        if folder.join("initdb").is_file()
            && folder.join("postgres").is_file()
            && let Some((major, minor)) = version(&folder.join("postgres")).await
            && major >= OLDEST
        {
            found.push(Binaries { major, minor, folder });
        }
    }
    found.sort();
    found
}

fn candidates() -> BTreeSet<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).filter(|p| p.is_absolute()).collect();
    folders.push("/usr/local/pgsql/bin".into());
    for (parent, prefix, rest) in VERSIONED {
        // A folder that isn't there or can't be read has no server for us.
        let Ok(entries) = fs::read_dir(parent) else { continue };
        let named = entries.flatten().filter(|e| {
            let name = e.file_name();
            let version = name.to_str().and_then(|n| n.strip_prefix(prefix));
            version.is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
        });
        folders.extend(named.map(|e| e.path().join(rest)));
    }
    // Where links lead, so that one server is asked once.
    let real = folders.into_iter().filter_map(|folder| folder.join("postgres").canonicalize().ok());
    real.filter_map(|postgres| postgres.parent().map(Path::to_owned)).collect()
}

/// What `postgres --version` says: `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
async fn version(postgres: &Path) -> Option<(u32, u32)> {
    let mut command = Command::new(postgres);
    command.arg("--version").env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.ok().filter(|output| output.status.success())?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(text: &str) -> Option<(u32, u32)> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut parts = number.split(|c: char| !c.is_ascii_digit());
    let major = parts.next()?.parse().ok()?;
    Some((major, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_print() {
        assert_eq!(parse("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some((15, 18)));
        assert_eq!(parse("postgres (PostgreSQL) 18beta1\n"), Some((18, 0)));
        assert_eq!(parse("postgres (PostgreSQL)"), None);
    }

    #[tokio::test]
    async fn an_empty_folder_has_no_server() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(installed(Some(folder.path())).await, []);
    }
}
