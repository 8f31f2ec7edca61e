//! Provides databases and other resources to apps.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{AddonId, AddonService, AppName, ConfigKey, ConfigVars, Context, Error, PlanName, Result};

/// What a provider offers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Catalog {
    /// The service, such as `postgres`.
    pub service: AddonService,
    /// Other names by which apps ask for it, such as `heroku-postgresql`.
    pub aliases: Vec<AddonService>,
    /// What it is, for people.
    pub description: String,
    /// The plans; the first is the default.
    pub plans: Vec<Plan>,
    /// The attachment's name where nobody chooses one: `DATABASE` gives `DATABASE_URL`.
    pub attachment: ConfigKey,
    /// Why it can't be had on this machine and what to do about it, such as what to install.
    pub unavailable: Option<String>,
}

impl Catalog {
    /// A service with these plans.
    pub fn new(
        service: AddonService,
        attachment: ConfigKey,
        description: impl Into<String>,
        plans: Vec<Plan>,
    ) -> Self {
        Self {
            service,
            aliases: Vec::new(),
            description: description.into(),
            plans,
            attachment,
            unavailable: None,
        }
    }

    /// Known by these names too.
    #[must_use]
    pub fn with_aliases(mut self, aliases: Vec<AddonService>) -> Self {
        self.aliases = aliases;
        self
    }

    /// Can't be had, and why.
    #[must_use]
    pub fn with_unavailable(mut self, why: Option<String>) -> Self {
        self.unavailable = why;
        self
    }

    /// Whether apps may call it so.
    pub fn is_called(&self, service: &AddonService) -> bool {
        self.service == *service || self.aliases.contains(service)
    }
}

/// One plan of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan {
    /// Its name.
    pub name: PlanName,
    /// What one gets, for people.
    pub description: String,
}

impl Plan {
    /// A plan.
    pub fn new(name: PlanName, description: impl Into<String>) -> Self {
        Self { name, description: description.into() }
    }
}

/// What to provision. The id is chosen by the caller: the same id again is the same resource.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProvisionRequest {
    /// The resource.
    pub addon: AddonId,
    /// The plan.
    pub plan: PlanName,
    /// For which app at first.
    pub app: AppName,
    /// What the plan understands, such as a version.
    pub options: BTreeMap<String, String>,
}

impl ProvisionRequest {
    /// This plan for this app.
    pub fn new(addon: AddonId, plan: PlanName, app: AppName) -> Self {
        Self { addon, plan, app, options: BTreeMap::new() }
    }
}

/// How far a resource is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AddonStatus {
    /// Being made; ask again after this long.
    Pending(Duration),
    /// It can be bound.
    Ready,
    /// It can't be made; the text says why.
    Failed(String),
    /// There is no such resource.
    Gone,
}

/// How an app gets at a resource.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BindRequest {
    /// The resource.
    pub addon: AddonId,
    /// The app.
    pub app: AppName,
    /// The attachment's name: `DATABASE` gives `DATABASE_URL`.
    pub attachment: ConfigKey,
}

impl BindRequest {
    /// Binds this resource to this app under this name.
    pub fn new(addon: AddonId, app: AppName, attachment: ConfigKey) -> Self {
        Self { addon, app, attachment }
    }
}

/// What a provider can do.
#[allow(clippy::struct_excessive_bools, reason = "each stands for a part of the trait by itself")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddonCapabilities {
    /// [`AddonProvider::change_plan`] works.
    pub change_plan: bool,
    /// One resource can be bound to several apps.
    pub shareable: bool,
    /// Each binding has credentials of its own, which [`AddonProvider::unbind`] ends. Where this is false all
    /// bindings of a resource share its credentials, and unbinding leaves those valid.
    pub own_credentials: bool,
    /// [`AddonProvider::rotate`] and [`AddonProvider::revoke`] work.
    pub rotate: bool,
}

impl AddonCapabilities {
    /// Resources can be shared, and so are their credentials; the plan can't be changed.
    pub fn shareable() -> Self {
        Self { shareable: true, ..Self::default() }
    }

    /// And credentials can be changed.
    #[must_use]
    pub fn rotating(self) -> Self {
        Self { rotate: true, ..self }
    }
}

/// Provides a service. Every call is idempotent on the [`AddonId`] that the caller chose.
#[async_trait]
pub trait AddonProvider: fmt::Debug + Send + Sync + 'static {
    /// What it offers, and whether it can be had on this machine.
    async fn catalog(&self) -> Catalog;

    /// What it can do.
    fn capabilities(&self) -> AddonCapabilities;

    /// Makes the resource.
    ///
    /// # Behavior
    /// - The same id again makes nothing new and changes no credentials.
    /// - May return `Pending` at once; the engine then asks [`AddonProvider::status`], without holding the app up.
    ///
    /// # Errors
    /// `unavailable` with what to install or start; `invalid_params` for an unknown plan.
    async fn provision(&self, ctx: &Context, request: &ProvisionRequest) -> Result<AddonStatus>;

    /// How far it is.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn status(&self, ctx: &Context, addon: AddonId) -> Result<AddonStatus>;

    /// Gives an app access and returns the config vars for it: today's credentials.
    ///
    /// # Behavior
    /// - The same request again returns the same vars, until they are rotated.
    /// - Every key is the attachment's name, or begins with it and an underscore.
    ///
    /// # Errors
    /// `not_found` for a resource that is gone.
    async fn bind(&self, ctx: &Context, request: &BindRequest) -> Result<ConfigVars>;

    /// Takes the access back, where the binding has credentials of its own
    /// ([`AddonCapabilities::own_credentials`]). Unbinding what isn't bound is no error.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn unbind(&self, ctx: &Context, request: &BindRequest) -> Result<()>;

    /// Makes new credentials, which [`AddonProvider::bind`] returns from then on.
    ///
    /// # Behavior
    /// - The same call again ([`Context::key`]) changes nothing.
    /// - Those from before stay valid until [`AddonProvider::revoke`], since instances run with them while an app
    ///   takes over the new ones. Where that didn't happen, another rotation replaces the new ones alone.
    ///
    /// # Errors
    /// `not_found` for a resource that is gone; `unsupported` where [`AddonCapabilities::rotate`] is false.
    async fn rotate(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        let _ = (ctx, addon);
        Err(Error::unsupported("rotating credentials"))
    }

    /// Ends all credentials but today's, and whatever is connected with them. When none are left it is no error.
    ///
    /// # Errors
    /// `not_found` for a resource that is gone; `unsupported` where [`AddonCapabilities::rotate`] is false.
    async fn revoke(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        let _ = (ctx, addon);
        Err(Error::unsupported("rotating credentials"))
    }

    /// Moves the resource to another plan, keeping its data.
    ///
    /// # Errors
    /// `unsupported` where [`AddonCapabilities::change_plan`] is false.
    async fn change_plan(&self, ctx: &Context, addon: AddonId, plan: &PlanName) -> Result<AddonStatus> {
        let _ = (ctx, addon, plan);
        Err(Error::unsupported("changing the plan"))
    }

    /// Destroys the resource and its data. Destroying what isn't there is no error.
    ///
    /// # Behavior
    /// - Also when somebody is connected to it. Nothing of a neighbour is touched.
    ///
    /// # Errors
    /// `unavailable` (retried).
    async fn deprovision(&self, ctx: &Context, addon: AddonId) -> Result<()>;
}

const _: fn(&dyn AddonProvider) = |_| {};
