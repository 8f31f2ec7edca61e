//! What a daemon leaves behind: processes, mounts, control groups, files.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use rustix::process::{Pid, Signal, kill_process};

use super::network::ip;

/// Ends containers and what keeps them, and waits until they have ended.
pub(super) fn kill(folder: &Path, group: &str) {
    let groups = groups(group);
    let gone = until(Duration::from_secs(20), || {
        let left = processes(folder, &groups);
        for pid in &left {
            // It may have ended since.
            let _ = kill_process(*pid, Signal::KILL);
        }
        left.is_empty()
    });
    if !gone {
        eprintln!("processes of the Docker daemon in {} don't end", folder.display());
    }
}

/// Removes all that a daemon leaves.
pub(super) fn clear(folder: &Path, group: &str) {
    kill(folder, group);
    for mount in mounts(folder) {
        if let Err(e) = umount2(&mount, MntFlags::MNT_DETACH) {
            eprintln!("{} can't be unmounted: {e}", mount.display());
        }
    }
    for group in groups(group) {
        remove_group(&group);
    }
    remove_links(folder);
    if let Err(e) = fs::remove_dir_all(folder) {
        eprintln!("{} can't be removed: {e}", folder.display());
    }
}

/// Removes the bridges and the ends of cables that the daemon noted and, killed, could not take down: another daemon's
/// containers on the same addresses would not be reached.
fn remove_links(folder: &Path) {
    let noted = fs::read(folder.join("data/network/files/local-kv.db")).unwrap_or_default();
    for link in links(&noted) {
        if Path::new("/sys/class/net").join(&link).exists() {
            // The other end may take it along in this moment.
            let _ = ip(&["link", "delete", &link]);
        }
    }
}

/// The names of links in the daemon's notes: `br-` and `veth`, each with digits of its own.
fn links(noted: &[u8]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (prefix, digits) in [(&b"br-"[..], 12), (b"veth", 7)] {
        for start in noted.windows(prefix.len()).enumerate().filter(|(_, at)| *at == prefix).map(|(at, _)| at)
        {
            let name = noted.get(start..start + prefix.len() + digits).unwrap_or_default();
            if name.get(prefix.len()..).is_some_and(|id| id.iter().all(u8::is_ascii_hexdigit))
                && !name.is_empty()
            {
                found.insert(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    found
}

/// Asks again and again until it is so, or this long.
pub(super) fn until(patience: Duration, mut so: impl FnMut() -> bool) -> bool {
    let pause = Duration::from_millis(20);
    let times = patience.as_millis() / pause.as_millis();
    for _ in 0..times {
        if so() {
            return true;
        }
        std::thread::sleep(pause);
    }
    so()
}

/// Whether this process has ended, buried or not.
pub(super) fn is_dead(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap_or_default();
    // `1234 (containerd) S …`
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

/// The daemon's control group in each hierarchy of the kernel: one, or one for each controller.
fn groups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let groups = hierarchies.chain([root.to_owned()]).map(|hierarchy| hierarchy.join(name));
    groups.filter(|group| group.is_dir()).collect()
}

/// Processes in its groups (the containers'), and those that name its folder (containerd and its shims).
fn processes(folder: &Path, groups: &[PathBuf]) -> HashSet<Pid> {
    let mut found = HashSet::new();
    for group in groups {
        members(group, &mut found);
    }
    let folder = folder.as_os_str().as_bytes();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|pid| Pid::from_raw(pid.parse().ok()?)) else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        let ours = program.starts_with(b"containerd") || program.starts_with(b"/usr/bin/containerd");
        if ours && command.windows(folder.len()).any(|part| part == folder) {
            found.insert(pid);
        }
    }
    found
}

fn members(group: &Path, found: &mut HashSet<Pid>) {
    let here = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    found.extend(here.lines().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)));
    for below in below(group) {
        members(&below, found);
    }
}

fn remove_group(group: &Path) {
    for below in below(group) {
        remove_group(&below);
    }
    // A process that just ended holds it for a moment.
    if !until(Duration::from_secs(5), || fs::remove_dir(group).is_ok()) {
        eprintln!("the control group {} can't be removed", group.display());
    }
}

fn below(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// What is mounted below the folder, the innermost first.
fn mounts(folder: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut mounts: Vec<PathBuf> = points.filter(|point| point.starts_with(folder)).collect();
    mounts.reverse();
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_in_the_daemons_notes_and_nothing_else_is_taken_for_one() {
        let noted = b"{\"BridgeName\":\"br-e0c75803fb0c\",\"SrcName\":\"veth24b2214\"}\0br-short veth0 br-zzzzzzzzzzzz br-";
        assert_eq!(links(noted).into_iter().collect::<Vec<_>>(), ["br-e0c75803fb0c", "veth24b2214"]);
    }
}
