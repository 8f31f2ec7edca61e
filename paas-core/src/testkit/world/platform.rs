//! An engine over fakes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{FakeAddons, FakeBuilder, FakeRouter, FakeRuntime, FakeSource, World};
use crate::testkit::clock::ManualClock;
use crate::vault::MasterKey;
use crate::{
    AppName, Blobs, Clock, DeployOrder, DirBlobs, Engine, EngineBuilder, EngineOptions, MemoryLogs,
    Principal, Result, Store, Vault, WorkflowHandle,
};

/// What an engine over fakes is made of, and made of again after a crash: world, blobs, logs, master key, clock.
#[derive(Debug)]
pub struct TestPlatform {
    /// The fakes' state.
    pub world: World,
    /// The time.
    pub clock: Arc<ManualClock>,
    /// The logs.
    pub logs: MemoryLogs,
    key: [u8; 32],
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
        let dir =
            tempfile::tempdir().map_err(|e| crate::Error::from_io("can't make a temporary folder", e))?;
        let clock =
            Arc::new(ManualClock::new(chrono::DateTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)));
        let (world, logs) = (World::new(), MemoryLogs::new());
        Ok(Self { world, clock, logs, key: [7; 32], slugs: false, elsewhere: None, dir })
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

    /// Another engine on this store, not started.
    ///
    /// # Errors
    /// As [`EngineBuilder::build`].
    pub fn engine(&self, store: Arc<dyn Store>) -> Result<EngineBuilder> {
        let (world, blobs) = (&self.world, self.elsewhere.clone());
        let blobs = blobs.map_or_else(|| self.blobs().map(|blobs| Arc::new(blobs) as Arc<dyn Blobs>), Ok)?;
        let mut builder = FakeBuilder::new(world);
        if self.slugs {
            builder = builder.making_slugs(blobs.clone());
        }
        Ok(Engine::builder(store, Arc::new(FakeRuntime::new(world)), Arc::new(FakeRouter::new(world)))
            .with_options(self.options())
            .with_clock(self.clock.clone())
            .with_logs(Arc::new(self.logs.clone()))
            .with_blobs(blobs)
            .with_vault(Vault::new(MasterKey::from_bytes(&self.key)?))
            .with_source(Arc::new(FakeSource::new(world)))
            .with_builder(Arc::new(builder))
            .with_addon(Arc::new(FakeAddons::new(world))))
    }

    /// Lets the time pass until the answer is dropped.
    pub fn let_time_pass(&self) -> impl Drop + use<> {
        let clock = self.clock.clone();
        Passing(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(1));
            loop {
                ticks.tick().await;
                clock.advance(Duration::from_millis(1));
            }
        }))
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

struct Passing(tokio::task::JoinHandle<()>);

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.abort();
    }
}
