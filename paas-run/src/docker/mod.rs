//! Containers: a [`Runtime`](paas_core::Runtime) on one Docker daemon, for images and for slugs.
//!
//! ```text
//! engine ── supervisor ── launcher ──create, start──> daemon ──> container (own network per app, own walls)
//!                           │ census <── events, and a look at everything now and then
//!                           │ output <── what containers print ──> app's log
//! ```
//!
//! Docker keeps what runs: a container's labels say what it is, its state how it ended, its log what it printed. So the
//! engine may be killed at any moment, and the next one finds everything; what Docker doesn't keep for us is in a note
//! beside. Whether something is started again is decided by the supervisor, never by Docker.
//!
//! A slug runs on the platform's stack image, as an image of two layers that is made once; an image artifact runs as it
//! is. Each app has a network of its own, from which no other app's containers are reached, and is reached by the
//! router at its container's own address: nothing is published.

mod attach;
mod census;
mod container;
mod end;
mod image;
mod launcher;
mod output;
mod ready;
mod record;
mod slug;
mod start;
mod volume;

use std::path::PathBuf;
use std::sync::Arc;

use paas_core::{Blobs, Clock, Error, Logs, NodeName, Result};
use paas_docker::Docker;
use tokio_util::sync::CancellationToken;

pub use launcher::DockerLauncher;

use crate::keep;
use crate::supervisor::{Backoff, Supervisor};

/// How the router reaches a web process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// At its container's own address: for a router on the daemon's machine. Nothing is published.
    #[default]
    Container,
    /// At a port that Docker publishes on 127.0.0.1, for a daemon in a virtual machine.
    Loopback,
}

/// What stands around every container.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Walls {
    /// How web processes are reached.
    pub reach: Reach,
    /// What the root of an image may do; all else is dropped, and a slug's processes, which are nobody's root, may do
    /// none of it.
    pub capabilities: Vec<String>,
    /// How many files a process may have open: at most what the daemon itself may. `None`: as Docker says.
    pub open_files: Option<u64>,
    /// How many bytes of what a container printed Docker keeps: what the app's log can still catch up with after the
    /// engine was away.
    pub output_bytes: u64,
}

impl Default for Walls {
    /// By container address; what images need that start as root, take a port below 1024 and then become somebody else;
    /// 20 MiB.
    fn default() -> Self {
        let capabilities =
            ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];
        Self {
            reach: Reach::default(),
            capabilities: capabilities.map(str::to_owned).into(),
            open_files: None,
            output_bytes: 20 << 20,
        }
    }
}

/// How containers are run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DockerRuntimeConfig {
    /// The daemon.
    pub docker: Docker,
    /// A folder of this runtime's own.
    pub data: PathBuf,
    /// Where slugs are.
    pub blobs: Arc<dyn Blobs>,
    /// Where what the containers print goes.
    pub logs: Arc<dyn Logs>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// When crashed instances are started again.
    pub backoff: Backoff,
    /// The image on which slugs run: with `bash`, and the languages that the platform's buildpacks expect. `None`: only
    /// image artifacts run.
    pub stack: Option<String>,
    /// Number of the user and of the group as which slugs run.
    pub slug_user: (u64, u64),
    /// What stands around every container.
    pub walls: Walls,
    /// What this machine is called among several whose engines share a store; `None` where it is the only one.
    pub node: Option<NodeName>,
}

impl DockerRuntimeConfig {
    /// Runs containers on this daemon, with notes in this folder.
    pub fn new(
        docker: Docker,
        data: impl Into<PathBuf>,
        blobs: Arc<dyn Blobs>,
        logs: Arc<dyn Logs>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            docker,
            data: data.into(),
            blobs,
            logs,
            clock,
            backoff: Backoff::default(),
            stack: None,
            slug_user: (1000, 1000),
            walls: Walls::default(),
            node: None,
        }
    }

    /// With this image for slugs to run on.
    #[must_use]
    pub fn stack(mut self, image: impl Into<String>) -> Self {
        self.stack = Some(image.into());
        self
    }

    /// With this back-off.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// With these walls.
    #[must_use]
    pub fn walls(mut self, walls: Walls) -> Self {
        self.walls = walls;
        self
    }

    /// As one of several machines whose engines share a store: under this name, which no other one has and which stays
    /// when it starts again.
    #[must_use]
    pub fn node(mut self, name: NodeName) -> Self {
        self.node = Some(name);
        self
    }
}

/// Runs containers. See the [module](self).
///
/// Dropping it ends no container: the next one that is opened for the same platform and folder adopts them.
pub type DockerRuntime = Supervisor<DockerLauncher>;

impl DockerRuntime {
    /// Adopts what runs already. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// `unavailable` when Docker doesn't answer, or another process supervises this folder.
    pub async fn open(config: DockerRuntimeConfig) -> Result<Self> {
        let made = std::fs::create_dir_all(&config.data);
        made.map_err(|e| Error::from_io(format!("can't make {}", config.data.display()), e))?;
        let lock = Arc::new(keep::lock(&config.data).await?);
        let (logs, clock) = (Arc::clone(&config.logs), Arc::clone(&config.clock));
        let (backoff, node) = (config.backoff, config.node.clone());
        let closing = CancellationToken::new();
        let guard = closing.clone().drop_guard();
        let launcher = DockerLauncher::open(config, &lock, closing).await?;
        for missing in launcher.missing() {
            tracing::warn!("isolation is degraded: {missing}");
        }
        let supervisor = Supervisor::start(launcher, logs, clock, backoff).await?;
        Ok(supervisor.on(node).holding(lock).ending(guard))
    }

    /// What this daemon can't do, each in a sentence for people; nothing when all is well.
    pub fn missing(&self) -> &[&'static str] {
        self.launcher().missing()
    }
}
