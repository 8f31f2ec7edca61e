//! An app: what its owner wants (the head), and what users see (live).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::vault::{Sealed, WrappedKey};
use crate::{
    AddonId, AddonService, AppId, AppName, ConfigKey, DomainName, Freeze, NodeName, PlanName, Principal,
    ProcessType, ReleaseId, RouteSettings, Version,
};

/// An app as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct App {
    /// This life of it.
    pub id: AppId,
    /// Its name.
    pub name: AppName,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Who made it.
    pub created_by: Principal,
    /// What its owner wants.
    pub head: Head,
    /// What users see; `None` before the first release is live.
    pub live: Option<Live>,
    /// The number of its newest release.
    pub last_version: Option<Version>,
    /// Host names beside the platform's own for it.
    #[serde(default)]
    pub domains: Vec<DomainName>,
    /// Buildpacks in order; those of `app.json`, or detection, where empty.
    #[serde(default)]
    pub buildpacks: Vec<String>,
    /// Users see the maintenance page.
    #[serde(default)]
    pub maintenance: bool,
    /// Requests are held.
    #[serde(default)]
    pub paused: bool,
    /// How requests are brought to it.
    #[serde(default)]
    pub routing: RouteSettings,
    /// No release is made while it is frozen.
    #[serde(default)]
    pub frozen: Option<Freeze>,
    /// The node that its processes run on, where that is known: its work is done there.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// It is being destroyed: nothing new begins.
    #[serde(default)]
    pub destroying: bool,
    /// The key of its secrets, itself encrypted.
    pub(crate) key: WrappedKey,
}

/// What an app's owner wants: changed when a change is acknowledged, taken over by the next release.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Head {
    /// Grows with every change; a release says which one it took.
    pub rev: u64,
    /// The owner's config vars, encrypted.
    pub(crate) config: BTreeMap<ConfigKey, Sealed>,
    /// Which add-ons give the app config vars.
    pub attachments: Vec<Attachment>,
    /// How many of each process type, as somebody said; types that nobody spoke of follow the rule for first sight.
    pub formation: BTreeMap<ProcessType, Scale>,
}

impl Head {
    /// The names of the owner's config vars.
    pub fn config_keys(&self) -> impl Iterator<Item = &ConfigKey> {
        self.config.keys()
    }
}

/// How many of one process type, of which size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Scale {
    /// How many.
    pub quantity: u32,
    /// Which size; the platform's default where `None`.
    #[serde(default)]
    pub size: Option<String>,
}

impl Scale {
    /// So many of the default size.
    pub fn of(quantity: u32) -> Self {
        Self { quantity, size: None }
    }
}

/// An add-on's place in an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Attachment {
    /// The add-on.
    pub addon: AddonId,
    /// The name that its config vars begin with.
    pub name: ConfigKey,
}

/// What users see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Live {
    /// The release.
    pub release: ReleaseId,
    /// Its number.
    pub version: Version,
    /// The revision of the head that it took.
    pub head: u64,
    /// How many of each process type.
    pub formation: BTreeMap<ProcessType, Scale>,
    /// Its config var `ERROR_PAGE_URL`.
    #[serde(default)]
    pub error_page: Option<String>,
    /// Its config var `MAINTENANCE_PAGE_URL`.
    #[serde(default)]
    pub maintenance_page: Option<String>,
}

impl App {
    /// Whether the owner changed config or add-ons since the live release took them.
    pub fn is_ahead(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.head != self.head.rev)
    }
}

/// An add-on as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Addon {
    /// Its id.
    pub id: AddonId,
    /// The service.
    pub service: AddonService,
    /// The plan.
    pub plan: PlanName,
    /// The app that owns it.
    pub app: AppName,
    /// That app's life.
    pub app_id: AppId,
    /// The name that its config vars begin with.
    pub attachment: ConfigKey,
    /// How far it is.
    pub state: AddonState,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// Today's config vars, encrypted with the owner's key.
    #[serde(default)]
    pub(crate) vars: BTreeMap<ConfigKey, Sealed>,
    /// The revision of the app's head since which releases run with today's config vars.
    #[serde(default)]
    pub head: u64,
    /// What older releases go on with, until nothing of them runs any more.
    #[serde(default)]
    pub(crate) old_vars: BTreeMap<ConfigKey, Sealed>,
}

impl Addon {
    /// The names of the config vars that it gives.
    pub fn config_keys(&self) -> impl Iterator<Item = &ConfigKey> {
        self.vars.keys()
    }

    /// The config vars for a release that took this revision of the app's head.
    pub(crate) fn vars_at(&self, head: u64) -> &BTreeMap<ConfigKey, Sealed> {
        if head < self.head && !self.old_vars.is_empty() { &self.old_vars } else { &self.vars }
    }
}

/// How far an add-on is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AddonState {
    /// It is being made.
    Provisioning,
    /// It can be used.
    Provisioned,
    /// It is being destroyed.
    Deprovisioning,
}
