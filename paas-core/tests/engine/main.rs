//! The engine over a world of fakes that count their effects.
#![cfg(feature = "testkit")]
#![allow(missing_docs, clippy::unwrap_used, clippy::large_futures)]

mod addons;
mod cancel;
mod crash;
mod deploy;
mod embed;
mod explain;
mod freeze;
#[cfg(feature = "store-postgres")]
mod frozen;
mod garbage;
mod history;
mod hooked;
mod keys;
mod names;
mod neglect;
mod nodes;
#[cfg(feature = "blobs-s3")]
mod objects;
#[cfg(feature = "store-postgres")]
mod postgres;
mod queue;
mod reads;
mod repair;
mod rounds;
mod routing;
mod secrets;
mod storm;
mod twice;
mod volumes;
mod zombies;

use std::sync::Arc;

use paas_core::store::MemoryStore;
use paas_core::testkit::history::History;
use paas_core::testkit::world::{TestPlatform, check};
use paas_core::{AppName, Engine, EngineBuilder, Principal, Store};

pub(crate) const WEB: &str = "web: serve\n";
pub(crate) const WEB_AND_WORKER: &str = "web: serve\nworker: work\n";

pub(crate) fn hello() -> AppName {
    "hello".parse().unwrap()
}

pub(crate) fn me() -> Principal {
    Principal::new("ada".parse().unwrap())
}

/// A platform with a started engine and the app `hello`; its time passes.
pub(crate) struct Bench {
    pub(crate) platform: TestPlatform,
    pub(crate) engine: Engine,
    pub(crate) store: Arc<dyn Store>,
    #[expect(dead_code, reason = "time passes until it is dropped")]
    passing: Option<Box<dyn std::any::Any>>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Self {
        let platform = TestPlatform::new().unwrap();
        let passing = platform.let_time_pass();
        Self { passing: Some(Box::new(passing)), ..Self::of(platform, change).await }
    }

    /// One whose time stands still.
    pub(crate) async fn of(
        platform: TestPlatform,
        change: impl FnOnce(EngineBuilder) -> EngineBuilder,
    ) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
        let engine = change(platform.engine(store.clone()).unwrap()).build().unwrap();
        engine.start().await.unwrap();
        engine.create_app(&hello(), &me()).await.unwrap();
        Self { platform, engine, store, passing: None }
    }

    pub(crate) async fn deploy(&self, code: &str) -> paas_core::Result<paas_core::Workflow> {
        TestPlatform::deploy(&self.engine, &hello(), code).await?.succeeded().await
    }

    /// Nothing that must always hold is broken.
    pub(crate) async fn is_sound(&self) {
        let wrong = check(&self.platform.world, &self.engine, &hello()).await.unwrap();
        assert!(wrong.is_empty(), "{wrong:#?}\n{:#?}", self.platform.world.history());
        let history = History::read(self.store.as_ref()).await.unwrap();
        assert_eq!(history.ran(self.platform.world.release_phases()).check(), []);
    }
}
