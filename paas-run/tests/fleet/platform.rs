//! Engines and proxies of one platform, and its users.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use paas_core::store::{PostgresOptions, PostgresStore};
use paas_core::testkit::postgres::PostgresServer;
use paas_core::testkit::router::{LoopbackClient, RouterClient as _};
use paas_core::testkit::world::{FakeBuilder, FakeSource, TestPlatform, World};
use paas_core::vault::MasterKey;
use paas_core::{
    AppName, AppRoutes, Cancel, CancelReason, Context, DirBlobs, DrainRequest, Engine, EngineBuilder,
    EngineOptions, FleetRouter, MemoryLogs, Principal, Result, RouteFollower, Router, RouterCapabilities,
    Store, SystemClock, Vault,
};
use paas_run::proxy::{Proxy, ProxyConfig};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::machines::Machines;

pub(crate) const HOST: &str = "hello.localhost";

pub(crate) fn hello() -> AppName {
    "hello".parse().unwrap()
}

/// One platform: its database, its machines, its content.
pub(crate) struct Fleet {
    pub(crate) server: Arc<PostgresServer>,
    pub(crate) machines: Arc<Machines>,
    schema: String,
    world: World,
    dir: tempfile::TempDir,
}

impl Fleet {
    pub(crate) async fn new() -> Option<Self> {
        let server = PostgresServer::shared().await?;
        let (schema, dir) = (server.new_schema(), tempfile::tempdir().unwrap());
        Some(Self { server, machines: Machines::new(), schema, world: World::new(), dir })
    }

    pub(crate) async fn store(&self, url: &str) -> Arc<dyn Store> {
        let mut options = PostgresOptions::default().schema(&self.schema);
        options.connect_timeout = Duration::from_millis(200);
        let store = PostgresStore::connect_with(url, options, Arc::new(SystemClock::new())).await;
        Arc::new(store.unwrap())
    }

    pub(crate) async fn engine(&self) -> Engine {
        self.engine_with(|builder| builder).await
    }

    pub(crate) async fn engine_with(&self, change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Engine {
        let store = self.store(&self.server.url()).await;
        let mut options = EngineOptions::default();
        options.work_dir = self.dir.path().join("work");
        options.poll = Duration::from_millis(50);
        let builder =
            Engine::builder(store.clone(), self.machines.clone(), Arc::new(FleetRouter::new(store)))
                .with_options(options)
                .with_blobs(Arc::new(DirBlobs::open(self.dir.path().join("blobs")).unwrap()))
                .with_vault(Vault::new(MasterKey::from_bytes(&[7; 32]).unwrap()))
                .with_source(Arc::new(FakeSource::new(&self.world)))
                .with_builder(Arc::new(FakeBuilder::new(&self.world)));
        let engine = change(builder).build().unwrap();
        engine.start().await.unwrap();
        engine
    }

    /// A proxy that reaches the store at this address.
    pub(crate) async fn proxy(&self, url: &str, lease: Duration) -> FollowingProxy {
        let mut config = ProxyConfig::default();
        config.trust_timeout = Duration::from_millis(50);
        let proxy = Proxy::new(config, Arc::new(MemoryLogs::new()), Arc::new(SystemClock::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, cancel) = (listener.local_addr().unwrap(), Cancel::new());
        let slow = Slow { proxy: proxy.clone(), open: watch::Sender::new(true), pause: AtomicU64::new(0) };
        let slow = Arc::new(slow);
        let follower = RouteFollower::new(self.store(url).await, slow.clone()).unwrap().with_lease(lease);
        let tasks = [
            tokio::spawn({
                let (proxy, cancel) = (proxy.clone(), cancel.clone());
                async move { drop(proxy.serve(listener, cancel).await) }
            }),
            tokio::spawn({
                let (follower, cancel) = (follower.clone(), cancel.clone());
                async move { follower.follow(&cancel).await }
            }),
        ];
        follower.serves().await;
        FollowingProxy { address, slow, follower, cancel, tasks }
    }
}

/// Deploys and waits until the new release is live and the old one is gone.
pub(crate) async fn deploy(engine: &Engine, code: &str) -> u32 {
    TestPlatform::deploy(engine, &hello(), code).await.unwrap().succeeded().await.unwrap();
    engine.app(&hello()).await.unwrap().live.unwrap().version.number()
}

pub(crate) fn me() -> Principal {
    Principal::platform()
}

/// A proxy that takes its time to apply routes.
#[derive(Debug)]
pub(crate) struct Slow {
    proxy: Proxy,
    pub(crate) open: watch::Sender<bool>,
    /// Milliseconds.
    pub(crate) pause: AtomicU64,
}

#[async_trait]
impl Router for Slow {
    fn capabilities(&self) -> RouterCapabilities {
        self.proxy.capabilities()
    }

    async fn apply(&self, ctx: &Context, routes: &AppRoutes) -> Result<()> {
        tokio::time::sleep(Duration::from_millis(self.pause.load(Ordering::SeqCst))).await;
        // The sender lives as long as we do.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        self.proxy.apply(ctx, routes).await
    }

    async fn observe(&self, app: &AppName) -> Result<Option<AppRoutes>> {
        self.proxy.observe(app).await
    }

    async fn drain(&self, ctx: &Context, request: &DrainRequest) -> Result<u64> {
        self.proxy.drain(ctx, request).await
    }

    fn serve_until(&self, until: Option<Instant>) -> Result<()> {
        self.proxy.serve_until(until)
    }
}

pub(crate) struct FollowingProxy {
    pub(crate) address: SocketAddr,
    pub(crate) slow: Arc<Slow>,
    pub(crate) follower: RouteFollower,
    pub(crate) cancel: Cancel,
    pub(crate) tasks: [JoinHandle<()>; 2],
}

impl FollowingProxy {
    pub(crate) async fn get(&self) -> (u16, String) {
        LoopbackClient::new(self.address).get(HOST, "/").await
    }

    /// Waits until it answers so.
    pub(crate) async fn answers(&self, status: u16, body: &str) {
        loop {
            let answer = self.get().await;
            if answer.0 == status && (status != 200 || answer.1 == body) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel(CancelReason::Shutdown);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// Users of one proxy, who notice every failed request, and every one that an older release answers after a newer one
/// was said to be live.
pub(crate) struct Users {
    done: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<u64>>,
}

impl Users {
    pub(crate) fn of(proxy: &FollowingProxy, live: &Arc<AtomicU32>) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let task = || {
            let (client, live, done) = (LoopbackClient::new(proxy.address), live.clone(), done.clone());
            tokio::spawn(async move {
                let mut answers = 0;
                while !done.load(Ordering::SeqCst) {
                    let at_least = live.load(Ordering::SeqCst);
                    let (status, body) = client.get(HOST, "/").await;
                    assert_eq!(status, 200, "no request fails, but: {body}");
                    let version: u32 = body.parse().unwrap();
                    assert!(version >= at_least, "v{version} answered after v{at_least} was live");
                    answers += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                answers
            })
        };
        let tasks = (0..4).map(|_| task()).collect();
        Self { done, tasks }
    }

    /// How many requests were answered.
    pub(crate) async fn end(self) -> u64 {
        self.done.store(true, Ordering::SeqCst);
        let mut answers = 0;
        for task in self.tasks {
            answers += task.await.expect("no request failed");
        }
        answers
    }
}
