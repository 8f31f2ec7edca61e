//! A colleague's engine on the platform's store: it orders what the platform then does.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use paas::addons::postgres::{Postgres, PostgresServer};
use paas::run::proxy::{Proxy, ProxyConfig};
use paas::store::SqliteStore;
use paas::testkit::world::{FakeRuntime, World as Fakes};
use paas::vault::MasterKey;
use paas::{
    DirBlobs, Engine, EngineOptions, MemoryLogs, Principal, Result, SystemClock, Vault, Workflow,
    WorkflowHandle,
};

/// An engine that was never started, so that it claims nothing and calls no provider but for its catalog.
#[derive(Debug)]
pub(crate) struct Client {
    runtime: tokio::runtime::Runtime,
    pub(crate) engine: Engine,
}

impl Client {
    pub(crate) fn open(data: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let engine = runtime.block_on(async {
            let clock = Arc::new(SystemClock::new());
            let store = Arc::new(SqliteStore::open(data.join("paas.db"), clock.clone()).unwrap());
            let proxy = Proxy::new(ProxyConfig::default(), Arc::new(MemoryLogs::new()), clock);
            let runtime = Arc::new(FakeRuntime::new(&Fakes::new()));
            let mut options = EngineOptions::default();
            options.poll = Duration::from_millis(10);
            Engine::builder(store, runtime, Arc::new(proxy))
                .with_options(options)
                .with_vault(Vault::new(MasterKey::open_or_create(data.join("master.key")).unwrap()))
                .with_blobs(Arc::new(DirBlobs::open(data.join("blobs")).unwrap()))
                .with_addon(Arc::new(Postgres::new(PostgresServer::managed(data.join("postgres")))))
                .build()
                .unwrap()
        });
        Self { runtime, engine }
    }

    pub(crate) fn me() -> Principal {
        Principal::named("colleague").unwrap()
    }

    pub(crate) fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> T {
        self.runtime.block_on(work).unwrap()
    }

    /// What may fail for now.
    pub(crate) fn attempt<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(crate) fn state(&self, handle: &WorkflowHandle) -> Workflow {
        self.wait(handle.state())
    }
}
