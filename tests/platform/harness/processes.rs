//! Which processes belong to a data folder, found from outside by what the kernel knows of each.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

/// A process and not another one that got its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    started: u64,
}

impl Identity {
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // After the name, which may hold anything: field 3 is the state, field 22 the start.
        let rest: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(*rest.first()?, "Z" | "X") {
            return None;
        }
        Some(Self { pid, started: rest.get(19)?.parse().ok()? })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// A process as the kernel shows it.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) identity: Identity,
    pub(crate) parent: u32,
    pub(crate) args: String,
    environ: String,
}

impl Process {
    /// The value of a variable that it was started with.
    pub(crate) fn variable(&self, key: &str) -> Option<&str> {
        self.variables().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// The variables that it was started with.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environ.split('\0').filter_map(|pair| pair.split_once('='))
    }

    /// The instance it is the program of, such as `web.1`.
    pub(crate) fn instance(&self) -> Option<&str> {
        self.variable("DYNO")
    }

    pub(crate) fn holds(&self, text: &str) -> bool {
        self.args.contains(text) || self.environ.contains(text)
    }

    pub(crate) fn kill(&self) {
        if let Some(pid) = i32::try_from(self.identity.pid).ok().and_then(Pid::from_raw) {
            // It may have ended just now.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    fn read(pid: u32) -> Option<Self> {
        let identity = Identity::of(pid)?;
        let text = |name: &str| {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        // What has just ended has none.
        let args = text("cmdline").filter(|args| !args.is_empty())?.replace('\0', " ");
        let status = text("status")?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
        Some(Self { identity, parent, args, environ: text("environ").unwrap_or_default() })
    }

    /// Whether it was started for, looks at, or has open something in this folder, which lies there on its disk.
    fn touches(&self, folder: &str, own_mounts: &str, on_disk: &OnDisk) -> bool {
        let proc = format!("/proc/{}", self.identity.pid);
        let link = |name: String| {
            fs::read_link(name).is_ok_and(|target| target.to_string_lossy().starts_with(folder))
        };
        if self.holds(folder) || ["cwd", "root", "exe"].iter().any(|name| link(format!("{proc}/{name}"))) {
            return true;
        }
        let namespace = fs::read_link(format!("{proc}/ns/mnt")).unwrap_or_default();
        if namespace.as_os_str() != own_mounts
            && fs::read_to_string(format!("{proc}/mountinfo"))
                .is_ok_and(|mounts| on_disk.is_shown_in(&mounts))
        {
            return true;
        }
        let open = fs::read_dir(format!("{proc}/fd"));
        open.into_iter().flatten().flatten().any(|fd| link(fd.path().to_string_lossy().into_owned()))
    }
}

/// Which disk a folder lies on, and where: a sandbox shows it by that, whatever the disk is called outside.
struct OnDisk {
    device: String,
    path: PathBuf,
}

impl OnDisk {
    fn of(folder: &Path) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().filter_map(mount).filter(|(_, _, at)| folder.starts_with(at));
        // The last of the longest is the one on top.
        let (device, root, at) = mounts.max_by_key(|(_, _, at)| at.len()).expect("a disk");
        let below = folder.strip_prefix(at).unwrap_or(folder);
        Self { device: device.to_owned(), path: Path::new(root).join(below) }
    }

    fn is_shown_in(&self, mounts: &str) -> bool {
        let mut shown = mounts.lines().filter_map(mount);
        shown.any(|(device, root, _)| device == self.device && Path::new(root).starts_with(&self.path))
    }
}

/// Of a line of `mountinfo` the device, the folder of it that is shown, and where.
fn mount(line: &str) -> Option<(&str, &str, &str)> {
    let mut fields = line.split(' ').skip(2);
    Some((fields.next()?, fields.next()?, fields.next()?))
}

/// Everything that runs here, less this process.
pub(crate) fn all() -> impl Iterator<Item = Process> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != std::process::id()).filter_map(Process::read)
}

/// The processes of a data folder: apps, their parents, builds, git, databases.
pub(crate) fn of(data: &Path) -> Vec<Process> {
    let folder = data.to_str().unwrap();
    let own_mounts = fs::read_link("/proc/self/ns/mnt").unwrap_or_default();
    let own_mounts = own_mounts.to_str().unwrap_or_default();
    let on_disk = OnDisk::of(data);
    all().filter(|process| process.touches(folder, own_mounts, &on_disk)).collect()
}
