//! Credentials that change under an app that never stops asking its database.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use paas_core::store::MemoryStore;
use paas_core::testkit::world::{FakeBuilder, FakeRouter, FakeRuntime, FakeSource, World};
use paas_core::vault::MasterKey;
use paas_core::{
    AddonOrder, AppName, Context, DeployOrder, DirBlobs, Engine, EngineOptions, Exit, Instance, Principal,
    ProcessSpec, ReleaseId, Result, RunSpec, Runtime, RuntimeCapabilities, RuntimeEvent, SystemClock, Vault,
};
use tokio::task::JoinSet;

use crate::support::{TestServer, connect};

/// Each release is a few tasks that open a session for each of their requests, with the URL that it was started with.
#[derive(Debug)]
struct Asking {
    instances: FakeRuntime,
    releases: Mutex<BTreeMap<ReleaseId, JoinSet<()>>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    asked: AtomicU64,
    failed: Mutex<Vec<String>>,
}

async fn ask(url: String, counts: Arc<Counts>) {
    loop {
        let answer = async { connect(&url).await?.query_one("SELECT 1", &[]).await };
        if let Err(error) = answer.await {
            counts.failed.lock().unwrap().push(error.to_string());
        }
        counts.asked.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Runtime for Asking {
    fn capabilities(&self) -> RuntimeCapabilities {
        self.instances.capabilities()
    }

    async fn ensure(&self, ctx: &Context, spec: &ProcessSpec) -> Result<()> {
        if let Some(url) = spec.env.get("DATABASE_URL") {
            let start = || (0..4).map(|_| ask(url.expose().to_owned(), self.counts.clone())).collect();
            self.releases.lock().unwrap().entry(spec.release).or_insert_with(start);
        }
        self.instances.ensure(ctx, spec).await
    }

    async fn observe(&self, app: &AppName) -> Result<Vec<Instance>> {
        self.instances.observe(app).await
    }

    async fn apps(&self) -> Result<Vec<AppName>> {
        self.instances.apps().await
    }

    fn watch(&self) -> BoxStream<'static, RuntimeEvent> {
        self.instances.watch()
    }

    async fn run_once(&self, ctx: &Context, spec: &RunSpec) -> Result<Exit> {
        self.instances.run_once(ctx, spec).await
    }

    async fn retire(&self, ctx: &Context, app: &AppName, release: ReleaseId) -> Result<()> {
        let tasks = self.releases.lock().unwrap().remove(&release);
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
        self.instances.retire(ctx, app, release).await
    }

    async fn forget(&self, ctx: &Context, app: &AppName) -> Result<()> {
        self.instances.forget(ctx, app).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_of_an_app_to_its_database_fails_while_its_credentials_are_rotated() {
    let Some(server) = TestServer::start().await else { return };
    let (world, counts, by) = (World::new(), Arc::new(Counts::default()), Principal::platform());
    let runtime =
        Asking { instances: FakeRuntime::new(&world), releases: Mutex::default(), counts: counts.clone() };
    let mut options = EngineOptions::default();
    options.work_dir = server.folder.path().join("work");
    // The reconciler looks at the app all the time: it must not start anything anew for the new password.
    options.poll = Duration::from_millis(1);
    let store = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
    let engine = Engine::builder(store, Arc::new(runtime), Arc::new(FakeRouter::new(&world)))
        .with_options(options)
        .with_blobs(Arc::new(DirBlobs::open(server.folder.path().join("blobs")).unwrap()))
        .with_vault(Vault::new(MasterKey::from_bytes(&[7; 32]).unwrap()))
        .with_source(Arc::new(FakeSource::new(&world)))
        .with_builder(Arc::new(FakeBuilder::new(&world)))
        .with_addon(Arc::new(server.provider.clone()))
        .build()
        .unwrap();
    engine.start().await.unwrap();
    let app: AppName = "asks".parse().unwrap();
    engine.create_app(&app, &by).await.unwrap();
    let order = AddonOrder::new("postgres".parse().unwrap());
    let (addon, made) = engine.add_addon(&app, order, &by).await.unwrap();
    made.succeeded().await.unwrap();
    let code = DeployOrder::new(FakeSource::code("web: ask\n"));
    engine.deploy(&app, code, &by).await.unwrap().succeeded().await.unwrap();

    let mut urls = Vec::new();
    for _ in 0..4 {
        let asked = counts.asked.load(Ordering::SeqCst);
        while counts.asked.load(Ordering::SeqCst) < asked + 20 {
            tokio::task::yield_now().await;
        }
        urls.push(engine.config(&app).await.unwrap().get("DATABASE_URL").unwrap().expose().to_owned());
        engine.rotate_addon(addon, &by).await.unwrap().succeeded().await.unwrap();
        let failed = counts.failed.lock().unwrap().clone();
        assert!(failed.is_empty(), "{failed:?}");
        for old in &urls {
            assert!(connect(old).await.is_err(), "an old password still works");
        }
    }
    let replaced = world.effects().into_keys().filter(|effect| effect.starts_with("replace "));
    assert_eq!(replaced.collect::<Vec<_>>(), Vec::<String>::new());
    println!("{} requests, 4 rotations", counts.asked.load(Ordering::SeqCst));
    engine.shutdown().await;
}
