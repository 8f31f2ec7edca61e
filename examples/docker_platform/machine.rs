//! What builds and runs apps: a Docker daemon.

use std::path::Path;
use std::sync::Arc;

use paas::addons::postgres::{Dedicated, DedicatedConfig, Postgres};
use paas::build::{
    BuildpackBuilder, BuildpackConfig, DockerfileBuilder, DockerfileConfig, ImageBuilder, ImageSource,
};
use paas::docker::{Docker, DockerConfig, PlatformName};
use paas::run::docker::{DockerRuntime, DockerRuntimeConfig};
use paas::run::logs::FileLogs;
use paas::sandbox::Helper;
use paas::{Clock, DirBlobs, EngineBuilder, Error, ErrorCode, Result, Runtime};

/// The sample app.
pub(crate) const SAMPLE: &[(&str, &str)] = &[
    ("Dockerfile", include_str!("../docker-sample-app/Dockerfile")),
    ("index.html", include_str!("../docker-sample-app/index.html")),
];

/// Whether the sample app asks for a database.
pub(crate) const SAMPLE_DATABASE: bool = false;

/// What builds and runs.
#[derive(Debug)]
pub(crate) struct Machine {
    docker: Docker,
    runtime: Arc<DockerRuntime>,
    dockerfile: Arc<DockerfileBuilder>,
    buildpacks: Option<Arc<BuildpackBuilder>>,
    postgres: Dedicated,
}

impl Machine {
    /// Adopts what runs.
    pub(crate) async fn open(
        data: &Path,
        blobs: Arc<DirBlobs>,
        logs: Arc<FileLogs>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let docker = Docker::connect(DockerConfig::new().platform(name(data)?)).await?;
        let stack = std::env::var("PAAS_STACK").ok().filter(|image| !image.is_empty());
        let mut config =
            DockerRuntimeConfig::new(docker.clone(), data.join("run"), blobs.clone(), logs, clock);
        config.stack.clone_from(&stack);
        let runtime = Arc::new(DockerRuntime::open(config).await?);
        for missing in runtime.missing() {
            eprintln!(" !     This daemon can't isolate apps fully: {missing}");
        }
        let dockerfile = DockerfileBuilder::open(DockerfileConfig::new(docker.clone())).await?;
        let buildpacks = if let Some(stack) = &stack {
            let helper =
                Helper::current().map_err(|e| Error::new(ErrorCode::NotInitialised, e.to_string()))?;
            let config = BuildpackConfig::new(data.join("build"), blobs, helper);
            let config = config.in_containers(docker.clone(), stack);
            Some(Arc::new(BuildpackBuilder::open(config).await?))
        } else {
            None
        };
        let mut postgres = DedicatedConfig::new(docker.clone(), data.join("postgres"));
        // Where the official images are out of reach.
        if let Some(named) = std::env::var("PAAS_POSTGRES").ok().filter(|named| !named.is_empty()) {
            let parsed =
                named.split_once('=').and_then(|(version, image)| Some((version.parse().ok()?, image)));
            let Some((version, image)) = parsed else {
                let what =
                    format!("PAAS_POSTGRES is {named:?}, and not like 17=registry.example.com/postgres:17");
                return Err(Error::new(ErrorCode::InvalidParams, what));
            };
            postgres = postgres.image(version, image);
        }
        let postgres = Dedicated::open(postgres)?;
        Ok(Self { docker, runtime, dockerfile: Arc::new(dockerfile), buildpacks, postgres })
    }

    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        self.runtime.clone()
    }

    /// Gives the engine what only this machine has.
    pub(crate) fn equip(&self, engine: EngineBuilder) -> EngineBuilder {
        let engine = engine
            .with_source(Arc::new(ImageSource::new(self.docker.clone())))
            .with_builder(Arc::new(ImageBuilder::new(self.docker.clone())))
            .with_builder(self.dockerfile.clone())
            .with_addon(Arc::new(Postgres::dedicated(self.postgres.clone())));
        match &self.buildpacks {
            Some(buildpacks) => engine.with_builder(buildpacks.clone()),
            None => engine,
        }
    }

    /// Starts what add-ons need.
    pub(crate) async fn resume(&self) -> Result<()> {
        self.postgres.resume().await
    }

    /// Leaves what runs to another process.
    pub(crate) async fn let_go(&self) -> Result<()> {
        self.postgres.let_go();
        self.runtime.close().await
    }

    /// Ends apps and databases.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.runtime.stop_all().await;
        self.postgres.stop().await
    }
}

/// What this platform is called on its daemon: another folder's is called otherwise, so that any number of them share one.
fn name(data: &Path) -> Result<PlatformName> {
    let path = data.join("docker-name");
    match std::fs::read_to_string(&path) {
        Ok(name) => return name.trim().parse(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(Error::from_io(format!("can't read {}", path.display()), e)),
    }
    let name = format!("paas-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let aside = data.join(".docker-name.new");
    std::fs::write(&aside, &name)
        .and_then(|()| std::fs::rename(&aside, &path))
        .map_err(|e| Error::from_io(format!("can't write {}", path.display()), e))?;
    name.parse()
}
