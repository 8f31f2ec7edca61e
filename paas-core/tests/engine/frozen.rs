//! A process that is stopped in the middle of a step for longer than its lease, on real PostgreSQL, and goes on when
//! another one has done its work.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use paas_core::store::{ListQuery, PostgresOptions, PostgresStore, Table};
use paas_core::testkit::history::History;
use paas_core::testkit::postgres::PostgresServer;
use paas_core::testkit::world::{FakeBuilder, FakeSource, TestPlatform, World};
use paas_core::vault::MasterKey;
use paas_core::{
    AppName, AppRoutes, Context, DirBlobs, DrainRequest, Engine, EngineOptions, Error, ErrorCode, Instance,
    InstanceState, ProcessSpec, ReleaseId, Result, Router, RouterCapabilities, Runtime, RuntimeCapabilities,
    RuntimeEvent, Store, SystemClock, Vault, WorkflowState,
};
use serde::{Deserialize, Serialize};

use crate::{hello, me};

/// What a process of this test is started with: the calls it stops at, the database, the folder.
const CHILD: [&str; 4] = ["PAAS_TEST_STOPS_AT", "PAAS_TEST_URL", "PAAS_TEST_SCHEMA", "PAAS_TEST_DIR"];
const THIS: &str =
    "frozen::a_process_that_was_stopped_beyond_its_lease_writes_nothing_and_routes_nothing_back";
const LEASE: Duration = Duration::from_secs(1);

/// What processes share beside the store: what runs and who is routed where, in a file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Outside {
    instances: Vec<Instance>,
    routes: BTreeMap<AppName, AppRoutes>,
    /// The newest claim of each workflow that called.
    fences: BTreeMap<String, u64>,
    effects: Vec<String>,
}

/// A runtime and a router of several processes.
#[derive(Debug, Clone)]
struct Folder {
    dir: PathBuf,
    /// The call at which this process is stopped.
    stops_at: String,
}

impl Folder {
    fn change<T>(&self, change: impl FnOnce(&mut Outside) -> Result<T>) -> Result<T> {
        let lock = File::create(self.dir.join("lock")).unwrap();
        lock.lock().unwrap();
        let path = self.dir.join("outside.json");
        let mut outside = fs::read(&path)
            .map_or_else(|_| Outside::default(), |text| serde_json::from_slice(&text).unwrap());
        let result = change(&mut outside);
        fs::write(&path, serde_json::to_vec(&outside).unwrap()).unwrap();
        result
    }

    /// Something that a step does: not for an engine that was followed by another one, as for every provider that looks.
    async fn act(&self, ctx: &Context, call: &str, act: impl FnOnce(&mut Outside)) -> Result<()> {
        let of_workflow = !ctx.key.workflow.uuid().is_nil();
        if of_workflow && call == self.stops_at && self.dir.join("armed").exists() {
            println!("\nis at {call}");
            while !self.dir.join("thawed").exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        self.change(|outside| {
            if of_workflow {
                let seen = outside.fences.entry(ctx.key.workflow.to_string()).or_default();
                *seen = ctx.fence.max(*seen);
                if ctx.fence < *seen {
                    return Err(Error::new(ErrorCode::LeaseLost, format!("{call} under an older claim")));
                }
            }
            act(outside);
            Ok(())
        })
    }
}

#[async_trait]
impl Runtime for Folder {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::none()
    }

    async fn ensure(&self, ctx: &Context, spec: &ProcessSpec) -> Result<()> {
        let start = |outside: &mut Outside| {
            let ours = |i: &Instance| i.release == spec.release && i.name.process == spec.process;
            outside.instances.retain(|i| !ours(i) || i.name.index <= spec.quantity);
            for index in 1..=spec.quantity {
                if !outside.instances.iter().any(|i| ours(i) && i.name.index == index) {
                    let mut instance = Instance::starting(spec, index, chrono::DateTime::UNIX_EPOCH);
                    let port = 1000 + u16::try_from(outside.effects.len()).unwrap();
                    instance.state = InstanceState::Up;
                    instance.address = Some(([127, 0, 0, 1], port).into());
                    outside.instances.push(instance);
                    outside.effects.push(format!("start {}.{index} {}", spec.process, spec.version));
                }
            }
        };
        self.act(ctx, "ensure", start).await
    }

    async fn observe(&self, app: &AppName) -> Result<Vec<Instance>> {
        self.change(|outside| Ok(outside.instances.iter().filter(|i| i.app == *app).cloned().collect()))
    }

    async fn apps(&self) -> Result<Vec<AppName>> {
        self.change(|outside| Ok(outside.instances.iter().map(|i| i.app.clone()).collect()))
    }

    fn watch(&self) -> BoxStream<'static, RuntimeEvent> {
        Box::pin(stream::pending())
    }

    async fn retire(&self, ctx: &Context, app: &AppName, release: ReleaseId) -> Result<()> {
        let end = |outside: &mut Outside| {
            outside.instances.retain(|i| i.app != *app || i.release != release);
            outside.effects.push(format!("retire {release}"));
        };
        self.act(ctx, "retire", end).await
    }

    async fn forget(&self, _: &Context, _: &AppName) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Router for Folder {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::draining()
    }

    async fn apply(&self, ctx: &Context, routes: &AppRoutes) -> Result<()> {
        let mut stale = false;
        self.act(ctx, "apply", |outside| {
            let known = outside.routes.get(&routes.app).map_or(0, |known| known.generation);
            stale = known > routes.generation;
            if known < routes.generation {
                outside.routes.insert(routes.app.clone(), routes.clone());
                outside.effects.push(format!("route to {:?}", routes.version));
            }
        })
        .await?;
        if stale { Err(Error::new(ErrorCode::StaleGeneration, "there are newer routes")) } else { Ok(()) }
    }

    async fn observe(&self, app: &AppName) -> Result<Option<AppRoutes>> {
        self.change(|outside| Ok(outside.routes.get(app).cloned()))
    }

    async fn drain(&self, _: &Context, _: &DrainRequest) -> Result<u64> {
        Ok(0)
    }
}

/// One platform, whose engines are processes.
struct Platform {
    url: String,
    schema: String,
    dir: PathBuf,
}

impl Platform {
    async fn store(&self) -> Arc<dyn Store> {
        let options = PostgresOptions::default().schema(&self.schema);
        let store = PostgresStore::connect_with(&self.url, options, Arc::new(SystemClock::new())).await;
        Arc::new(store.unwrap())
    }

    fn folder(&self, stops_at: &str) -> Folder {
        Folder { dir: self.dir.clone(), stops_at: stops_at.to_owned() }
    }

    async fn engine(&self, stops_at: &str) -> Engine {
        let (folder, world) = (Arc::new(self.folder(stops_at)), World::new());
        let mut options = EngineOptions::default();
        options.work_dir = self.dir.join(format!("work-{}", std::process::id()));
        options.poll = Duration::from_millis(50);
        options.lease = LEASE;
        options.stop_grace = Duration::from_secs(10);
        Engine::builder(self.store().await, folder.clone(), folder)
            .with_options(options)
            .with_blobs(Arc::new(DirBlobs::open(self.dir.join("blobs")).unwrap()))
            .with_vault(Vault::new(MasterKey::from_bytes(&[7; 32]).unwrap()))
            .with_source(Arc::new(FakeSource::new(&world)))
            .with_builder(Arc::new(FakeBuilder::new(&world)))
            .build()
            .unwrap()
    }

    /// An engine in a process of its own, which is stopped at this call.
    fn process(&self, stops_at: &str) -> Process {
        let dir = self.dir.to_str().unwrap();
        let values = [stops_at, &self.url, &self.schema, dir];
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", THIS, "--nocapture"])
            .envs(CHILD.into_iter().zip(values))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Process { child, said }
    }

    /// Everything that engines write, but who of them is there.
    async fn written(&self, store: &dyn Store) -> Vec<String> {
        let mut all = Vec::new();
        for table in Table::ALL.iter().filter(|table| **table != Table::Platform) {
            let rows = store.list(*table, &ListQuery::all()).await.unwrap();
            all.extend(rows.into_iter().map(|row| format!("{table:?} {row:?}")));
        }
        all.extend(store.events(0, None, usize::MAX).await.unwrap().into_iter().map(|event| event.body));
        all
    }

    fn outside(&self) -> String {
        self.folder("")
            .change(|outside| Ok(format!("{:#?}", (&outside.instances, &outside.routes, &outside.effects))))
            .unwrap()
    }
}

/// The part of a process of its own: works until its stdin ends, and then ends in order.
async fn works(values: [String; 4]) {
    let [stops_at, url, schema, dir] = values;
    let platform = Platform { url, schema, dir: PathBuf::from(dir) };
    let engine = platform.engine(&stops_at).await;
    engine.start().await.unwrap();
    let told = tokio::task::spawn_blocking(|| std::io::stdin().lines().count()).await;
    assert_eq!(told.unwrap(), 0);
    engine.shutdown().await;
    println!("\nhas ended");
}

struct Process {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Process {
    fn says(&mut self, words: &str) {
        let mut line = String::new();
        while line.trim_end() != words {
            line.clear();
            assert_ne!(self.said.read_line(&mut line).unwrap(), 0, "it ended and never said {words:?}");
        }
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until the kernel says that it is stopped.
    fn is_stopped(&self) {
        let stat = Path::new("/proc").join(self.child.id().to_string()).join("stat");
        let state = || fs::read_to_string(&stat).unwrap().rsplit_once(") ").unwrap().1.starts_with('T');
        while !state() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it in order: by then all that it had begun is over.
    fn end(mut self) {
        drop(self.child.stdin.take());
        self.says("has ended");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Where the test failed; one that has ended is no error worth telling.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn is_stopped_at(server: &PostgresServer, call: &str) {
    let dir = tempfile::tempdir().unwrap();
    let platform = Platform { url: server.url(), schema: server.new_schema(), dir: dir.path().to_owned() };
    let user = platform.engine("").await;
    let mut zombie = platform.process(call);
    user.create_app(&hello(), &me()).await.unwrap();
    TestPlatform::deploy(&user, &hello(), "web: one\n").await.unwrap().succeeded().await.unwrap();
    fs::write(dir.path().join("armed"), "").unwrap();
    let second = TestPlatform::deploy(&user, &hello(), "web: two\n").await.unwrap();
    zombie.says(&format!("is at {call}"));
    zombie.signal("-STOP");
    zombie.is_stopped();

    let peer = platform.process("nowhere");
    assert_eq!(second.ended().await.unwrap().state, WorkflowState::Succeeded, "stopped at {call}");
    let third = TestPlatform::deploy(&user, &hello(), "web: three\n").await.unwrap();
    third.succeeded().await.unwrap();
    let store = platform.store().await;
    // The peer's reconciler has had its last word, too.
    peer.end();
    let (written, outside) = (platform.written(store.as_ref()).await, platform.outside());
    assert!(
        outside.contains("start web.1 v3") && outside.matches("start web.1 v2").count() == 1,
        "{outside}"
    );

    fs::write(dir.path().join("thawed"), "").unwrap();
    zombie.signal("-CONT");
    zombie.end();
    assert_eq!(platform.written(store.as_ref()).await, written, "stopped at {call}: it wrote");
    assert_eq!(platform.outside(), outside, "stopped at {call}: it did something");
    assert_eq!(History::read(store.as_ref()).await.unwrap().check(), []);
}

#[tokio::test]
async fn a_process_that_was_stopped_beyond_its_lease_writes_nothing_and_routes_nothing_back() {
    if let [Ok(stops_at), Ok(url), Ok(schema), Ok(dir)] = CHILD.map(std::env::var) {
        return works([stops_at, url, schema, dir]).await;
    }
    let Some(server) = PostgresServer::shared().await else { return };
    for call in ["ensure", "apply", "retire"] {
        is_stopped_at(&server, call).await;
    }
}
