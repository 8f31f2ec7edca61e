//! What `/proc` tells about processes and the machine.

use std::collections::BTreeSet;
use std::fs;

use serde::{Deserialize, Serialize};

/// One life of a process: its number alone may belong to another one tomorrow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessId {
    /// The process number.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did (field 22 of `/proc/PID/stat`).
    pub started: u64,
    /// Which start of the machine.
    pub boot: String,
}

impl ProcessId {
    /// The process that has this number now; `None` when there is none.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: Stat::of(pid)?.started, boot: boot_id() })
    }

    /// This process.
    pub fn current() -> Option<Self> {
        Self::of(std::process::id())
    }

    /// Whether it still runs. One that has ended and is not waited for yet doesn't.
    pub fn alive(&self) -> bool {
        Stat::of(self.pid).is_some_and(|stat| stat.started == self.started && !stat.ended())
            && self.boot == boot_id()
    }
}

/// Some fields of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// `R`, `S`, `Z`, …
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// Its session.
    pub session: u32,
    /// When it started, in clock ticks since the machine did.
    pub started: u64,
}

impl Stat {
    /// Of the process that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Whether it has ended and only waits for its parent to notice.
    pub fn ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    fn parse(text: &str) -> Option<Self> {
        // The name in parentheses may hold anything, parentheses and blanks too: look for the last one.
        let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
        Some(Self {
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            session: fields.nth(1)?.parse().ok()?,
            started: fields.nth(15)?.parse().ok()?,
        })
    }
}

/// Which start of the machine this is.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Every process with its [`Stat`].
pub fn processes() -> Vec<(u32, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, Stat::of(pid)?))).collect()
}

/// The processes below this one and those of its session, itself included, as far as they have not ended.
/// One that left the session after its parent had ended is not found: control groups are there for those.
pub fn family(leader: u32) -> BTreeSet<u32> {
    let all = processes();
    let mut found: BTreeSet<u32> = all
        .iter()
        .filter(|(pid, stat)| *pid == leader || stat.session == leader)
        .map(|(pid, _)| *pid)
        .collect();
    loop {
        let more: Vec<u32> = all
            .iter()
            .filter(|(pid, stat)| found.contains(&stat.parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    let ended = |pid: &u32| all.iter().any(|(p, stat)| p == pid && stat.ended());
    found.into_iter().filter(|pid| !ended(pid)).collect()
}

/// Bytes of memory that there are for all programs together: the machine's, or its container's where that has less.
pub fn memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        total.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    });
    // A container sees its own group as the root; version 1 says a huge number where there is no limit.
    let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let container = container.iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    machine.into_iter().chain(container).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) R 9 (b)) S 7 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 999 0";
        let stat = Stat::parse(line).unwrap();
        assert_eq!(stat, Stat { state: 'S', parent: 7, session: 41, started: 123_456 });
    }

    #[test]
    fn another_start_of_the_same_number_is_another_process() {
        let mut me = ProcessId::current().unwrap();
        assert!(me.alive());
        me.started += 1;
        assert!(!me.alive());
    }
}
