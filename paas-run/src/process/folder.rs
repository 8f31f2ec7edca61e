//! What is kept of each launch, so that engine and shim may die at any instruction.
//!
//! ```text
//! <data>/launches/<id>/launch.json   written before the shim is started
//!                      lock          held by the shim for as long as it lives
//!                      begun         the shim is about to start the program
//!                      shim.json     who the shim and the program are, written once the program was started
//!                      up.json       it was well, and where it listened
//!                      exit.json     how it ended; whoever writes it holds the lock
//!                      tmp/ home/    what the program writes
//! ```
//!
//! A lock that nobody holds and no end: either the shim was killed or it never came that far. Whoever finds that takes
//! the lock and writes the end, so a shim that comes late finds it and doesn't start anything.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use paas_core::{Error, Result};
use paas_sandbox::procfs::ProcessId;
use paas_sandbox::{Group, tree};
use rustix::fs::FlockOperation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::keep::{read_file, write_file};
use crate::supervisor::{End, Label, Up};

/// How folders are called that are being removed.
pub(super) const REMOVED: &str = ".removed.";

/// What is kept before the shim is started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) label: Label,
    pub(super) port: Option<u16>,
    /// During which boot of the machine.
    pub(super) boot: String,
    pub(super) started_at: DateTime<Utc>,
}

/// Who runs, once it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Running {
    pub(super) shim: ProcessId,
    pub(super) program: u32,
    pub(super) group: Group,
}

/// The folder of one launch.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its last component: the launch's id, and the name of its control group.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Makes the folder; false if it was there.
    pub(super) fn create(&self) -> Result<bool> {
        match DirBuilder::new().mode(0o700).create(&self.path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// Keeps what is to be launched: safe on disk where it must never be launched twice, whatever happens to the
    /// machine.
    pub(super) fn keep_record(&self, record: &Record) -> Result<()> {
        self.write("launch.json", record, record.label.once.is_some())
    }

    pub(super) fn record(&self) -> Result<Option<Record>> {
        self.read("launch.json")
    }

    /// Says that the program may run from now on.
    pub(super) fn begin(&self, _lock: &Lock) -> Result<()> {
        let made = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path.join("begun"));
        made.map(drop).map_err(|e| self.failed(e))
    }

    /// Whether the program may have run.
    pub(super) fn has_begun(&self) -> Result<bool> {
        self.path.join("begun").try_exists().map_err(|e| self.failed(e))
    }

    pub(super) fn keep_running(&self, running: &Running) -> Result<()> {
        self.write("shim.json", running, false)
    }

    pub(super) fn running(&self) -> Result<Option<Running>> {
        self.read("shim.json")
    }

    pub(super) fn keep_up(&self, up: Up) -> Result<()> {
        self.write("up.json", &up, false)
    }

    pub(super) fn up(&self) -> Result<Option<Up>> {
        self.read("up.json")
    }

    /// Writes how it ended. Only who holds the lock may.
    pub(super) fn keep_end(&self, _lock: &Lock, end: &End) -> Result<()> {
        self.write("exit.json", end, true)
    }

    pub(super) fn end(&self) -> Result<Option<End>> {
        self.read("exit.json")
    }

    /// Takes the lock if nobody has it.
    pub(super) fn try_lock(&self) -> Result<Option<Lock>> {
        match self.open_lock(FlockOperation::NonBlockingLockExclusive) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some).map_err(|e| self.failed(e)),
        }
    }

    /// Whether no shim lives here.
    pub(super) fn is_free(&self) -> Result<bool> {
        self.try_lock().map(|lock| lock.is_some())
    }

    /// Takes the lock, waiting for it.
    pub(super) fn lock(&self) -> Result<Lock> {
        self.open_lock(FlockOperation::LockExclusive).map_err(|e| self.failed(e))
    }

    fn open_lock(&self, how: FlockOperation) -> io::Result<Lock> {
        let path = self.path.join("lock");
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, how))?;
        Ok(Lock(file))
    }

    /// Removes it with all that the program wrote. It is out of sight in one step, so that whoever looks at it sees
    /// all of it or nothing.
    pub(super) fn remove(&self) -> Result<()> {
        let aside = self.path.with_file_name(format!("{REMOVED}{}", uuid::Uuid::new_v4()));
        match fs::rename(&self.path, &aside) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(self.failed(e)),
            Ok(()) => {}
        }
        tree::remove(&aside).map_err(|e| self.failed(e))
    }

    /// Removes what the program wrote, and keeps how it ended.
    pub(super) fn clear(&self) -> Result<()> {
        ["tmp", "home"]
            .into_iter()
            .try_for_each(|name| tree::remove(&self.path.join(name)))
            .map_err(|e| self.failed(e))
    }

    fn write(&self, name: &str, value: &impl Serialize, durable: bool) -> Result<()> {
        write_file(&self.path.join(name), value, durable)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        read_file(&self.path.join(name))
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::from_io(format!("can't keep the launch in {}", self.path.display()), error)
    }
}

/// Held by whoever may write the end.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "the lock is held while the file is open")] File);
