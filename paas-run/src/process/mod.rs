//! Local processes: a [`Runtime`](paas_core::Runtime) on one machine that needs nothing but Linux and `bash`.
//!
//! ```text
//! engine ── supervisor ── launcher ──spawns──> shim (outlives the engine) ──spawns──> bash -c COMMAND
//!                                               │ app's log, exit status             (own user, own walls)
//! ```
//!
//! Each instance has a shim for a parent: this binary, started again, which reads what the program prints and keeps
//! how it ended, so that the engine may be killed and started again without anybody noticing. The program runs inside
//! the walls of `paas-sandbox`, as a user that belongs to its app alone, in a copy of the slug of its own: through
//! an overlay where the machine can do that, so that nothing is copied, else a real copy. What it writes is gone when
//! it ends, as on Heroku.

mod folder;
mod found;
mod home;
mod launcher;
mod ports;
mod shim;
mod slugs;
mod start;
mod users;

use std::ffi::OsStr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use paas_core::{Blobs, Clock, Error, NodeName, Result};
use paas_sandbox::{Helper, Toolchains};

pub use launcher::ProcessLauncher;

use crate::keep;
use crate::logs::FileLogs;
use crate::supervisor::{Backoff, Supervisor};

/// Serves as a shim if this process was started as one, and never returns then.
pub(crate) fn init(first: Option<&OsStr>, second: Option<&OsStr>) {
    if first.and_then(OsStr::to_str) == Some(shim::SHIM) {
        shim::main(second);
    }
}

/// How local processes are run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProcessConfig {
    /// A folder of this runtime's own.
    pub data: PathBuf,
    /// Where slugs are.
    pub blobs: Arc<dyn Blobs>,
    /// Where what the processes print goes.
    pub logs: Arc<FileLogs>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The binary that serves as shim and sandbox.
    pub helper: Helper,
    /// When crashed instances are started again.
    pub backoff: Backoff,
    /// The languages that apps find beside the system's; those on the platform's own PATH.
    pub toolchains: Toolchains,
    /// What else every app may read and execute.
    pub read_only: Vec<PathBuf>,
    /// The first of 20,000 user numbers for apps, where the platform runs as root.
    pub first_user: u32,
    /// The ports that web processes are told to listen on.
    pub ports: Range<u16>,
    /// What this machine is called among several whose engines share a store; `None` where it is the only one.
    pub node: Option<NodeName>,
}

impl ProcessConfig {
    /// Runs processes with their things in this folder.
    pub fn new(
        data: impl Into<PathBuf>,
        blobs: Arc<dyn Blobs>,
        logs: Arc<FileLogs>,
        clock: Arc<dyn Clock>,
        helper: Helper,
    ) -> Self {
        Self {
            data: data.into(),
            blobs,
            logs,
            clock,
            helper,
            backoff: Backoff::default(),
            toolchains: Toolchains::here(),
            read_only: Vec::new(),
            first_user: 20_000,
            ports: ports::RANGE,
            node: None,
        }
    }

    /// With this back-off.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Every app may read and execute this too.
    #[must_use]
    pub fn read_only(mut self, path: impl Into<PathBuf>) -> Self {
        self.read_only.push(path.into());
        self
    }

    /// As one of several machines whose engines share a store: under this name, which no other one has and which stays
    /// when it starts again.
    #[must_use]
    pub fn node(mut self, name: NodeName) -> Self {
        self.node = Some(name);
        self
    }

    /// With ports of this range.
    #[must_use]
    pub fn ports(mut self, ports: Range<u16>) -> Self {
        self.ports = ports;
        self
    }
}

/// Runs local processes. See the [module](self).
///
/// Dropping it ends no process: the next one that is opened on the same folder adopts them.
pub type ProcessRuntime = Supervisor<ProcessLauncher>;

impl ProcessRuntime {
    /// Adopts what runs already. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// `unavailable` when another process supervises this folder, or bash is missing; `not_initialised` when the helper
    /// binary isn't one.
    pub async fn open(config: ProcessConfig) -> Result<Self> {
        let made = std::fs::create_dir_all(&config.data);
        made.map_err(|e| Error::from_io(format!("can't make {}", config.data.display()), e))?;
        let lock = Arc::new(keep::lock(&config.data).await?);
        let logs: Arc<dyn paas_core::Logs> = Arc::clone(&config.logs) as _;
        let (clock, backoff) = (Arc::clone(&config.clock), config.backoff);
        let node = config.node.clone();
        let launcher = ProcessLauncher::open(config).await?;
        for missing in launcher.abilities().missing() {
            tracing::warn!("isolation is degraded: {missing}");
        }
        let supervisor = Supervisor::start(launcher, logs, clock, backoff).await?;
        Ok(supervisor.on(node).holding(lock))
    }

    /// What this machine can't wall off, each in a sentence for people; nothing when all is well.
    pub fn missing(&self) -> Vec<&'static str> {
        self.launcher().abilities().missing()
    }
}
