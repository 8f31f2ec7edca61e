//! What a confined program may see, use and be.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The walls around one program. What is not named here, or part of the system's own folders
/// ([`Profile::SYSTEM`]), the program doesn't see.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Profile {
    /// Who it runs as. Only root can change users: see [`Abilities::users`](crate::Abilities).
    pub user: Option<User>,
    /// Folders and files it may read and execute, beside the system's.
    pub read_only: Vec<PathBuf>,
    /// Folders and files it may change.
    pub read_write: Vec<PathBuf>,
    /// Folders and files it sees in another place than where they are. Without mount namespaces they are
    /// left out: see [`Abilities::namespaces`](crate::Abilities).
    pub binds: Vec<Bind>,
    /// Folders that it sees as its own copies, of which only the changes are kept. Needs mount namespaces and a
    /// kernel and file system that can: try it before relying on it.
    pub overlays: Vec<Overlay>,
    /// The folder that is its `/tmp` and `/var/tmp`: a fresh one of its own. Without one it gets an empty one
    /// in memory.
    pub tmp: Option<PathBuf>,
    /// What it must not see of the folders above. Only mount namespaces can hide a part of what is shown.
    pub hidden: Vec<PathBuf>,
    /// How much it may use.
    pub limits: Limits,
    /// The name of its control group, one path component of `a-z A-Z 0-9 . _ -`; one is made up where `None`.
    pub group: Option<String>,
    /// Without network it gets a network namespace of its own with nothing in it.
    pub network: bool,
}

impl Profile {
    /// What every program may read: the system's own programs, libraries and settings. Homes, `/var`, `/srv`,
    /// `/run` and whatever else stands in `/` stay out of sight.
    pub const SYSTEM: &'static [&'static str] = &[
        "/bin",
        "/etc",
        "/lib",
        "/lib32",
        "/lib64",
        "/libx32",
        "/nix/store",
        "/opt",
        "/run/systemd/resolve",
        "/sbin",
        "/sys",
        "/usr",
        "/var/lib/gems",
    ];

    /// Sees the system's folders and nothing else; the network is there.
    pub fn new() -> Self {
        Self { network: true, ..Self::default() }
    }

    /// As this user.
    #[must_use]
    pub fn user(mut self, user: Option<User>) -> Self {
        self.user = user;
        self
    }

    /// May read and execute this too.
    #[must_use]
    pub fn read_only(mut self, path: impl Into<PathBuf>) -> Self {
        self.read_only.push(path.into());
        self
    }

    /// May change this.
    #[must_use]
    pub fn read_write(mut self, path: impl Into<PathBuf>) -> Self {
        self.read_write.push(path.into());
        self
    }

    /// Sees `from` as `to` and may change it.
    #[must_use]
    pub fn bind(mut self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.binds.push(Bind { from: from.into(), to: to.into(), writable: true });
        self
    }

    /// Sees `from` as `to` and may read it.
    #[must_use]
    pub fn bind_read_only(mut self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> Self {
        self.binds.push(Bind { from: from.into(), to: to.into(), writable: false });
        self
    }

    /// Sees `from` as `to`, and what it changes there goes to the folder `changes`, which must belong to its user
    /// and be used for nothing else.
    #[must_use]
    pub fn overlay(
        mut self,
        from: impl Into<PathBuf>,
        changes: impl Into<PathBuf>,
        to: impl Into<PathBuf>,
    ) -> Self {
        self.overlays.push(Overlay { from: from.into(), changes: changes.into(), to: to.into() });
        self
    }

    /// With this folder as its `/tmp`.
    #[must_use]
    pub fn tmp(mut self, folder: impl Into<PathBuf>) -> Self {
        self.tmp = Some(folder.into());
        self
    }

    /// Does not see this.
    #[must_use]
    pub fn hide(mut self, path: impl Into<PathBuf>) -> Self {
        self.hidden.push(path.into());
        self
    }

    /// With these limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// In the control group of this name.
    #[must_use]
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// With or without network.
    #[must_use]
    pub fn network(mut self, wanted: bool) -> Self {
        self.network = wanted;
        self
    }
}

/// Who a program runs as. It is in no other group than its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct User {
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

impl User {
    /// The user and the group of this number.
    pub fn new(id: u32) -> Self {
        Self { uid: id, gid: id }
    }
}

/// A place that is seen in another place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Bind {
    /// Where it is.
    pub from: PathBuf,
    /// Where the program sees it.
    pub to: PathBuf,
    /// Whether the program may change it.
    pub writable: bool,
}

/// A folder that is seen as a copy in another place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Overlay {
    /// Where it is; it stays as it is.
    pub from: PathBuf,
    /// Where the changes are kept.
    pub changes: PathBuf,
    /// Where the program sees it.
    pub to: PathBuf,
}

/// How much a program and all that it starts may use together. Zero is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of memory; beyond it the kernel kills.
    pub memory: u64,
    /// Thousandths of a core.
    pub cpu: u32,
    /// Processes and threads.
    pub tasks: u32,
    /// Open files of each process.
    pub open_files: u64,
    /// Bytes of each file that is written.
    pub file_size: u64,
}

impl Limits {
    /// No limits but 65,536 open files.
    pub fn new() -> Self {
        Self { open_files: 65_536, ..Self::default() }
    }

    /// At most this much memory, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// At most so many thousandths of a core.
    #[must_use]
    pub fn cpu(mut self, thousandths: u32) -> Self {
        self.cpu = thousandths;
        self
    }

    /// At most so many processes and threads.
    #[must_use]
    pub fn tasks(mut self, tasks: u32) -> Self {
        self.tasks = tasks;
        self
    }

    /// No file larger than this, in bytes.
    #[must_use]
    pub fn file_size(mut self, bytes: u64) -> Self {
        self.file_size = bytes;
        self
    }
}
