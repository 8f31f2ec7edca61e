//! What people ask for, and how.

use std::collections::BTreeMap;

use crate::engine::Turn;
use crate::{AddonService, ConfigKey, ConfigVars, PlanName, SourceRef, TurnId, Version};

/// What to deploy.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeployOrder {
    /// The code.
    pub source: SourceRef,
    /// What the release is called; `Deploy` and the commit where `None`.
    pub description: Option<String>,
    /// Whoever keeps the app's turn beyond the deploy's end.
    pub turn: Option<TurnId>,
}

impl DeployOrder {
    /// Deploys this code.
    pub fn new(source: SourceRef) -> Self {
        Self { source, description: None, turn: None }
    }

    /// As a release of this description.
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// While this turn is kept: undone before the pivot when its holder is gone.
    #[must_use]
    pub fn during(mut self, turn: &Turn) -> Self {
        self.turn = Some(turn.id());
        self
    }
}

/// To which release to go back.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RollbackOrder {
    /// The release; the one before the live one where `None`.
    pub to: Option<Version>,
    /// Keeps today's config instead of the release's own.
    pub keep_config: bool,
}

impl RollbackOrder {
    /// To the release before the live one, with its config.
    pub fn previous() -> Self {
        Self { to: None, keep_config: false }
    }

    /// To this release, with its config.
    pub fn to(version: Version) -> Self {
        Self { to: Some(version), keep_config: false }
    }

    /// Keeps today's config.
    #[must_use]
    pub fn keeping_config(mut self) -> Self {
        self.keep_config = true;
        self
    }
}

/// What to change of an app's config.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ConfigEdit {
    /// Set to these values.
    pub set: ConfigVars,
    /// Removed.
    pub unset: Vec<ConfigKey>,
}

impl ConfigEdit {
    /// Sets these.
    pub fn set(vars: ConfigVars) -> Self {
        Self { set: vars, unset: Vec::new() }
    }

    /// Removes these.
    pub fn unset(keys: impl IntoIterator<Item = ConfigKey>) -> Self {
        Self { set: ConfigVars::new(), unset: keys.into_iter().collect() }
    }
}

/// Which add-on to make.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AddonOrder {
    /// The service, by its name or an alias.
    pub service: AddonService,
    /// The plan; the default where `None`.
    pub plan: Option<PlanName>,
    /// The name that its config vars begin with; the service's own where `None`.
    pub attachment: Option<ConfigKey>,
    /// What the plan understands, such as a version.
    pub options: BTreeMap<String, String>,
}

impl AddonOrder {
    /// This service with its default plan and name.
    pub fn new(service: AddonService) -> Self {
        Self { service, plan: None, attachment: None, options: BTreeMap::new() }
    }

    /// Under this name.
    #[must_use]
    pub fn named(mut self, attachment: ConfigKey) -> Self {
        self.attachment = Some(attachment);
        self
    }
}
