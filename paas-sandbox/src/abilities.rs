//! What this machine can wall off: tried, never assumed.

use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::group::Groups;
use crate::{Error, Helper, Result, stage};

/// What can be walled off on this machine, by this user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools, reason = "independent abilities, not a state")]
#[non_exhaustive]
pub struct Abilities {
    /// Programs can run as other users (we are root).
    pub users: bool,
    /// Programs can have a file tree of their own: binds, a private `/tmp`, nothing else in sight.
    pub namespaces: bool,
    /// The kernel's landlock: files by path, signals and sockets outside out of reach.
    pub landlock: bool,
    /// Everything a program started can be found and killed, whatever it did to hide.
    pub groups: bool,
    /// Memory can be limited.
    pub memory: bool,
    /// The number of processes can be limited for all of a program together.
    pub tasks: bool,
    /// CPU time can be limited.
    pub cpu: bool,
}

impl Abilities {
    /// Whether programs can't read what is not theirs.
    pub fn isolated(&self) -> bool {
        self.namespaces || self.landlock
    }

    /// Whether memory and tasks are limited.
    pub fn limited(&self) -> bool {
        self.memory && self.tasks
    }

    /// What is missing, in words for people: each a sentence about what that means.
    pub fn missing(&self) -> Vec<&'static str> {
        let rows = [
            (self.users, "not root: programs run as the platform's own user"),
            (self.namespaces, "no mount namespaces: programs share /tmp and see where files lie"),
            (self.landlock, "no landlock: files are guarded by mounts and owners only"),
            (self.groups, "no cgroup v2: a daemon that hides from its parent may survive a stop"),
            (self.memory, "no memory controller: memory is not limited"),
            (self.tasks, "no pids controller: the number of processes is not limited"),
            (self.cpu, "no cpu controller: CPU time is not limited"),
        ];
        rows.into_iter().filter(|(able, _)| !able).map(|(_, text)| text).collect()
    }

    /// Tries everything, the harmful parts in a helper process.
    pub(crate) fn detect(helper: &Helper) -> Result<Self> {
        let ran = Command::new(helper.path())
            .arg(stage::PROBE)
            .env_clear()
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .map_err(Error::io(format!("can't start the helper {}", helper.path().display())))?;
        let mut able: Self = serde_json::from_slice(&ran.stdout).map_err(|_| Error::NotInitialised)?;
        let groups = Groups::get();
        able.groups = groups.can_kill();
        able.memory = groups.limits_memory();
        able.tasks = groups.limits_tasks();
        able.cpu = groups.limits_cpu();
        Ok(able)
    }
}
