//! Control groups: limits for a program and all that it starts, and a way to end every one of them.
//!
//! Three kinds of machine are met: cgroup v2 alone with its controllers, v1 controllers beside a v2 tree that has
//! none but `cgroup.kill`, and no right to write anywhere. A group is one folder of the same name in each tree
//! that can be written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::procfs::ProcessId;
use crate::{Error, Limits, Result};

/// Marks the folders that we made; others are never touched.
const PREFIX: &str = "paas.";
/// Marks groups without a name of their own, which die with the process that made them.
const UNNAMED: &str = "paas.x.";

/// The trees in which groups can be made: found once.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// cgroup v2, for `cgroup.kill`, and for limits where it has controllers.
    unified: Option<PathBuf>,
    /// The controllers that a group in `unified` gets.
    controllers: Vec<String>,
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

impl Groups {
    pub(crate) fn get() -> &'static Self {
        static FOUND: OnceLock<Groups> = OnceLock::new();
        FOUND.get_or_init(|| {
            let found = Self::find();
            found.sweep();
            found
        })
    }

    pub(crate) fn can_kill(&self) -> bool {
        self.trees().next().is_some()
    }

    pub(crate) fn limits_memory(&self) -> bool {
        self.memory.is_some() || self.has("memory")
    }

    pub(crate) fn limits_tasks(&self) -> bool {
        self.pids.is_some() || self.has("pids")
    }

    pub(crate) fn limits_cpu(&self) -> bool {
        self.cpu.is_some() || self.has("cpu")
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    fn trees(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.unified, &self.memory, &self.pids, &self.cpu].into_iter().flatten()
    }

    /// The trees that these limits need, and one to find the processes by. Joining a group costs milliseconds in the
    /// kernel, so there are no others.
    fn needed(&self, limits: &Limits) -> Vec<&PathBuf> {
        let limited = [
            self.memory.as_ref().filter(|_| limits.memory > 0),
            self.pids.as_ref().filter(|_| limits.tasks > 0),
            self.cpu.as_ref().filter(|_| limits.cpu > 0),
        ];
        let mut needed: Vec<_> = self.unified.iter().chain(limited.into_iter().flatten()).collect();
        if needed.is_empty() {
            needed.extend(self.trees().next());
        }
        needed
    }

    fn find() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut found = Self::default();
        for mount in mounts.lines().filter_map(Mount::parse) {
            let slot = match mount.kind {
                "cgroup2" => &mut found.unified,
                "cgroup" if mount.has("memory") => &mut found.memory,
                "cgroup" if mount.has("pids") => &mut found.pids,
                "cgroup" if mount.has("cpu") => &mut found.cpu,
                _ => continue,
            };
            if slot.is_none() {
                *slot = writable(&mount.below_own(&own));
            }
        }
        if let Some(unified) = &found.unified {
            // A group that holds processes can't hand controllers down, unless it is the root: then limits degrade.
            for controller in ["memory", "pids", "cpu"] {
                // Refused where it can't be had; what is handed down is read back below.
                let _ = fs::write(unified.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            let given = fs::read_to_string(unified.join("cgroup.subtree_control")).unwrap_or_default();
            found.controllers = given.split_whitespace().map(str::to_owned).collect();
        }
        found
    }

    /// Writes the limits of the group in this folder.
    fn limit(&self, folder: &str, limits: &Limits) -> io::Result<()> {
        let v2 = |controller| self.unified.as_ref().filter(|_| self.has(controller));
        let set = |tree: Option<&PathBuf>, file: &str, value: String| {
            tree.map_or(Ok(()), |tree| fs::write(tree.join(folder).join(file), value))
        };
        if limits.memory > 0 {
            set(self.memory.as_ref(), "memory.limit_in_bytes", limits.memory.to_string())?;
            set(v2("memory"), "memory.max", limits.memory.to_string())?;
        }
        if limits.tasks > 0 {
            set(self.pids.as_ref(), "pids.max", limits.tasks.to_string())?;
            set(v2("pids"), "pids.max", limits.tasks.to_string())?;
        }
        if limits.cpu > 0 {
            // Of each period of 100,000 µs.
            let quota = u64::from(limits.cpu) * 100;
            set(self.cpu.as_ref(), "cpu.cfs_quota_us", quota.to_string())?;
            set(v2("cpu"), "cpu.max", format!("{quota} 100000"))?;
        }
        Ok(())
    }

    /// Ends what processes of ours left behind that were killed before they could clean up.
    fn sweep(&self) {
        for tree in self.trees() {
            for entry in fs::read_dir(tree).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let owner = name.to_str().and_then(|name| name.strip_prefix(UNNAMED)).and_then(|rest| {
                    let mut parts = rest.split('.').map(str::parse::<u64>);
                    Some((parts.next()?.ok()?, parts.next()?.ok()?))
                });
                let Some((pid, started)) = owner else { continue };
                let alive =
                    u32::try_from(pid).ok().and_then(ProcessId::of).is_some_and(|p| p.started == started);
                if !alive {
                    let group = Group { trees: vec![entry.path()] };
                    group.kill();
                    group.remove();
                }
            }
        }
    }
}

/// One line of `/proc/self/mountinfo`.
struct Mount<'a> {
    root: &'a str,
    at: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        let (root, at) = (before.next()?, before.next()?);
        Some(Self { root, at, kind: after.next()?, options: after.nth(1)? })
    }

    fn has(&self, controller: &str) -> bool {
        self.options.split(',').any(|option| option == controller)
    }

    /// The folder of the group in which this process is.
    fn below_own(&self, own: &str) -> PathBuf {
        let mine = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            let ours = match self.kind {
                "cgroup2" => controllers.is_empty(),
                _ => controllers.split(',').any(|c| !c.is_empty() && self.has(c)),
            };
            ours.then_some(path)
        });
        let below = mine.and_then(|path| path.strip_prefix(self.root)).unwrap_or_default();
        let folder = Path::new(self.at).join(below.trim_start_matches('/'));
        if folder.is_dir() { folder } else { PathBuf::from(self.at) }
    }
}

/// The folder, if groups can be made in it.
fn writable(folder: &Path) -> Option<PathBuf> {
    let probe = folder.join(format!("{PREFIX}probe.{}", std::process::id()));
    fs::create_dir(&probe).ok()?;
    // The kernel refuses only if somebody else put a process there.
    let _ = fs::remove_dir(&probe);
    Some(folder.to_owned())
}

/// A control group: one folder in each tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    trees: Vec<PathBuf>,
}

impl Group {
    /// Makes the group of this name, or one with a new name, with these limits. A group that is there already
    /// gets the limits. On a machine without groups it is empty and does nothing.
    ///
    /// # Errors
    /// When the name is none, or a folder or a limit can't be written.
    pub fn create(name: Option<&str>, limits: &Limits) -> Result<Self> {
        let folder = match name {
            Some(name) if valid(name) => format!("{PREFIX}{name}"),
            Some(name) => return Err(Error::Setup(format!("{name:?} is not a name for a control group"))),
            None => unnamed(),
        };
        let groups = Groups::get();
        let mut group = Self::default();
        let failed = |e: io::Error| Error::Setup(format!("the control group {folder} can't be made: {e}"));
        for tree in groups.needed(limits) {
            let path = tree.join(&folder);
            match fs::create_dir(&path) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    group.remove();
                    return Err(failed(e));
                }
                _ => group.trees.push(path),
            }
        }
        groups.limit(&folder, limits).map_err(|e| {
            group.remove();
            failed(e)
        })?;
        Ok(group)
    }

    /// The group of this name that was made before, below the group of this process; void if there is none.
    pub fn find(name: &str) -> Self {
        let folder = format!("{PREFIX}{name}");
        let trees = Groups::get().trees().map(|tree| tree.join(&folder));
        Self { trees: trees.filter(|path| valid(name) && path.is_dir()).collect() }
    }

    /// The files into which a process writes `0` to join.
    pub(crate) fn doors(&self) -> Vec<PathBuf> {
        self.trees.iter().map(|tree| tree.join("cgroup.procs")).collect()
    }

    /// Whether the machine has no groups, so that this one does nothing.
    pub fn is_void(&self) -> bool {
        self.trees.is_empty()
    }

    /// The processes in it.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = Vec::new();
        for door in self.doors() {
            let text = fs::read_to_string(door).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sends a signal to each process in it.
    pub fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }

    /// Kills each process in it. They are gone soon after, not at once.
    pub fn kill(&self) {
        let at_once = self.trees.iter().any(|tree| fs::write(tree.join("cgroup.kill"), "1").is_ok());
        if !at_once {
            self.signal(Signal::SIGKILL);
        }
    }

    /// How many of its processes the kernel killed because the memory limit was reached.
    pub fn out_of_memory(&self) -> u64 {
        let files = self.trees.iter().flat_map(|t| [t.join("memory.oom_control"), t.join("memory.events")]);
        let texts: Vec<String> = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
        let counts =
            texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("oom_kill "));
        counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum()
    }

    /// Bytes of memory in use by all of it.
    pub fn memory(&self) -> Option<u64> {
        let mut files =
            self.trees.iter().flat_map(|t| [t.join("memory.usage_in_bytes"), t.join("memory.current")]);
        files.find_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
    }

    /// Removes it. False while processes are in it.
    pub fn remove(&self) -> bool {
        let gone = |tree: &Path| match fs::remove_dir(tree) {
            Ok(()) => true,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        // Each is tried, also after one that is still in use.
        self.trees.iter().filter(|tree| !gone(tree)).count() == 0
    }
}

fn valid(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= 200 && !name.starts_with("x.") && name.bytes().all(allowed)
}

fn unnamed() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let started = ProcessId::current().map_or(0, |me| me.started);
    format!("{UNNAMED}{}.{started}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_name_is_never_a_path() {
        for name in ["", "..", "a/b", "x.1.2", "a b"] {
            let refused = name != "..";
            assert_eq!(!valid(name), refused, "{name:?}");
        }
        // Behind the prefix two dots are a plain name.
        assert_eq!(Path::new(&format!("{PREFIX}..")).components().count(), 1);
    }

    #[test]
    fn the_own_group_is_found_in_each_kind_of_tree() {
        let v1 =
            Mount::parse("35 28 0:31 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory")
                .unwrap();
        assert!(v1.has("memory") && v1.kind == "cgroup" && v1.at == "/sys/fs/cgroup/memory");
        let nowhere = v1.below_own("4:memory:/not/there\n0::/\n");
        assert_eq!(nowhere, Path::new("/sys/fs/cgroup/memory"));
    }
}
