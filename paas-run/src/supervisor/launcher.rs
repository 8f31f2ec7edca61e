//! The small trait below the supervisor: start, list, end and wait for single processes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use paas_core::{
    AppId, AppName, Console, Digest, Error, Exit, HealthCheck, IdempotencyKey, InstanceName, ProcessSpec,
    ReleaseId, Result, RuntimeCapabilities, Version, VolumeName, Window, WorkflowId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One start of one process. Ids sort by time, apart from those of one-off commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LaunchId(Uuid);

impl LaunchId {
    /// A new one.
    #[allow(clippy::new_without_default, reason = "a new id is different each time")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The one of the one-off command with this key: always the same.
    pub fn of_key(key: &IdempotencyKey) -> Self {
        let hex = Digest::of(key.to_string()).hex();
        Self(hex[..32].parse().unwrap_or_default())
    }

    /// The one to try after this: always the same.
    #[must_use]
    pub fn next(self) -> Self {
        let hex = Digest::of(self.to_string()).hex();
        Self(hex[..32].parse().unwrap_or_default())
    }
}

impl fmt::Display for LaunchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for LaunchId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> std::result::Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// What is kept of a launch beside the process, so that the next engine knows what it finds. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Label {
    /// The app.
    pub app: AppName,
    /// The app's life.
    pub app_id: AppId,
    /// The release.
    pub release: ReleaseId,
    /// The release's number.
    pub version: Version,
    /// Which of all.
    pub name: InstanceName,
    /// What is run, by digest.
    pub artifact: Digest,
    /// The digest of all that would make it be replaced.
    pub digest: Digest,
    /// How to tell that it is well.
    pub health: HealthCheck,
    /// Milliseconds between SIGTERM and SIGKILL.
    pub grace_ms: u64,
    /// How often this instance was started again before.
    pub restarts: u32,
    /// How often in a row it crashed before.
    pub crashes: u32,
    /// Set for a one-off command.
    pub once: Option<Once>,
}

/// What makes a launch a one-off command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Once {
    /// During which workflow it runs.
    pub workflow: WorkflowId,
    /// Milliseconds after which it is ended.
    pub timeout_ms: u64,
    /// Somebody sits at it.
    #[serde(default)]
    pub attached: bool,
}

impl Label {
    /// How it is called in the app's log: `web.1`, `release`, `run.1`.
    pub fn process(&self) -> String {
        if self.once.is_some() && self.name.process.is_release() {
            return self.name.process.to_string();
        }
        self.name.to_string()
    }

    /// How long it may take to end after SIGTERM.
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
}

/// What to start.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Launch {
    /// The start's id.
    pub id: LaunchId,
    /// What to keep of it.
    pub label: Label,
    /// What to run; its quantity means nothing here.
    pub spec: Arc<ProcessSpec>,
}

/// A process that was started.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Process {
    /// The start's id.
    pub id: LaunchId,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// The port that it was told to listen on.
    pub port: Option<u16>,
    /// Facts for people: `pid`, `container`.
    pub metadata: BTreeMap<String, String>,
}

impl Process {
    /// A process of this launch.
    pub fn new(id: LaunchId, started_at: DateTime<Utc>, port: Option<u16>) -> Self {
        Self { id, started_at, port, metadata: BTreeMap::new() }
    }
}

/// An instance was well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Up {
    /// Where it listened, for web.
    pub address: Option<SocketAddr>,
}

impl Up {
    /// Well, and listening here.
    pub fn new(address: Option<SocketAddr>) -> Self {
        Self { address }
    }
}

/// A launch that an earlier engine made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Found {
    /// What was kept of it.
    pub label: Label,
    /// The process, also when it has ended.
    pub process: Process,
    /// Whether it was well already, and where it listened then: [`Launcher::note_up`] was called for it.
    pub up: Option<Up>,
    /// How it ended, if it did.
    pub end: Option<End>,
}

impl Found {
    /// A launch that still runs.
    pub fn new(label: Label, process: Process) -> Self {
        Self { label, process, up: None, end: None }
    }
}

/// How a launch ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct End {
    /// The exit status and the last lines; `None` when it can't be learnt any more.
    pub exit: Option<Exit>,
    /// Whether it was told to end.
    pub stopped: bool,
    /// Set when it was cut off from outside: no crash of its own, so that it is started again at once.
    #[serde(default)]
    pub cut_off: Option<CutOff>,
    /// Why, where the runtime itself is the cause: `Error R15 (Memory quota vastly exceeded)`.
    pub reason: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
}

impl End {
    /// Ended by itself.
    pub fn new(exit: Option<Exit>, at: DateTime<Utc>) -> Self {
        Self { exit, stopped: false, cut_off: None, reason: None, at }
    }
}

/// What cut a launch off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CutOff {
    /// The engine ended before it could begin: nothing of it ever ran, and nothing will.
    BeforeStart,
    /// The machine that it ran on ended.
    WithMachine,
    /// The daemon that kept it was restarted, and ended it.
    WithDaemon,
}

impl CutOff {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::BeforeStart => "the platform ended before it could start it",
            Self::WithMachine => "the machine was restarted",
            Self::WithDaemon => "the container daemon was restarted",
        }
    }
}

/// How to end a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kill {
    /// SIGTERM to all of its processes, SIGKILL after the label's grace.
    Term,
    /// SIGKILL.
    Now,
}

/// Starts single processes. [`Supervisor`](super::Supervisor) makes a [`Runtime`](paas_core::Runtime) of it.
#[async_trait]
pub trait Launcher: fmt::Debug + Send + Sync + 'static {
    /// What a runtime on top of it can do.
    fn capabilities(&self) -> RuntimeCapabilities;

    /// Starts a process and returns when it was started, not when it is well.
    ///
    /// # Behavior
    /// - The launch is kept durably before the process starts, so that [`Launcher::list`] finds it whatever happens.
    /// - A process is started at most once per id.
    /// - Its output goes to the app's log by itself, also while no engine runs, and so does how it ended.
    ///
    /// # Errors
    /// `exists` when this id was launched before; `unavailable` (retried), `disk_full`, `not_found` for the artifact.
    async fn launch(&self, launch: Launch) -> Result<Process>;

    /// As [`Launcher::launch`], with its input and output in the caller's hands, as
    /// [`Runtime::attach`](paas_core::Runtime::attach) says.
    ///
    /// # Errors
    /// As [`Launcher::launch`]; `unsupported` where it can't.
    async fn attach(&self, launch: Launch, window: Option<Window>) -> Result<Console> {
        let _ = (launch, window);
        Err(Error::unsupported("a command with somebody at its terminal"))
    }

    /// Every launch that was not forgotten, of this app or of all: what an engine asks at its start.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn list(&self, app: Option<&AppName>) -> Result<Vec<Found>>;

    /// One launch, if it was not forgotten.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn find(&self, id: LaunchId) -> Result<Option<Found>>;

    /// Begins to end a process with all that it started; [`Launcher::wait`] tells when it is done. Ending what has
    /// ended is no error.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn kill(&self, id: LaunchId, how: Kill) -> Result<()>;

    /// Waits until a process and all that it started have ended. May be called again for the same end.
    ///
    /// # Errors
    /// `not_found`; `unavailable` (retried).
    async fn wait(&self, id: LaunchId) -> Result<End>;

    /// Where the process itself listens on its port; `None` while nobody does or the socket is somebody else's.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn listening(&self, id: LaunchId, port: u16) -> Result<Option<SocketAddr>>;

    /// Keeps that this launch was well, and where it listens: a hint for the next engine, lost at worst.
    async fn note_up(&self, id: LaunchId, up: Up);

    /// Removes what is kept of a launch that has ended. For a one-off command the label and the end stay.
    ///
    /// # Errors
    /// When it can't be removed.
    async fn forget(&self, id: LaunchId) -> Result<()>;

    /// Removes what is kept for releases of this app that have no launch any more.
    ///
    /// # Errors
    /// When it can't be removed.
    async fn tidy(&self, app: &AppName) -> Result<()>;

    /// Removes all that is kept for this app, of which nothing runs any more.
    ///
    /// # Errors
    /// When it can't be removed.
    async fn forget_app(&self, app: &AppName) -> Result<()>;

    /// As [`Runtime::volumes`](paas_core::Runtime::volumes) says.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn volumes(&self, app: &AppName) -> Result<Vec<VolumeName>> {
        let _ = app;
        Ok(Vec::new())
    }

    /// As [`Runtime::remove_volume`](paas_core::Runtime::remove_volume) says.
    ///
    /// # Errors
    /// As there.
    async fn remove_volume(&self, app: &AppName, volume: &VolumeName) -> Result<()> {
        let _ = (app, volume);
        Err(Error::unsupported("volumes"))
    }

    /// Gives up what this does beside; returns when nothing of it writes any more.
    async fn close(&self) {}
}

const _: fn(&dyn Launcher) = |_| {};
