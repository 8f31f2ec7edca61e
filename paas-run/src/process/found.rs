//! What earlier engines launched, and what became of it.

use std::collections::BTreeMap;
use std::fs;

use paas_core::{Error, Result};
use paas_sandbox::{Group, procfs, tree};

use super::folder::{Folder, Lock, REMOVED, Record, Running};
use super::launcher::{POLL, ProcessLauncher};
use crate::supervisor::{CutOff, End, Found, LaunchId, Process};

/// Ended one-off commands are remembered for this long: long enough for any retry of their step.
const REMEMBER_DAYS: i64 = 30;

impl ProcessLauncher {
    /// Reads what earlier engines launched.
    pub(super) fn learn(&self) -> Result<()> {
        let all = self.data.join("launches");
        let read =
            fs::read_dir(&all).map_err(|e| Error::from_io(format!("can't read {}", all.display()), e))?;
        let oldest = self.clock.now() - chrono::Duration::days(REMEMBER_DAYS);
        for entry in read.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(REMOVED) {
                let removed = tree::remove(&entry.path());
                removed.map_err(|e| Error::from_io(format!("can't remove {}", entry.path().display()), e))?;
            }
            let Ok(id) = name.parse::<LaunchId>() else { continue };
            let folder = self.folder(id);
            let record = folder.record().unwrap_or_else(|e| {
                // Cut short together with the machine, so nothing runs.
                tracing::warn!(error = %e, launch.id = %id, "what was kept of a launch can't be read");
                None
            });
            match record {
                Some(record)
                    if record.label.once.is_some() && record.started_at < oldest && folder.is_free()? =>
                {
                    folder.remove()?;
                }
                Some(record) => drop(self.known().insert(id, record)),
                // The engine ended before it could start anything here.
                None => folder.remove()?,
            }
        }
        Ok(())
    }

    /// What is there of a launch, if it is not being forgotten right now.
    pub(super) fn look(&self, id: LaunchId, record: Record) -> Result<Option<Found>> {
        match self.look_into(&self.folder(id), id, record) {
            Err(_) if !self.folder(id).path().exists() => Ok(None),
            looked => looked.map(Some),
        }
    }

    /// One of which nobody holds the lock and nobody wrote the end is given up.
    fn look_into(&self, folder: &Folder, id: LaunchId, record: Record) -> Result<Found> {
        let end = match folder.end()? {
            Some(end) => Some(end),
            None if self.starting().contains(&id) => None,
            None => folder.try_lock()?.map(|lock| self.give_up(folder, &lock)).transpose()?,
        };
        let mut process = Process::new(id, record.started_at, record.port);
        if let Some(running) = folder.running()? {
            process.metadata = facts(&running);
        }
        let mut found = Found::new(record.label, process);
        found.up = folder.up()?;
        found.end = end;
        Ok(found)
    }

    /// Waits for the end of the shim, if there is one, and then for how it went.
    pub(super) fn settle(&self, folder: &Folder) -> Result<End> {
        let lock = folder.lock()?;
        self.give_up(folder, &lock)
    }

    /// The end, once the shim is gone; if it could not write one, then that it is not known.
    fn give_up(&self, folder: &Folder, lock: &Lock) -> Result<End> {
        if let Some(end) = folder.end()? {
            return Ok(end);
        }
        let mut end = End::new(None, self.clock.now());
        let boot = folder.record()?.map(|record| record.boot);
        if boot.is_some_and(|boot| boot != procfs::boot_id()) {
            end.cut_off = Some(CutOff::WithMachine);
        } else if !folder.has_begun()? {
            // No shim begins without saying so first, and one that comes now finds the end.
            end.cut_off = Some(CutOff::BeforeStart);
        } else if let Some(running) = folder.running()? {
            kill_rest(&running.group, running.program);
        } else {
            // The shim was killed before it could say what it started.
            kill_rest(&Group::find(&folder.name()), 0);
        }
        folder.keep_end(lock, &end)?;
        Ok(end)
    }
}

/// Kills what a shim left that was itself killed: its group, or the program's family where there are no groups.
fn kill_rest(group: &Group, program: u32) {
    // The kernel takes a moment; a hundred are enough for anything but a stuck disk.
    for _ in 0..100 {
        group.kill();
        for pid in procfs::family(program).into_iter().filter(|_| group.is_void() && program > 0) {
            // It may have ended meanwhile.
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        if group.remove() {
            return;
        }
        std::thread::sleep(POLL);
    }
}

/// What people may want to know of it.
pub(super) fn facts(running: &Running) -> BTreeMap<String, String> {
    [("pid", running.program), ("shim", running.shim.pid)]
        .map(|(key, pid)| (key.to_owned(), pid.to_string()))
        .into()
}
