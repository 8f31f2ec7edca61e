//! What builds and runs apps: buildpacks and processes of this machine, with its own PostgreSQL.

use std::path::Path;
use std::sync::Arc;

use paas::addons::postgres::{Postgres, PostgresServer};
use paas::build::{BuildpackBuilder, BuildpackConfig};
use paas::run::logs::FileLogs;
use paas::run::process::{ProcessConfig, ProcessRuntime};
use paas::sandbox::Helper;
use paas::{Clock, DirBlobs, EngineBuilder, Error, ErrorCode, Result, Runtime};

/// The sample app.
pub(crate) const SAMPLE: &[(&str, &str)] = &[
    ("Procfile", include_str!("../sample-app/Procfile")),
    ("hello.pl", include_str!("../sample-app/hello.pl")),
    ("page.html", include_str!("../sample-app/page.html")),
];

/// Whether the sample app asks for a database.
pub(crate) const SAMPLE_DATABASE: bool = true;

/// What builds and runs.
#[derive(Debug)]
pub(crate) struct Machine {
    runtime: Arc<ProcessRuntime>,
    buildpacks: Arc<BuildpackBuilder>,
    postgres: PostgresServer,
}

impl Machine {
    /// Adopts what runs.
    pub(crate) async fn open(
        data: &Path,
        blobs: Arc<DirBlobs>,
        logs: Arc<FileLogs>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let helper = Helper::current().map_err(|e| Error::new(ErrorCode::NotInitialised, e.to_string()))?;
        let process = ProcessConfig::new(data.join("run"), blobs.clone(), logs, clock, helper.clone());
        let runtime = Arc::new(ProcessRuntime::open(process).await?);
        for missing in runtime.missing() {
            eprintln!(" !     This machine can't isolate apps fully: {missing}");
        }
        let buildpacks = BuildpackConfig::new(data.join("build"), blobs, helper).hiding(data);
        let buildpacks = Arc::new(BuildpackBuilder::open(buildpacks).await?);
        Ok(Self { runtime, buildpacks, postgres: PostgresServer::managed(data.join("postgres")) })
    }

    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        self.runtime.clone()
    }

    /// Gives the engine what only this machine has.
    pub(crate) fn equip(&self, engine: EngineBuilder) -> EngineBuilder {
        engine
            .with_builder(self.buildpacks.clone())
            .with_addon(Arc::new(Postgres::new(self.postgres.clone())))
    }

    /// Starts what add-ons need.
    pub(crate) async fn resume(&self) -> Result<()> {
        self.postgres.resume().await
    }

    /// Leaves what runs to another process.
    pub(crate) async fn let_go(&self) -> Result<()> {
        self.runtime.close().await
    }

    /// Ends apps and databases.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.runtime.stop_all().await;
        self.postgres.stop().await
    }
}
