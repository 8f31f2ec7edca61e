//! Makes an artifact of code.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    AppId, AppName, Artifact, Checkout, ConfigVars, Context, Digest, Manifest, ProviderName, Result,
};

/// Which builder and which version of it: part of the key under which an artifact is found again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuilderId {
    /// The builder.
    pub name: ProviderName,
    /// Changes whenever the same input may give another artifact.
    pub version: String,
}

impl BuilderId {
    /// This version of this builder.
    pub fn new(name: ProviderName, version: impl Into<String>) -> Self {
        Self { name, version: version.into() }
    }
}

/// Whether a builder knows what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detection {
    /// It does; the text names what was recognised, for people.
    Yes(String),
    /// It doesn't; the texts say what was looked for.
    No(Vec<String>),
}

/// What to build.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BuildRequest {
    /// The app, for people.
    pub app: AppName,
    /// The app's life: what a builder keeps between builds, such as a dependency cache, is kept under this.
    pub app_id: AppId,
    /// The code; the builder may write into its folder.
    pub checkout: Checkout,
    /// The app's config vars. They may reach the build as files, never as arguments.
    pub config: ConfigVars,
    /// Buildpacks in order, where the app or the platform says so; `app.json` may say so too.
    pub buildpacks: Vec<String>,
}

impl BuildRequest {
    /// A build of this code without config.
    pub fn new(app: AppName, app_id: AppId, checkout: Checkout) -> Self {
        Self { app, app_id, checkout, config: ConfigVars::new(), buildpacks: Vec::new() }
    }

    /// With these config vars.
    #[must_use]
    pub fn with_config(mut self, config: ConfigVars) -> Self {
        self.config = config;
        self
    }

    /// With these buildpacks.
    #[must_use]
    pub fn with_buildpacks(mut self, buildpacks: Vec<String>) -> Self {
        self.buildpacks = buildpacks;
        self
    }
}

/// What a builder can do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuilderCapabilities {
    /// Builds run apart from the engine's data and from other apps.
    pub isolated: bool,
    /// The same input gives the same digest.
    pub reproducible: bool,
    /// Cancelling stops everything that the build started.
    pub cancel: bool,
}

impl BuilderCapabilities {
    /// Able to do all of it.
    pub fn full() -> Self {
        Self { isolated: true, reproducible: true, cancel: true }
    }
}

/// Makes an artifact of code.
#[async_trait]
pub trait Builder: fmt::Debug + Send + Sync + 'static {
    /// Which builder this is.
    fn id(&self) -> BuilderId;

    /// What it can do.
    fn capabilities(&self) -> BuilderCapabilities;

    /// Whether this builder knows what to do with this code.
    ///
    /// # Behavior
    /// - Reads the checkout and changes nothing.
    /// - Is quick: it is tried for every builder in the engine's order; the first `Yes` builds.
    ///
    /// # Errors
    /// Only when it can't be told.
    async fn detect(&self, ctx: &Context, request: &BuildRequest) -> Result<Detection>;

    /// What the code asks of the platform, read before it is built: an app's first build already sees the config
    /// vars that it asks for. Without it, they come with the first release.
    ///
    /// # Behavior
    /// - Reads the checkout and changes nothing.
    ///
    /// # Errors
    /// `invalid_params` when what it asks for can't be understood.
    async fn manifest(&self, ctx: &Context, request: &BuildRequest) -> Result<Manifest> {
        let _ = (ctx, request);
        Ok(Manifest::default())
    }

    /// Builds.
    ///
    /// # Behavior
    /// - What people should see goes to `ctx.log` as it happens; secrets are taken out on the way.
    /// - The artifact holds no config var, and doesn't depend on the checkout's path.
    /// - What is kept for the next build is replaced only when this one succeeded.
    /// - `ctx.cancel` stops all that the build started before the call returns.
    /// - Called again with the same key it may build again; the artifact is the same or as good.
    /// - A finished artifact is safe on disk when the call returns.
    ///
    /// # Errors
    /// `not_detected`, `build_failed` with the last lines of output, `timeout`, `limit_exceeded`, `disk_full`.
    async fn build(&self, ctx: &Context, request: &BuildRequest) -> Result<Artifact>;

    /// Forgets what was kept for this app between builds. Forgetting what isn't there is no error.
    ///
    /// # Errors
    /// When it can't be removed.
    async fn forget(&self, ctx: &Context, app: AppId) -> Result<()>;

    /// Removes an artifact of its own that no release refers to any more. Removing what isn't there is no error. Slugs
    /// are content in `Blobs`, which the engine removes itself.
    ///
    /// # Errors
    /// When it can't be removed.
    async fn discard(&self, ctx: &Context, artifact: &Artifact) -> Result<()> {
        let _ = (ctx, artifact);
        Ok(())
    }

    /// The digest of what would change the result beside code, builder version and config: stack, limits,
    /// pinned defaults. Part of the key under which an artifact is found again; another one at each call where what
    /// would change the result can't be told before it is built.
    fn inputs(&self, request: &BuildRequest) -> Digest {
        Digest::of_parts(request.buildpacks.iter())
    }
}

const _: fn(&dyn Builder) = |_| {};
