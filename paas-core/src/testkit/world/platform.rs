//! An engine over fakes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{FakeAddons, FakeBuilder, FakeRouter, FakeRuntime, FakeSource, World};
use crate::testkit::clock::ManualClock;
use crate::vault::KeyFile;
use crate::{
    AddonProvider, AppName, Blobs, Builder, Clock, DeployOrder, DirBlobs, Engine, EngineBuilder,
    EngineOptions, Logs, MemoryLogs, Principal, Result, Router, Runtime, Source, Store, Vault,
    WorkflowHandle,
};

/// What an engine is made of beside its store: a test's fakes, or an embedder's own.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Parts {
    /// Runs processes.
    pub runtime: Arc<dyn Runtime>,
    /// Brings requests to them.
    pub router: Arc<dyn Router>,
    /// Where code comes from.
    pub sources: Vec<Arc<dyn Source>>,
    /// Make artifacts of it.
    pub builders: Vec<Arc<dyn Builder>>,
    /// Provide databases and the like.
    pub addons: Vec<Arc<dyn AddonProvider>>,
    /// Keep content.
    pub blobs: Arc<dyn Blobs>,
    /// Keep logs.
    pub logs: Arc<dyn Logs>,
}

/// What an engine over fakes is made of, and made of again after a crash: world, blobs, logs, master key, clock.
#[derive(Debug)]
pub struct TestPlatform {
    /// The fakes' state.
    pub world: World,
    /// The time.
    pub clock: Arc<ManualClock>,
    /// The logs.
    pub logs: MemoryLogs,
    slugs: bool,
    elsewhere: Option<Arc<dyn Blobs>>,
    dir: tempfile::TempDir,
}

impl TestPlatform {
    /// An empty one.
    ///
    /// # Errors
    /// When no temporary folder can be made.
    pub fn new() -> Result<Self> {
        // In memory, where the machine has such a folder: it isn't the disk that is tested.
        let memory = tempfile::tempdir_in("/dev/shm");
        let dir = memory
            .or_else(|_| tempfile::tempdir())
            .map_err(|e| crate::Error::from_io("can't make a temporary folder", e))?;
        let clock =
            Arc::new(ManualClock::new(chrono::DateTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)));
        let (world, logs) = (World::new(), MemoryLogs::new());
        Ok(Self { world, clock, logs, slugs: false, elsewhere: None, dir })
    }

    /// One whose builder makes slugs.
    #[must_use]
    pub fn making_slugs(mut self) -> Self {
        self.slugs = true;
        self
    }

    /// One that keeps sources and slugs here instead of in its folder.
    #[must_use]
    pub fn keeping(mut self, blobs: Arc<dyn Blobs>) -> Self {
        self.elsewhere = Some(blobs);
        self
    }

    /// A folder of its own, gone with it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The master keys of all its engines.
    pub fn keys(&self) -> KeyFile {
        KeyFile::new(self.dir.path().join("master.key"))
    }

    /// The clock, for stores.
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    /// Sources and slugs.
    ///
    /// # Errors
    /// When the folder can't be used.
    pub fn blobs(&self) -> Result<DirBlobs> {
        Ok(DirBlobs::open(self.dir.path().join("blobs"))?.with_clock(self.clock()))
    }

    /// The settings of its engines: short pauses.
    pub fn options(&self) -> EngineOptions {
        EngineOptions {
            work_dir: self.dir.path().join("work"),
            poll: Duration::from_millis(20),
            max_backoff: Duration::from_millis(5),
            max_stuck_backoff: Duration::from_millis(5),
            stop_grace: Duration::from_secs(1),
            ..EngineOptions::default()
        }
    }

    /// The fakes.
    ///
    /// # Errors
    /// When the folder can't be used.
    pub fn parts(&self) -> Result<Parts> {
        let (world, blobs) = (&self.world, self.elsewhere.clone());
        let blobs = blobs.map_or_else(|| self.blobs().map(|blobs| Arc::new(blobs) as Arc<dyn Blobs>), Ok)?;
        let mut builder = FakeBuilder::new(world);
        if self.slugs {
            builder = builder.making_slugs(blobs.clone());
        }
        Ok(Parts {
            runtime: Arc::new(FakeRuntime::new(world)),
            router: Arc::new(FakeRouter::new(world)),
            sources: vec![Arc::new(FakeSource::new(world))],
            builders: vec![Arc::new(builder)],
            addons: vec![Arc::new(FakeAddons::new(world))],
            blobs,
            logs: Arc::new(self.logs.clone()),
        })
    }

    /// Another engine on this store, not started.
    ///
    /// # Errors
    /// As [`EngineBuilder::build`].
    pub fn engine(&self, store: Arc<dyn Store>) -> Result<EngineBuilder> {
        self.engine_of(store, self.parts()?)
    }

    /// Another engine on this store, of these parts, not started.
    ///
    /// # Errors
    /// As [`EngineBuilder::build`].
    pub fn engine_of(&self, store: Arc<dyn Store>, parts: Parts) -> Result<EngineBuilder> {
        let mut builder = Engine::builder(store, parts.runtime, parts.router)
            .with_options(self.options())
            .with_clock(self.clock.clone())
            .with_logs(parts.logs)
            .with_blobs(parts.blobs)
            .with_vault(Vault::of_file(self.keys())?);
        for source in parts.sources {
            builder = builder.with_source(source);
        }
        for made_by in parts.builders {
            builder = builder.with_builder(made_by);
        }
        for provider in parts.addons {
            builder = builder.with_addon(provider);
        }
        Ok(builder)
    }

    /// Lets the time pass, with tokio's, until the answer is dropped.
    pub fn let_time_pass(&self) -> impl Drop + use<> {
        self.clock.follow();
        Passing(self.clock.clone())
    }

    /// Deploys code of this text to this app.
    ///
    /// # Errors
    /// As [`Engine::deploy`].
    pub async fn deploy(engine: &Engine, app: &AppName, code: &str) -> Result<WorkflowHandle> {
        engine.deploy(app, DeployOrder::new(FakeSource::code(code)), &Principal::platform()).await
    }

    /// How often each key's effect happened more than once: an exactly-once effect has no entry.
    pub fn repeated(&self) -> BTreeMap<String, u32> {
        let mut effects = self.world.effects();
        effects.retain(|_, count| *count > 1);
        effects
    }
}

struct Passing(Arc<ManualClock>);

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.stand();
    }
}
