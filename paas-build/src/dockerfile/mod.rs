//! The `dockerfile` builder: an app's own `Dockerfile`, built by a Docker daemon.
//!
//! ```text
//! checkout --.dockerignore--> context   POST /build ──> daemon ──progress──> steps -> the pusher's terminal
//!                                │                       │  ^
//!           its files, and config vars <────/session─────┘  └── layers and cache mounts of the app's own earlier builds
//!           where a step mounts them
//! ```
//!
//! With BuildKit, a config var reaches a step that says `RUN --mount=type=secret,id=NAME`, as the file
//! `/run/secrets/NAME`, and stays out of layers and history. The classic builder has no such thing: there, and where an
//! app says so, config vars come as build args, which an image shows to everybody who has it.

mod build;
mod config;
mod context;
mod daemon;
mod ignored;
mod sending;
mod session;
mod steps;
mod wire;
mod wish;

use async_trait::async_trait;
use paas_core::{
    AppId, Artifact, ArtifactKind, BuildRequest, Builder, BuilderCapabilities, BuilderId, Context, Detection,
    Digest, Error, ErrorCode, Manifest, ProviderName, Result, blocking,
};
use paas_docker::{failed, label};

use self::build::Plan;
pub use self::config::DockerfileConfig;
use self::context::BuildContext;
use self::wish::Wish;
use crate::docker::kept::{self, Image};
use crate::{app_json, procfile};

/// Where an app's recipe lies if it doesn't say otherwise.
const DOCKERFILE: &str = "Dockerfile";

/// Builds images with a Docker daemon.
#[derive(Debug)]
pub struct DockerfileBuilder {
    config: DockerfileConfig,
    buildkit: bool,
}

impl DockerfileBuilder {
    /// A builder on the configured daemon.
    ///
    /// # Errors
    /// `unavailable` when the daemon doesn't answer.
    pub async fn open(config: DockerfileConfig) -> Result<Self> {
        let version =
            config.docker.client().version().await.map_err(|e| failed("can't ask Docker what it is", e))?;
        let podman = version.components.unwrap_or_default().iter().any(|part| part.name.contains("Podman"));
        let buildkit = !config.classic && !podman && config.docker.speaks(1, 39);
        if buildkit && (config.memory.is_some() || config.millicpus.is_some()) {
            tracing::warn!(
                "BuildKit in the daemon doesn't keep to limits of memory and CPU: limit the control group `buildkit` below \
                 its --cgroup-parent, or use the classic builder"
            );
        }
        Ok(Self { config, buildkit })
    }

    /// What the app asks for, checked before a long build.
    async fn plan(&self, ctx: &Context, request: &BuildRequest) -> Result<(Plan, BuildContext)> {
        let (dir, now) = (request.checkout.dir.clone(), ctx.clock.now());
        let (wish, context, dockerfile) = blocking(move || {
            let wish = Wish::read(&dir)?;
            procfile::read(&dir)?;
            let dockerfile = wish.dockerfile.clone().unwrap_or_else(|| DOCKERFILE.to_owned());
            if !dir.join(&dockerfile).symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                return Err(Error::new(
                    ErrorCode::NotDetected,
                    format!("there is no {dockerfile} in the code"),
                ));
            }
            let context = BuildContext::of(&dir, &dockerfile, now)?;
            Ok((wish, context, dockerfile))
        })
        .await?;
        let mut args = wish.args;
        for key in wish.config_args {
            if let Some(value) = request.config.get(key.as_str()) {
                args.insert(key.to_string(), value.expose().to_owned());
            }
        }
        let revision = &request.checkout.revision;
        let mut labels = self.config.docker.labels([
            (label::APP, request.app.to_string()),
            (label::APP_ID, request.app_id.to_string()),
            (label::KIND, "build".to_owned()),
            (label::SOURCE, request.checkout.digest.to_string()),
        ]);
        labels.extend(revision.id.clone().map(|id| (label::REVISION.to_owned(), id)));
        let plan = Plan {
            app: request.app_id,
            dockerfile,
            target: wish.target,
            args,
            labels,
            secrets: request.config.clone(),
        };
        Ok((plan, context))
    }
}

#[async_trait]
impl Builder for DockerfileBuilder {
    fn id(&self) -> BuilderId {
        let name = ProviderName::new("dockerfile").expect("a constant");
        BuilderId::new(name, env!("CARGO_PKG_VERSION"))
    }

    fn capabilities(&self) -> BuilderCapabilities {
        let mut able = BuilderCapabilities::full();
        // A step may do anything, and a layer says when it was made.
        able.reproducible = false;
        // The classic builder stops when nobody waits any more, but doesn't say when it has.
        able.cancel = self.buildkit;
        able
    }

    async fn detect(&self, _ctx: &Context, request: &BuildRequest) -> Result<Detection> {
        let dir = request.checkout.dir.clone();
        blocking(move || {
            let dockerfile = Wish::read(&dir)?.dockerfile;
            let named = dockerfile.is_some();
            let path = dockerfile.unwrap_or_else(|| DOCKERFILE.to_owned());
            // Whoever names it wants to be told that it isn't there.
            let there = named || dir.join(&path).symlink_metadata().is_ok_and(|meta| meta.is_file());
            Ok(if there { Detection::Yes(DOCKERFILE.to_owned()) } else { Detection::No(vec![path]) })
        })
        .await
    }

    async fn manifest(&self, _ctx: &Context, request: &BuildRequest) -> Result<Manifest> {
        let dir = request.checkout.dir.clone();
        blocking(move || app_json::read(&dir)).await
    }

    async fn build(&self, ctx: &Context, request: &BuildRequest) -> Result<Artifact> {
        let dir = request.checkout.dir.clone();
        let manifest = blocking(move || app_json::read(&dir)).await?;
        let (plan, context) = self.plan(ctx, request).await?;
        let mut redactor = ctx.log.redactor().clone();
        redactor.learn(&request.config);
        let log = ctx.log.redacting(redactor);
        let stage = plan.target.as_ref().map(|target| format!(", stage {target}")).unwrap_or_default();
        log.line(format!("-----> Building {}{stage} with Docker", plan.dockerfile));
        for line in &context.wrong {
            log.line(format!(" !     .dockerignore: {line:?} is no pattern and was left out"));
        }
        let id = build::run(ctx, &log, &self.config, self.buildkit, context, plan).await?;
        let docker = &self.config.docker;
        let image = Image::find(docker, &id).await?;
        let name = image.name(docker, &request.app).await?;
        let dir = request.checkout.dir.clone();
        let processes = image.processes(blocking(move || procfile::read(&dir)).await?)?;
        kept::announce(&log, &processes, &name, image.size);
        let mut artifact =
            Artifact::new(ArtifactKind::Image, image.digest, image.size, self.id().name, ctx.clock.now());
        artifact.reference = Some(image.id);
        artifact.processes = processes;
        artifact.manifest = manifest;
        "Docker".clone_into(&mut artifact.description);
        artifact.metadata.insert("image".to_owned(), name);
        Ok(artifact)
    }

    /// Nothing is kept that could be told apart: layers and cache mounts are the daemon's, which removes the oldest by
    /// itself (`builder.gc` in its `daemon.json`). Another app never sees them.
    async fn forget(&self, _ctx: &Context, _app: AppId) -> Result<()> {
        Ok(())
    }

    async fn discard(&self, _ctx: &Context, artifact: &Artifact) -> Result<()> {
        match &artifact.reference {
            Some(id) => kept::discard(&self.config.docker, id).await,
            None => Ok(()),
        }
    }

    /// Another one each time: what a base image's tag or a step's download gives today is known when it is built. The
    /// daemon's cache makes an unchanged build cheap.
    fn inputs(&self, _request: &BuildRequest) -> Digest {
        Digest::of_parts([uuid::Uuid::new_v4().to_string()])
    }
}
