//! How dedicated servers are set up.

use std::collections::BTreeMap;
use std::path::PathBuf;

use paas_core::PlanName;
use paas_docker::Docker;

/// The major versions that have an official image, as long as PostgreSQL itself looks after them.
const OFFICIAL: std::ops::RangeInclusive<u16> = 14..=18;

/// Where apps find a dedicated server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// By its name on the app's network, as apps in containers do. The platform itself finds it by its address there.
    #[default]
    Network,
    /// On a port of `127.0.0.1`, as apps do that are processes of this machine.
    Loopback,
}

/// What one pays for: how large a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DedicatedPlan {
    /// Its name.
    pub name: PlanName,
    /// Memory in bytes. A quarter of it is for the server's buffers.
    pub memory: u64,
    /// CPU in thousandths of a core.
    pub millicpus: u32,
    /// How many connections the app may have open at once.
    pub connections: u32,
}

impl DedicatedPlan {
    /// 512 MiB, one core and 100 connections.
    pub fn new(name: PlanName) -> Self {
        Self { name, memory: 512 << 20, millicpus: 1000, connections: 100 }
    }

    /// With so much memory, in bytes.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// With so much CPU, in thousandths of a core.
    #[must_use]
    pub fn millicpus(mut self, millicpus: u32) -> Self {
        self.millicpus = millicpus;
        self
    }

    /// With so many connections.
    #[must_use]
    pub fn connections(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// For people.
    pub(super) fn description(&self, newest: u16) -> String {
        let Self { memory, millicpus, connections, .. } = self;
        let cores = f64::from(*millicpus) / 1000.0;
        let megabytes = memory >> 20;
        format!(
            "A PostgreSQL {newest} server of its own (another by the option `version`): {megabytes} MB, {cores} CPU, \
             {connections} connections"
        )
    }
}

/// How dedicated servers are run.
#[derive(Debug, Clone)]
pub struct DedicatedConfig {
    pub(super) docker: Docker,
    pub(super) folder: PathBuf,
    pub(super) images: BTreeMap<u16, String>,
    pub(super) plans: Vec<DedicatedPlan>,
    pub(super) reach: Reach,
    official: bool,
}

impl DedicatedConfig {
    /// In containers of this daemon, with what the platform keeps of them in this folder: use one `Docker` for all parts
    /// of a platform. The images are the official ones, `postgres:18` for version 18; the plan is `dedicated`.
    ///
    /// # Panics
    /// Never: the plan's name is a constant.
    pub fn new(docker: Docker, folder: impl Into<PathBuf>) -> Self {
        Self {
            docker,
            folder: folder.into(),
            images: OFFICIAL.map(|version| (version, format!("postgres:{version}"))).collect(),
            plans: vec![DedicatedPlan::new(PlanName::new("dedicated").expect("a constant"))],
            reach: Reach::default(),
            official: true,
        }
    }

    /// With this image for this major version, in place of the official ones: the versions that are named are those that
    /// can be had, and the newest is what one gets who doesn't choose. It must begin as the official one does:
    /// `POSTGRES_USER`, `POSTGRES_PASSWORD`, `POSTGRES_DB`, `PGDATA`, and arguments for the server.
    #[must_use]
    pub fn image(mut self, version: u16, reference: impl Into<String>) -> Self {
        if std::mem::take(&mut self.official) {
            self.images.clear();
        }
        self.images.insert(version, reference.into());
        self
    }

    /// With these plans instead of one; the first is what one gets who doesn't choose.
    #[must_use]
    pub fn plans(mut self, plans: Vec<DedicatedPlan>) -> Self {
        self.plans = plans;
        self
    }

    /// Where apps find the servers. It must not change while there are any.
    #[must_use]
    pub fn reach(mut self, reach: Reach) -> Self {
        self.reach = reach;
        self
    }
}
