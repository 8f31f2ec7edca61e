//! How the `dockerfile` builder is set up.

use std::time::Duration;

use crate::docker::registries::Registries;
use paas_docker::Docker;

/// How builds are run.
#[derive(Debug, Clone)]
pub struct DockerfileConfig {
    pub(super) docker: Docker,
    pub(super) timeout: Duration,
    pub(super) memory: Option<u64>,
    pub(super) millicpus: Option<u32>,
    pub(super) network: Option<String>,
    pub(super) registries: Registries,
    pub(super) classic: bool,
}

impl DockerfileConfig {
    /// Builds on this daemon, with BuildKit where it has it, for at most 15 minutes (Heroku's limit).
    pub fn new(docker: Docker) -> Self {
        Self {
            docker,
            timeout: Duration::from_secs(15 * 60),
            memory: None,
            millicpus: None,
            network: None,
            registries: Registries::new(),
            classic: false,
        }
    }

    /// How long a build may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How much memory a step may use, in bytes.
    ///
    /// The daemon's classic builder keeps to it. BuildKit in the daemon knows no limit for one build; all builds of a
    /// daemon together are in the control group `buildkit` below the daemon's `--cgroup-parent`, which an operator limits.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// How much CPU a step may use, in thousandths of a core. As [`DockerfileConfig::memory`].
    #[must_use]
    pub fn millicpus(mut self, millicpus: u32) -> Self {
        self.millicpus = Some(millicpus);
        self
    }

    /// Which network steps have: `none`, `host` (not for hostile code), or the daemon's default bridge where nothing is
    /// said.
    #[must_use]
    pub fn network(mut self, network: impl Into<String>) -> Self {
        self.network = Some(network.into());
        self
    }

    /// Logins for base images of private registries.
    #[must_use]
    pub fn registries(mut self, registries: Registries) -> Self {
        self.registries = registries;
        self
    }

    /// With the daemon's classic builder, which keeps to limits of memory and CPU but has neither secrets nor cache
    /// mounts.
    #[must_use]
    pub fn classic(mut self) -> Self {
        self.classic = true;
        self
    }
}
