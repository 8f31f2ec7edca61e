//! Machines with real local processes, which share a store and content and nothing else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use paas_core::store::SqliteStore;
use paas_core::testkit::router::{LoopbackClient, RouterClient as _};
use paas_core::testkit::s3::S3Server;
use paas_core::testkit::world::{FakeBuilder, FakeSource, TestPlatform, World as Fakes};
use paas_core::vault::KeyFile;
use paas_core::{
    AppId, AppName, Artifact, Blobs, BuildRequest, Builder, BuilderCapabilities, BuilderId, Cancel,
    CancelReason, Context, Detection, DirBlobs, Engine, EngineOptions, FleetRouter, MemoryLogs, ProcessType,
    Result, RollbackOrder, RouteFollower, Runtime as _, S3Blobs, Scale, Store, SystemClock, Vault, Version,
    WaitsFor,
};
use paas_run::process::{ProcessConfig, ProcessRuntime};
use paas_run::proxy::{Proxy, ProxyConfig};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::platform::me;
use crate::world::{World, slug};

const LEASE: Duration = Duration::from_secs(1);

/// Answers with its argument.
const SERVE: &str = r#"$| = 1;
    use IO::Socket::INET;
    my $s = IO::Socket::INET->new(LocalPort => $ENV{PORT}, Listen => 64, ReuseAddr => 1) or die "no port: $!";
    while (my $c = $s->accept) {
        while (<$c>) { last if /^\r?\n$/ }
        printf $c "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", length $ARGV[0], $ARGV[0];
        close $c }"#;

fn one() -> AppName {
    "one".parse().unwrap()
}

fn two() -> AppName {
    "two".parse().unwrap()
}

fn code(answer: &str) -> String {
    format!("web: exec perl serve.pl {answer}\n")
}

/// Makes slugs that can be run.
#[derive(Debug)]
struct Slugs {
    fake: FakeBuilder,
    blobs: Arc<dyn Blobs>,
    dir: PathBuf,
}

#[async_trait]
impl Builder for Slugs {
    fn id(&self) -> BuilderId {
        self.fake.id()
    }

    fn capabilities(&self) -> BuilderCapabilities {
        self.fake.capabilities()
    }

    async fn detect(&self, ctx: &Context, request: &BuildRequest) -> Result<Detection> {
        self.fake.detect(ctx, request).await
    }

    async fn build(&self, ctx: &Context, request: &BuildRequest) -> Result<Artifact> {
        let read = self.fake.build(ctx, request).await?;
        let mut made = slug(self.blobs.as_ref(), &self.dir, &[("serve.pl", SERVE)]).await;
        made.processes = read.processes;
        Ok(made)
    }

    async fn forget(&self, ctx: &Context, app: AppId) -> Result<()> {
        self.fake.forget(ctx, app).await
    }
}

/// What machines share: a file of a store, a key, and content.
struct Shared {
    dir: tempfile::TempDir,
    blobs: Arc<dyn Blobs>,
}

impl Shared {
    fn new(blobs: impl FnOnce(&Path) -> Arc<dyn Blobs>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = blobs(dir.path());
        Self { dir, blobs }
    }

    fn store(&self) -> Arc<dyn Store> {
        let file = self.dir.path().join("paas.db");
        Arc::new(SqliteStore::open(file, Arc::new(SystemClock::new())).unwrap())
    }

    async fn machine(&self, number: u16) -> Machine {
        self.machine_with(World::new(), number).await
    }

    /// A machine with this disk that is started. Users and ports are its own, as machines' are.
    async fn machine_with(&self, world: World, number: u16) -> Machine {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (store, blobs) = (self.store(), self.blobs.clone());
        let ports = 12_000 + number * 5_000..12_000 + (number + 1) * 5_000;
        let clock = Arc::new(SystemClock::new());
        let name = format!("machine-{number}").parse().unwrap();
        let mut config =
            ProcessConfig::new(world.data(), blobs.clone(), world.logs.clone(), clock, world.helper.clone())
                .ports(ports)
                .node(name);
        config.first_user += u32::from(number) * 20_000;
        let mut options = EngineOptions::default();
        options.work_dir = world.dir.path().join("work");
        options.poll = Duration::from_millis(50);
        options.lease = LEASE;
        let fakes = Fakes::new();
        let builder =
            Slugs { fake: FakeBuilder::new(&fakes), blobs: blobs.clone(), dir: world.dir.path().to_owned() };
        let vault = Vault::of_file(KeyFile::new(self.dir.path().join("key"))).unwrap();
        let started = runtime.spawn(async move {
            let processes = Arc::new(ProcessRuntime::open(config).await.unwrap());
            let engine = Engine::builder(store.clone(), processes.clone(), Arc::new(FleetRouter::new(store)))
                .with_options(options)
                .with_blobs(blobs)
                .with_vault(vault)
                .with_source(Arc::new(FakeSource::new(&fakes)))
                .with_builder(Arc::new(builder))
                .build()
                .unwrap();
            engine.start().await.unwrap();
            (engine, processes)
        });
        let (engine, processes) = started.await.unwrap();
        Machine { engine, processes, runtime: Some(runtime), world: Some(world) }
    }

    async fn proxy(&self) -> Users {
        let clock = Arc::new(SystemClock::new());
        let proxy = Proxy::new(ProxyConfig::default(), Arc::new(MemoryLogs::new()), clock);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, cancel) = (listener.local_addr().unwrap(), Cancel::new());
        let follower = RouteFollower::new(self.store(), Arc::new(proxy.clone())).unwrap();
        tokio::spawn({
            let cancel = cancel.clone();
            async move { drop(proxy.serve(listener, cancel).await) }
        });
        let serves = follower.clone();
        tokio::spawn({
            let cancel = cancel.clone();
            async move { follower.follow(&cancel).await }
        });
        serves.serves().await;
        Users { address, cancel }
    }
}

struct Machine {
    engine: Engine,
    processes: Arc<ProcessRuntime>,
    runtime: Option<Runtime>,
    /// Its disk; what runs ends with it.
    world: Option<World>,
}

impl Machine {
    async fn deploy(&self, app: &AppName, answer: &str) {
        let deploy = TestPlatform::deploy(&self.engine, app, &code(answer)).await.unwrap();
        deploy.succeeded().await.unwrap();
    }

    async fn runs(&self) -> Vec<(AppName, usize)> {
        let mut all = Vec::new();
        for app in self.processes.apps().await.unwrap() {
            let count = self.processes.observe(&app).await.unwrap().len();
            all.push((app, count));
        }
        all.retain(|(_, count)| *count > 0);
        all
    }

    async fn processes(&self, app: &AppName) -> Vec<String> {
        let all = self.processes.observe(app).await.unwrap();
        all.iter().map(|instance| format!("{} {:?}", instance.name, instance.metadata)).collect()
    }

    /// Ends its engine in order, while its processes go on.
    async fn stop(mut self) -> World {
        self.engine.shutdown().await;
        self.processes.close().await.unwrap();
        self.world.take().unwrap()
    }
}

/// It burns down: its engine is gone from one moment to the next, its processes and its disk are too.
impl Drop for Machine {
    fn drop(&mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::block_in_place(|| runtime.shutdown_timeout(Duration::from_secs(30)));
    }
}

struct Users {
    address: SocketAddr,
    cancel: Cancel,
}

impl Users {
    async fn see(&self, app: &AppName, answer: &str) {
        let (client, host) = (LoopbackClient::new(self.address), format!("{app}.localhost"));
        let mut seen = (0, String::new());
        let looks = async {
            while seen != (200, answer.to_owned()) {
                seen = client.get(&host, "/").await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(120), looks).await.is_ok();
        assert!(in_time, "{app} answers {seen:?} instead of {answer}");
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        self.cancel.cancel(CancelReason::Shutdown);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_machine_runs_its_own_apps_and_what_only_a_lost_one_could_do_is_named() {
    let shared = Shared::new(|dir| Arc::new(DirBlobs::open(dir.join("blobs")).unwrap()));
    let first = shared.machine(0).await;
    let users = shared.proxy().await;
    first.engine.create_app(&one(), &me()).await.unwrap();
    first.deploy(&one(), "one-1").await;
    let runs = first.processes(&one()).await;
    // An app is at home where its first release is made, and this one shall not be on the first machine.
    let disk = first.stop().await;
    let second = shared.machine(1).await;
    second.engine.create_app(&two(), &me()).await.unwrap();
    second.deploy(&two(), "two-1").await;
    let first = shared.machine_with(disk, 0).await;
    users.see(&one(), "one-1").await;
    users.see(&two(), "two-1").await;
    assert_eq!(first.processes(&one()).await, runs, "what went on was started again");

    // Asked at one machine, done at the other.
    let scaled =
        first.engine.scale(&two(), [(ProcessType::web(), Scale::of(2))].into(), &me()).await.unwrap();
    scaled.succeeded().await.unwrap();
    first.deploy(&two(), "two-2").await;
    second.deploy(&one(), "one-2").await;
    users.see(&one(), "one-2").await;
    users.see(&two(), "two-2").await;
    assert_eq!(first.runs().await, [(one(), 1)]);
    assert_eq!(second.runs().await, [(two(), 2)]);

    drop(second);
    let waits = TestPlatform::deploy(&first.engine, &two(), &code("two-3")).await.unwrap();
    let why = loop {
        let told = first.engine.explain(&two()).await.unwrap();
        if let [open] = &told.open[..]
            && let WaitsFor::Look { why, .. } = &open.waits_for
            && why.contains("move_here")
        {
            break told.to_string();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(why.contains("machine-1"), "{why}");
    users.see(&one(), "one-2").await;
    assert_eq!(first.runs().await, [(one(), 1)]);

    first.engine.move_here(&two(), &me()).await.unwrap();
    waits.succeeded().await.unwrap();
    users.see(&two(), "two-3").await;
    assert_eq!(first.runs().await, [(one(), 1), (two(), 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn slugs_from_an_object_store_run_on_another_machine_when_the_first_ones_disk_is_gone() {
    let Some(server) = S3Server::own().await else { return };
    let opened = async || Arc::new(S3Blobs::open(server.options("platform")).await.unwrap());
    let blobs: Arc<dyn Blobs> = opened().await;
    let shared = Shared::new(|_| blobs);
    let first = shared.machine(0).await;
    let users = shared.proxy().await;
    first.engine.create_app(&one(), &me()).await.unwrap();
    first.deploy(&one(), "one-1").await;
    first.deploy(&one(), "one-2").await;
    users.see(&one(), "one-2").await;
    drop(first);

    let second = shared.machine(1).await;
    let moved = async {
        while let Err(error) = second.engine.move_here(&one(), &me()).await {
            assert_eq!(error.code(), paas_core::ErrorCode::Conflict, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    moved.await;
    users.see(&one(), "one-2").await;
    let back = second.engine.rollback(&one(), RollbackOrder::to(Version::FIRST), &me()).await.unwrap();
    back.succeeded().await.unwrap();
    users.see(&one(), "one-1").await;
    second.deploy(&one(), "one-4").await;
    users.see(&one(), "one-4").await;
    assert_eq!(second.runs().await, [(one(), 1)]);
}
