//! What an app asks of the platform: the content of its `app.json`, whatever file it came from.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{AddonService, ConfigKey, MountPath, PlanName, ProcessType, VolumeName};

/// What an app asks of the platform.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Manifest {
    /// Add-ons that the app's first deploy makes.
    pub addons: Vec<AddonWish>,
    /// Buildpacks in order: a URL, a bundled name, a folder.
    pub buildpacks: Vec<String>,
    /// How many of each process type at first sight, and how they are replaced.
    pub formation: BTreeMap<ProcessType, FormationWish>,
    /// Config vars that the app's first deploy sets where they are missing.
    pub env: BTreeMap<ConfigKey, EnvWish>,
    /// Health checks by process type.
    pub health: BTreeMap<ProcessType, HealthCheck>,
}

/// One add-on that an app asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AddonWish {
    /// The service.
    pub service: AddonService,
    /// The plan; the provider's default where `None`.
    pub plan: Option<PlanName>,
    /// The attachment's name, such as `DATABASE`; the provider's default where `None`.
    pub attachment: Option<ConfigKey>,
    /// What the plan understands, such as a version.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl AddonWish {
    /// This service with its default plan.
    pub fn new(service: AddonService) -> Self {
        Self { service, plan: None, attachment: None, options: BTreeMap::new() }
    }
}

/// What an app asks for one process type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct FormationWish {
    /// How many, where the app says so.
    pub quantity: Option<u32>,
    /// Which size, where the app says so.
    pub size: Option<String>,
    /// Never two releases of it at once: the old one is stopped before the new one starts.
    pub single: bool,
    /// What it keeps beyond its instances' lives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Mount>,
}

impl FormationWish {
    /// Whether two releases of it must never run at once.
    pub fn is_single(&self) -> bool {
        self.single || self.held().is_some()
    }

    /// The first of its volumes that one instance alone may hold.
    pub fn held(&self) -> Option<&Mount> {
        self.volumes.iter().find(|mount| !mount.shared)
    }
}

/// A volume of the app where a process type sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Mount {
    /// The volume, one of the app's.
    pub volume: VolumeName,
    /// Where it is seen.
    pub path: MountPath,
    /// Whether many instances, also of two releases, may have it at once; else one instance holds it alone.
    #[serde(default)]
    pub shared: bool,
}

impl Mount {
    /// This volume at this path, for one instance at a time.
    pub fn new(volume: VolumeName, path: MountPath) -> Self {
        Self { volume, path, shared: false }
    }

    /// For many instances at once.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }
}

/// A config var that an app asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EnvWish {
    /// Its value, which is no secret: it stands in the source.
    pub value: Option<String>,
    /// A random secret is made for it.
    pub generate: bool,
    /// The deploy fails without it.
    pub required: bool,
    /// What it is for.
    pub description: Option<String>,
}

/// How to tell that an instance is well. Durations are in milliseconds on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct HealthCheck {
    /// For web: a GET on this path must answer 2xx or 3xx. Without it, accepting a connection is enough.
    pub path: Option<String>,
    /// How long a web instance may take until it is well; Heroku's 60 s.
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// How long an instance of another type must stay up to count as well; 2 s.
    #[serde(with = "millis")]
    pub settle: Duration,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { path: None, timeout: Duration::from_secs(60), settle: Duration::from_secs(2) }
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
