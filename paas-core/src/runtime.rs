//! Runs the processes of a release.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    AppId, AppName, Artifact, ConfigVars, Console, Context, Digest, Error, HealthCheck, Mount, NodeName,
    ProcessType, ReleaseId, Result, Version, VolumeName, Window,
};

/// How much one instance may use. Zero is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Size {
    /// What people call it.
    pub name: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Thousandths of a core.
    pub cpu: u32,
    /// Processes and threads.
    pub tasks: u32,
}

impl Size {
    /// A size of this name without limits.
    pub fn unlimited(name: impl Into<String>) -> Self {
        Self { name: name.into(), memory: 0, cpu: 0, tasks: 0 }
    }

    /// Heroku's `standard-1x`: 512 MB and 256 tasks; CPU is shared.
    pub fn standard() -> Self {
        Self { name: "standard".into(), memory: 512 << 20, cpu: 0, tasks: 256 }
    }

    /// With this much memory, in bytes.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// With so many tasks.
    #[must_use]
    pub fn with_tasks(mut self, tasks: u32) -> Self {
        self.tasks = tasks;
        self
    }
}

/// One process type of one release: what should run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProcessSpec {
    /// The app.
    pub app: AppName,
    /// The app's life.
    pub app_id: AppId,
    /// The release.
    pub release: ReleaseId,
    /// The release's number, for people.
    pub version: Version,
    /// The process type.
    pub process: ProcessType,
    /// How many: 0 retires the type.
    pub quantity: u32,
    /// The command line.
    pub command: String,
    /// What to run.
    pub artifact: Artifact,
    /// Config vars, what add-ons bind, and what the app may know of its release (`HEROKU_RELEASE_VERSION` and others). The
    /// runtime adds `PORT`, `DYNO` and `HOME`.
    pub env: ConfigVars,
    /// How much each may use.
    pub size: Size,
    /// How to tell that an instance is well.
    pub health: HealthCheck,
    /// The app's volumes that it sees, where [`RuntimeCapabilities::volumes`] says that there are any.
    pub volumes: Vec<Mount>,
    /// How long a process may take to end after SIGTERM before it is killed.
    pub grace: Duration,
}

impl ProcessSpec {
    /// How long a process may take to end after SIGTERM: Heroku's 30 s.
    pub const GRACE: Duration = Duration::from_secs(30);

    /// One instance of this command of this release, without config.
    pub fn new(
        (app, app_id): (AppName, AppId),
        (release, version): (ReleaseId, Version),
        process: ProcessType,
        command: impl Into<String>,
        artifact: Artifact,
    ) -> Self {
        Self {
            app,
            app_id,
            release,
            version,
            process,
            quantity: 1,
            command: command.into(),
            artifact,
            env: ConfigVars::new(),
            size: Size::standard(),
            health: HealthCheck::default(),
            volumes: Vec::new(),
            grace: Self::GRACE,
        }
    }

    /// So many.
    #[must_use]
    pub fn with_quantity(mut self, quantity: u32) -> Self {
        self.quantity = quantity;
        self
    }

    /// With this environment.
    #[must_use]
    pub fn with_env(mut self, env: ConfigVars) -> Self {
        self.env = env;
        self
    }

    /// With this size.
    #[must_use]
    pub fn with_size(mut self, size: Size) -> Self {
        self.size = size;
        self
    }

    /// With this health check.
    #[must_use]
    pub fn with_health(mut self, health: HealthCheck) -> Self {
        self.health = health;
        self
    }

    /// With these volumes.
    #[must_use]
    pub fn with_volumes(mut self, volumes: Vec<Mount>) -> Self {
        self.volumes = volumes;
        self
    }

    /// With this time to end.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }
}

/// One command to run to its end: the release phase, or what somebody runs by hand.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunSpec {
    /// Name, app, release, command, artifact, environment and limits; the quantity means nothing here.
    pub process: ProcessSpec,
    /// How long it may take.
    pub timeout: Duration,
}

impl RunSpec {
    /// Runs this for at most an hour, as Heroku's release phase.
    pub fn new(process: ProcessSpec) -> Self {
        Self { process, timeout: Duration::from_secs(3600) }
    }

    /// For at most this long.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Exit {
    /// The exit status, or 128 and the signal's number, as shells count.
    pub status: i32,
    /// Its last lines of output.
    #[serde(default)]
    pub output: Vec<String>,
}

impl Exit {
    /// Ended with this status, having said this last.
    pub fn new(status: i32, output: Vec<String>) -> Self {
        Self { status, output }
    }
}

/// Which of all: `web.1` of a release.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InstanceName {
    /// The process type.
    pub process: ProcessType,
    /// From 1.
    pub index: u32,
}

impl InstanceName {
    /// The `index`th of this type, from 1.
    pub fn new(process: ProcessType, index: u32) -> Self {
        Self { process, index }
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.process, self.index)
    }
}

/// What an instance is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum InstanceState {
    /// It was started and isn't well yet.
    Starting,
    /// It is well.
    Up,
    /// It ended, or wasn't well in time; it will be started again after a pause.
    Crashed,
    /// It was told to end.
    Stopping,
    /// Its node doesn't answer.
    Lost,
}

/// One instance as the runtime sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Instance {
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
    /// What it is doing.
    pub state: InstanceState,
    /// Where it listens, for web.
    pub address: Option<SocketAddr>,
    /// When this start of it happened.
    pub started_at: DateTime<Utc>,
    /// How often it was started again because it had ended by itself.
    pub restarts: u32,
    /// How it ended last time.
    pub last_exit: Option<Exit>,
    /// Why it crashed, in words, with Heroku's code where there is one: `Error R10 (Boot timeout) …`.
    pub reason: Option<String>,
    /// Facts of this runtime: `pid`, `container`, `node`.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

impl Instance {
    /// An instance of this release of this app that was started at this time.
    pub fn new(
        (app, app_id): (AppName, AppId),
        (release, version): (ReleaseId, Version),
        name: InstanceName,
        at: DateTime<Utc>,
    ) -> Self {
        Self {
            app,
            app_id,
            release,
            version,
            name,
            state: InstanceState::Starting,
            address: None,
            started_at: at,
            restarts: 0,
            last_exit: None,
            reason: None,
            metadata: BTreeMap::new(),
        }
    }

    /// An instance of this spec that was just started.
    pub fn starting(spec: &ProcessSpec, index: u32, at: DateTime<Utc>) -> Self {
        let name = InstanceName::new(spec.process.clone(), index);
        Self::new((spec.app.clone(), spec.app_id), (spec.release, spec.version), name, at)
    }
}

/// Something changed: look again. A hint, not the truth: that is [`Runtime::observe`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeEvent {
    /// Whose.
    pub app: AppName,
    /// The instance as it is now, where the runtime says so.
    pub instance: Option<Instance>,
}

impl RuntimeEvent {
    /// Something about this app changed.
    pub fn new(app: AppName, instance: Option<Instance>) -> Self {
        Self { app, instance }
    }
}

/// What a runtime can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent abilities, not a state")]
#[non_exhaustive]
pub struct RuntimeCapabilities {
    /// [`Runtime::run_once`] works.
    pub run_once: bool,
    /// Instances go on when the engine ends, and are adopted at its next start.
    pub survives_engine: bool,
    /// Limits of [`Size`] are enforced.
    pub limits: bool,
    /// Instances can't read the engine's data or another app's files.
    pub isolated: bool,
    /// [`Runtime::attach`] works.
    pub attach: bool,
    /// Processes see the volumes that their spec names, and these keep what is written there for as long as the app lives.
    pub volumes: bool,
}

impl RuntimeCapabilities {
    /// Able to do nothing but the required.
    pub fn none() -> Self {
        Self::default()
    }

    /// Able to do all of it.
    pub fn full() -> Self {
        Self {
            run_once: true,
            survives_engine: true,
            limits: true,
            isolated: true,
            attach: true,
            volumes: true,
        }
    }

    /// With this answer for limits and isolation, which depend on the machine.
    #[must_use]
    pub fn confined(mut self, limits: bool, isolated: bool) -> Self {
        self.limits = limits;
        self.isolated = isolated;
        self
    }

    /// Without [`Runtime::attach`].
    #[must_use]
    pub fn without_attach(mut self) -> Self {
        self.attach = false;
        self
    }

    /// Without volumes.
    #[must_use]
    pub fn without_volumes(mut self) -> Self {
        self.volumes = false;
        self
    }
}

/// Runs processes. Declarative: the engine says what, the runtime makes it so and keeps it so; restarts and
/// back-off are the runtime's.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> RuntimeCapabilities;

    /// Converges on `spec.quantity` instances of this process type of this release.
    ///
    /// # Behavior
    /// - Returns once the runtime has taken it over durably (it goes on trying by itself), not when all are up.
    /// - The same spec again changes nothing. Instances that run already, from before a restart of the engine too, are
    ///   adopted and not restarted. A spec with another command, environment, artifact or limits replaces them.
    /// - Other releases and other types of the same app are not touched.
    /// - More are added, or the highest indexes stopped, to reach the quantity; at 0 it returns when all have ended:
    ///   SIGTERM, then SIGKILL after `spec.grace`.
    /// - An instance that ends by itself is started again, at once the first time, then after growing pauses.
    /// - A volume is made when it is first named, and is the same for all that name it. One that isn't shared is never held
    ///   by two processes: who finds it held waits, or fails by `unavailable`.
    ///
    /// # Errors
    /// `unavailable` (retried) when the backend doesn't answer, `invalid_params`, `disk_full`.
    async fn ensure(&self, ctx: &Context, spec: &ProcessSpec) -> Result<()>;

    /// The instances of this app, of all its releases, as they are.
    ///
    /// # Behavior
    /// - Tells the truth: a process that died is not shown as up, also when it died while no engine ran.
    /// - Instances that have ended because they were told to are not shown.
    /// - Web instances are `Up` only once they answer as their health check says, on a socket of their own.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn observe(&self, app: &AppName) -> Result<Vec<Instance>>;

    /// The apps of which this runtime has instances, so that those of apps which are gone can be retired.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn apps(&self) -> Result<Vec<AppName>>;

    /// Streams changes from now on.
    ///
    /// # Behavior
    /// - Hints: some may be missing or doubled, but after the last change of an app there is at least one hint.
    fn watch(&self) -> BoxStream<'static, RuntimeEvent>;

    /// Runs one command of a release to its end and returns how it ended.
    ///
    /// # Behavior
    /// - At most once per key: a call with a key that ran already returns the recorded end; one that is running is
    ///   waited for; one whose end can't be learnt any more is `release_phase_failed`, never run again.
    /// - Its output is in the app's log, and its last lines in the result.
    /// - `ctx.cancel` and `spec.timeout` end it as [`Runtime::ensure`] ends instances. On
    ///   [`CancelReason::Shutdown`](crate::CancelReason) and `LeaseLost` it goes on: whoever calls next with this key
    ///   waits for it.
    ///
    /// # Errors
    /// `unsupported` where [`RuntimeCapabilities::run_once`] is false; `timeout`; `cancelled`.
    async fn run_once(&self, ctx: &Context, spec: &RunSpec) -> Result<Exit> {
        let _ = (ctx, spec);
        Err(Error::unsupported("running one-off commands"))
    }

    /// Starts one command of a release with its input and output in the caller's hands: `heroku run`. With a `window` it
    /// has a terminal of that size; without one, pipes.
    ///
    /// # Behavior
    /// - It is the command of `ctx.key`: [`Runtime::run_once`] with this key waits for its end and gives its exit status.
    ///   At most once per key.
    /// - What it prints goes to the caller and not to the app's log, which says that it started and how it ended.
    /// - When [`Console::control`] is dropped before its end, or the engine ends, whoever sat there is gone: SIGHUP, twice
    ///   again after a sixth of the grace each, then it is ended as [`Runtime::ensure`] ends instances. One that was
    ///   detached goes on.
    /// - `spec.timeout` ends it, whether somebody waits for it or not.
    ///
    /// # Errors
    /// `unsupported` where [`RuntimeCapabilities::attach`] is false; `exists` when something ran under this key before.
    async fn attach(&self, ctx: &Context, spec: &RunSpec, window: Option<Window>) -> Result<Console> {
        let _ = (ctx, spec, window);
        Err(Error::unsupported("a command with somebody at its terminal"))
    }

    /// Ends all instances of a release, whatever their types, and forgets the release: what
    /// undoing a deploy and retiring an old release call.
    ///
    /// # Behavior
    /// - As [`Runtime::ensure`] at quantity 0 for each of its types. Retiring what isn't there is no error.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn retire(&self, ctx: &Context, app: &AppName, release: ReleaseId) -> Result<()>;

    /// Ends everything of an app and removes what the runtime keeps for it, its volumes too.
    ///
    /// # Behavior
    /// - Nothing of other apps is touched, whatever their names. Forgetting what isn't there is no error.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn forget(&self, ctx: &Context, app: &AppName) -> Result<()>;

    /// The volumes that it keeps for an app, whether or not a process sees them now.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn volumes(&self, app: &AppName) -> Result<Vec<VolumeName>> {
        let _ = app;
        Ok(Vec::new())
    }

    /// Removes a volume of an app with what is in it.
    ///
    /// # Behavior
    /// - Removing what isn't there is no error.
    ///
    /// # Errors
    /// `conflict` while a process sees it; `unsupported` where [`RuntimeCapabilities::volumes`] is false; `unavailable`
    /// (retried).
    async fn remove_volume(&self, ctx: &Context, app: &AppName, volume: &VolumeName) -> Result<()> {
        let _ = (ctx, app, volume);
        Err(Error::unsupported("volumes"))
    }

    /// The node that its instances live on, and that nobody else sees them from; `None` where every engine of a store
    /// reaches the same instances. An app stays on the node that it began on, and its work is done there.
    fn node(&self) -> Option<&NodeName> {
        None
    }

    /// The digest of all that would make [`Runtime::ensure`] replace instances.
    fn spec_digest(&self, spec: &ProcessSpec) -> Digest {
        let mut parts: Vec<String> =
            vec![spec.release.to_string(), spec.command.clone(), spec.artifact.digest.to_string()];
        parts.push(format!("{:?}", spec.size));
        for (key, value) in spec.env.iter() {
            parts.push(key.to_string());
            parts.push(value.expose().to_owned());
        }
        for Mount { volume, path, shared } in &spec.volumes {
            parts.push(format!("{volume} {path} {shared}"));
        }
        Digest::of_parts(parts)
    }
}

const _: fn(&dyn Runtime) = |_| {};
