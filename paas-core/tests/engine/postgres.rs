//! The engine on PostgreSQL: deploys, and several engines on one store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use paas_core::testkit::history::History;
use paas_core::testkit::postgres::{ClockedStore, PostgresServer};
use paas_core::testkit::world::{Fault, TestPlatform, check};
use paas_core::{
    AppName, ConfigEdit, ConfigVars, Engine, EngineBuilder, KindName, ReleaseState, Result, RollbackOrder,
    Step, StepCall, StepDef, StepOutput, Subject, Version, WorkflowId, WorkflowKind, WorkflowState,
};
use tower::ServiceExt;

use crate::{WEB, WEB_AND_WORKER, hello, me};

/// Engines of one platform, each with a store of its own on one schema.
struct Fleet {
    platform: TestPlatform,
    server: Arc<PostgresServer>,
    schema: String,
}

impl Fleet {
    async fn new() -> Option<Self> {
        let server = PostgresServer::shared().await?;
        let schema = server.new_schema();
        Some(Self { platform: TestPlatform::new().unwrap(), server, schema })
    }

    async fn engine(&self, change: impl FnOnce(EngineBuilder) -> EngineBuilder) -> Engine {
        let store = ClockedStore::connect(&self.server, &self.schema, self.platform.clock()).await.unwrap();
        let engine = change(self.platform.engine(Arc::new(store)).unwrap()).build().unwrap();
        engine.start().await.unwrap();
        engine
    }

    /// Nothing that must always hold is broken, once the reconciler has said its last word.
    async fn is_sound(&self, engine: &Engine, app: &AppName) {
        let mut wrong = Vec::new();
        for _ in 0..2000 {
            wrong = check(&self.platform.world, engine, app).await.unwrap();
            if wrong.is_empty() {
                let store = ClockedStore::connect(&self.server, &self.schema, self.platform.clock()).await;
                let history = History::read(&store.unwrap()).await.unwrap();
                assert_eq!(history.ran(self.platform.world.release_phases()).check(), []);
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{wrong:#?}\n{:#?}", self.platform.world.history());
    }
}

/// Waits until the builder is in the middle of what was planned for it.
async fn is_building(platform: &TestPlatform) {
    while platform.world.planned("build") > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deploys_succeed_fail_change_and_go_back_as_on_any_store() {
    let Some(fleet) = Fleet::new().await else { return };
    let _passing = fleet.platform.let_time_pass();
    let engine = fleet.engine(|builder| builder).await;
    engine.create_app(&hello(), &me()).await.unwrap();
    let deploy = async |code: &str| TestPlatform::deploy(&engine, &hello(), code).await.unwrap();
    deploy(WEB_AND_WORKER).await.succeeded().await.unwrap();
    deploy("web: two\nrelease: migrate\n").await.succeeded().await.unwrap();

    fleet.platform.world.crash("bad");
    let failed = deploy("web: three\nbad: work\n").await.ended().await.unwrap();
    assert_eq!(failed.state, WorkflowState::Failed);
    fleet.platform.world.mend();

    let edit = ConfigEdit::set(ConfigVars::new().with("COLOR", "blue").unwrap());
    engine.configure(&hello(), edit, &me()).await.unwrap().succeeded().await.unwrap();
    engine
        .rollback(&hello(), RollbackOrder::to(Version::FIRST), &me())
        .await
        .unwrap()
        .succeeded()
        .await
        .unwrap();
    let states: Vec<_> =
        engine.releases(&hello()).await.unwrap().iter().map(|release| release.state).collect();
    let (good, bad) = (ReleaseState::Succeeded, ReleaseState::Failed);
    assert_eq!(states, [good, good, bad, good, good]);
    fleet.is_sound(&engine, &hello()).await;

    engine.destroy_app(&hello(), &me()).await.unwrap().succeeded().await.unwrap();
    assert!(fleet.platform.world.instances().is_empty());
    engine.shutdown().await;
}

/// Who is in the middle of a step, and who ever was.
#[derive(Debug, Default)]
struct Register {
    inside: BTreeMap<String, WorkflowId>,
    overlaps: Vec<String>,
    steps: BTreeMap<usize, usize>,
}

/// Writes each step of this engine's into the register.
fn registered(builder: EngineBuilder, engine: usize, register: &Arc<Mutex<Register>>) -> EngineBuilder {
    let register = register.clone();
    builder.step_layer(tower::layer::layer_fn(move |inner: paas_core::Waist| {
        let register = register.clone();
        tower::service_fn(move |call: StepCall| {
            let (inner, register) = (inner.clone(), register.clone());
            async move {
                let (subject, id) = (call.workflow.subject.to_string(), call.workflow.id);
                {
                    let mut register = register.lock().unwrap();
                    *register.steps.entry(engine).or_default() += 1;
                    if let Some(other) = register.inside.insert(subject.clone(), id) {
                        register.overlaps.push(format!("{other} and {id} of {subject} at {}", call.step));
                    }
                }
                // Long enough for the others to be in the way if they may be.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let result = inner.oneshot(call).await;
                register.lock().unwrap().inside.remove(&subject);
                result
            }
        })
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_share_the_work_and_one_workflow_of_an_app_runs_at_a_time() {
    const APPS: usize = 8;
    let Some(fleet) = Fleet::new().await else { return };
    let _passing = fleet.platform.let_time_pass();
    let register = Arc::new(Mutex::new(Register::default()));
    let mut engines = Vec::new();
    for number in 0..3 {
        let few = |mut builder: EngineBuilder| {
            let mut options = fleet.platform.options();
            options.concurrency = 2;
            // Nobody dies here: the test's time passes fast, and no lease may run out meanwhile.
            options.lease = Duration::from_secs(3600);
            builder = builder.with_options(options);
            registered(builder, number, &register)
        };
        engines.push(fleet.engine(few).await);
    }
    let apps: Vec<AppName> = (0..APPS).map(|n| format!("app-{n}").parse().unwrap()).collect();
    for (n, app) in apps.iter().enumerate() {
        engines[n % 3].create_app(app, &me()).await.unwrap();
    }
    let work = apps.iter().enumerate().map(|(n, app)| {
        let engines = &engines;
        async move {
            // Asked of different engines, so that an app's queue is everybody's.
            TestPlatform::deploy(&engines[n % 3], app, WEB).await.unwrap().succeeded().await.unwrap();
            let edit = |n: usize| ConfigEdit::set(ConfigVars::new().with("N", &n.to_string()).unwrap());
            let mut handles = Vec::new();
            for round in 0..3 {
                handles.push(
                    TestPlatform::deploy(&engines[(n + round) % 3], app, &format!("web: {round}\n"))
                        .await
                        .unwrap(),
                );
                handles.push(engines[(n + round + 1) % 3].configure(app, edit(round), &me()).await.unwrap());
            }
            for handle in handles {
                let ended = handle.ended().await.unwrap();
                assert!(
                    matches!(ended.state, WorkflowState::Succeeded | WorkflowState::Superseded),
                    "{ended:?}"
                );
            }
        }
    });
    join_all(work).await;
    for app in &apps {
        fleet.is_sound(&engines[0], app).await;
    }
    for engine in &engines {
        engine.shutdown().await;
    }
    let register = register.lock().unwrap();
    assert!(register.overlaps.is_empty(), "{:#?}", register.overlaps);
    println!("steps by engine: {:?}", register.steps);
    assert_eq!(register.steps.len(), 3, "each had a part: {:?}", register.steps);
    let twice = fleet.platform.repeated();
    assert!(twice.keys().all(|effect| !effect.starts_with("start ")), "{twice:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_dies_is_followed_by_a_peer_within_its_lease() {
    let Some(fleet) = Fleet::new().await else { return };
    fleet.platform.world.plan("build", [Fault::Hang]);
    // The engine that dies, with its store's connections: all on a runtime that is dropped.
    let dying = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let begin = async {
        let engine = fleet.engine(|builder| builder).await;
        engine.create_app(&hello(), &me()).await.unwrap();
        let handle = TestPlatform::deploy(&engine, &hello(), WEB).await.unwrap();
        is_building(&fleet.platform).await;
        handle.id()
    };
    let (id, dying) = std::thread::scope(|scope| {
        let began = scope.spawn(|| (dying.block_on(begin), dying));
        began.join().unwrap()
    });
    dying.shutdown_background();

    let peer = fleet.engine(|builder| builder).await;
    let handle = peer.workflow(id);
    assert!(!handle.state().await.unwrap().state.is_ended());
    let lease = fleet.platform.options().lease;
    fleet.platform.clock.advance(lease);
    handle.succeeded().await.unwrap();
    fleet.is_sound(&peer, &hello()).await;
    assert_eq!(fleet.platform.world.count("start hello web.1 v1"), 1);
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_graceful_end_a_peer_goes_on_at_once() {
    let Some(fleet) = Fleet::new().await else { return };
    fleet.platform.world.plan("build", [Fault::Hang]);
    let first = fleet.engine(|builder| builder).await;
    first.create_app(&hello(), &me()).await.unwrap();
    let handle = TestPlatform::deploy(&first, &hello(), WEB).await.unwrap();
    is_building(&fleet.platform).await;
    // From here on the peer hears and claims; the time stands, so that no lease ever runs out.
    let peer = fleet.engine(|builder| builder).await;
    first.shutdown().await;
    peer.workflow(handle.id()).succeeded().await.unwrap();
    fleet.is_sound(&peer, &hello()).await;
    peer.shutdown().await;
}

/// Notes which engine ran it.
#[derive(Debug)]
struct Note(&'static str, Arc<Mutex<BTreeMap<WorkflowId, &'static str>>>);

#[async_trait]
impl Step for Note {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        self.1.lock().unwrap().insert(call.workflow.id, self.0);
        Ok(StepOutput::done())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn engines_of_two_versions_claim_only_what_each_knows() {
    let Some(fleet) = Fleet::new().await else { return };
    let greet: KindName = "greet".parse().unwrap();
    let ran = Arc::new(Mutex::new(BTreeMap::new()));
    let knows = |version: u32, name: &'static str| {
        let note = StepDef::new("note".parse().unwrap(), Arc::new(Note(name, ran.clone())));
        WorkflowKind::new(greet.clone(), version).step(note)
    };
    let old = fleet.engine(|builder| builder.with_workflow(knows(1, "old"))).await;
    let new = fleet.engine(|builder| builder.with_workflow(knows(2, "new"))).await;
    let (mut olds, mut news) = (BTreeSet::new(), BTreeSet::new());
    let mut handles = Vec::new();
    for n in 0..12 {
        // Those of one app wait for each other, whatever their version.
        let app: AppName = format!("app-{}", n % 4).parse().unwrap();
        old.ensure_app(&app, &me()).await.unwrap();
        let (engine, ids) = if n % 3 == 0 { (&old, &mut olds) } else { (&new, &mut news) };
        let handle = engine.submit(&greet, Subject::App(app), &"hi", &me()).await.unwrap();
        ids.insert(handle.id());
        handles.push(handle);
    }
    for handle in handles {
        handle.succeeded().await.unwrap();
    }
    old.shutdown().await;
    new.shutdown().await;
    let ran = ran.lock().unwrap();
    let by =
        |name: &str| ran.iter().filter(|(_, by)| **by == name).map(|(id, _)| *id).collect::<BTreeSet<_>>();
    assert_eq!((by("old"), by("new")), (olds, news));
}
