//! A release: an artifact with the config and the add-ons that it runs with, numbered and immutable.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::vault::Sealed;
use crate::{
    AppId, AppName, Artifact, Attachment, ConfigKey, Digest, Failure, Principal, ReleaseId, Revision,
    Version, WorkflowId,
};

/// A release as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Release {
    /// Its id.
    pub id: ReleaseId,
    /// Its app.
    pub app: AppName,
    /// The app's life.
    pub app_id: AppId,
    /// Its number.
    pub version: Version,
    /// How it stands.
    pub state: ReleaseState,
    /// Why it was made, for people: `Deploy 3f2a1b9`, `Set DATABASE_URL config vars`, `Rollback to v3`.
    pub description: String,
    /// Who made it.
    pub by: Principal,
    /// When.
    pub created_at: DateTime<Utc>,
    /// What runs.
    pub artifact: Artifact,
    /// The digest of the code it was built from.
    pub source: Option<Digest>,
    /// What is known of the code.
    #[serde(default)]
    pub revision: Revision,
    /// The revision of the app's head that it took.
    pub head: u64,
    /// The owner's config vars at that time, encrypted.
    pub(crate) config: BTreeMap<ConfigKey, Sealed>,
    /// Which add-ons it gets config vars from; their values are always today's.
    pub attachments: Vec<Attachment>,
    /// The release whose artifact and config this one took over.
    #[serde(default)]
    pub rollback_of: Option<Version>,
    /// The workflow that made it.
    pub workflow: WorkflowId,
    /// Why it failed.
    #[serde(default)]
    pub failure: Option<Failure>,
}

impl Release {
    /// The names of the owner's config vars that it runs with.
    pub fn config_keys(&self) -> impl Iterator<Item = &ConfigKey> {
        self.config.keys()
    }
}

/// How a release stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReleaseState {
    /// It has its number; its roll-out goes on.
    Pending,
    /// It went live, and is or was what users see.
    Succeeded,
    /// It never went live. Its number stays taken.
    Failed,
}

impl fmt::Display for ReleaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        })
    }
}
