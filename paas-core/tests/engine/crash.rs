//! Power cuts at every write, engines that die at every step, zombies.

use std::sync::Arc;
use std::time::Duration;

use paas_core::store::{MemoryStore, SqliteStore};
use paas_core::testkit::world::{Fault, TestPlatform, check};
use paas_core::testkit::{Cut, CutStore};
use paas_core::{
    AddonOrder, ConfigEdit, ConfigVars, Engine, RollbackOrder, Scale, StepState, Store, Version,
    WorkflowState,
};
use tokio::runtime::Runtime;

use crate::{WEB, WEB_AND_WORKER, hello, me};

/// What an engine is doing when its power is cut.
#[derive(Debug, Clone, Copy)]
enum Scenario {
    Deploy,
    FirstDeploy,
    FailingDeploy,
    ReleasePhase,
    Configure,
    Rollback,
    ScaleUp,
    ScaleDown,
    AddAddon,
    RotateAddon,
    RemoveAddon,
    Destroy,
    Cancel,
    Supersede,
}

const ADDON: &str = "web: a\n---\n{\"addons\":[{\"service\":\"fakesql\",\"plan\":null,\"attachment\":null}]}";

fn web(quantity: u32) -> std::collections::BTreeMap<paas_core::ProcessType, Scale> {
    [(paas_core::ProcessType::web(), Scale::of(quantity))].into()
}

async fn deploy(engine: &Engine, code: &str) -> paas_core::Result<paas_core::Workflow> {
    TestPlatform::deploy(engine, &hello(), code).await?.ended().await
}

/// What is there before.
async fn before(scenario: Scenario, engine: &Engine) {
    engine.create_app(&hello(), &me()).await.unwrap();
    if !matches!(scenario, Scenario::FirstDeploy) {
        deploy(engine, WEB_AND_WORKER).await.unwrap();
    }
    match scenario {
        Scenario::Rollback => drop(deploy(engine, "web: other\n").await.unwrap()),
        Scenario::ScaleDown => {
            engine.scale(&hello(), web(3), &me()).await.unwrap().succeeded().await.unwrap();
        }
        Scenario::RotateAddon | Scenario::RemoveAddon | Scenario::Destroy => {
            let order = AddonOrder::new("fakesql".parse().unwrap());
            engine.add_addon(&hello(), order, &me()).await.unwrap().1.succeeded().await.unwrap();
        }
        _ => {}
    }
    engine_rests(engine).await;
}

/// What happens while the power may be cut at any write.
async fn act(scenario: Scenario, platform: &TestPlatform, engine: &Engine) -> paas_core::Result<()> {
    match scenario {
        Scenario::Deploy => drop(deploy(engine, "web: new\n").await?),
        Scenario::FirstDeploy => drop(deploy(engine, ADDON).await?),
        Scenario::FailingDeploy => {
            platform.world.crash("bad");
            drop(deploy(engine, "web: new\nbad: work\n").await?);
        }
        Scenario::ReleasePhase => drop(deploy(engine, "web: new\nrelease: migrate\n").await?),
        Scenario::Configure => {
            let vars = ConfigVars::new().with("COLOR", "blue")?;
            engine.configure(&hello(), ConfigEdit::set(vars), &me()).await?.ended().await?;
        }
        Scenario::Rollback => {
            engine.rollback(&hello(), RollbackOrder::to(Version::FIRST), &me()).await?.ended().await?;
        }
        Scenario::ScaleUp => drop(engine.scale(&hello(), web(3), &me()).await?.ended().await?),
        Scenario::ScaleDown => drop(engine.scale(&hello(), web(1), &me()).await?.ended().await?),
        Scenario::AddAddon => {
            let order = AddonOrder::new("fakesql".parse().unwrap());
            engine.add_addon(&hello(), order, &me()).await?.1.ended().await?;
        }
        Scenario::RotateAddon => {
            let addon = engine.addons(&hello()).await?[0].id;
            engine.rotate_addon(addon, &me()).await?.ended().await?;
        }
        Scenario::RemoveAddon => {
            let addon = engine.addons(&hello()).await?[0].id;
            engine.remove_addon(addon, &me()).await?.ended().await?;
        }
        Scenario::Destroy => drop(engine.destroy_app(&hello(), &me()).await?.ended().await?),
        Scenario::Cancel => {
            platform.world.plan("build", [Fault::Hang]);
            let handle = TestPlatform::deploy(engine, &hello(), "web: new\n").await?;
            while handle.state().await?.step("build").is_some_and(|step| step.state == StepState::Pending) {
                tokio::task::yield_now().await;
            }
            engine.cancel(handle.id(), "enough", &me()).await?;
            handle.ended().await?;
        }
        Scenario::Supersede => {
            platform.world.plan("build", [Fault::Delay(Duration::from_millis(3))]);
            let one = TestPlatform::deploy(engine, &hello(), "web: one\n").await?;
            let two = TestPlatform::deploy(engine, &hello(), "web: two\n").await?;
            let three = TestPlatform::deploy(engine, &hello(), "web: three\n").await?;
            for handle in [one, two, three] {
                handle.ended().await?;
            }
        }
    }
    engine_rests(engine).await;
    Ok(())
}

/// Waits until no workflow of the app or its add-ons is open.
async fn engine_rests(engine: &Engine) {
    loop {
        let mut subjects = vec![paas_core::Subject::App(hello())];
        if let Ok(addons) = engine.addons(&hello()).await {
            subjects.extend(addons.iter().map(|addon| paas_core::Subject::Addon(addon.id)));
        }
        let mut open = 0;
        for subject in &subjects {
            open += engine.open_workflows(subject).await.unwrap().len();
        }
        let later = engine.addons(&hello()).await.map_or(0, |addons| addons.len());
        if open == 0 && (later == 0 || subjects.len() == later + 1) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs `scenario` with a cut at the `k`th write. Returns false once the scenario ends before its `k`th write.
fn cut_at(scenario: Scenario, store_of: &dyn Fn(&TestPlatform) -> Arc<dyn Store>, k: u64, cut: Cut) -> bool {
    let platform = TestPlatform::new().unwrap();
    let store = store_of(&platform);
    one_thread().block_on(async {
        let _passing = platform.let_time_pass();
        let engine = platform.engine(store.clone()).unwrap().build().unwrap();
        engine.start().await.unwrap();
        before(scenario, &engine).await;
        engine.shutdown().await;
    });
    let cutting = Arc::new(CutStore::new(store.clone(), k, cut));
    let dying = one_thread();
    let was_cut = dying.block_on(async {
        let _passing = platform.let_time_pass();
        let engine = platform.engine(cutting.clone()).unwrap().build().unwrap();
        let work = async {
            engine.start().await?;
            act(scenario, &platform, &engine).await
        };
        tokio::select! {
            result = work => { result.unwrap(); false }
            () = cutting.cut() => true,
        }
    });
    // Everything that the engine was doing ends here, in the middle.
    drop(dying);
    if matches!(scenario, Scenario::Cancel) {
        platform.world.mend();
    }
    platform.clock.advance(Duration::from_secs(60));
    one_thread().block_on(async {
        let _passing = platform.let_time_pass();
        let engine = platform.engine(store).unwrap().build().unwrap();
        engine.start().await.unwrap();
        let rested = tokio::time::timeout(Duration::from_secs(20), engine_rests(&engine)).await;
        let told = || format!("{scenario:?} cut at write {k}, {cut:?}: {:#?}", platform.world.history());
        assert!(rested.is_ok(), "does not come to rest: {}", told());
        if engine.app(&hello()).await.is_ok() {
            // The reconciler's last word may be on its way.
            let mut wrong = Vec::new();
            for _ in 0..2000 {
                wrong = check(&platform.world, &engine, &hello()).await.unwrap();
                if wrong.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(wrong.is_empty(), "{wrong:#?} {}", told());
        } else {
            assert!(
                platform.world.instances().is_empty() && platform.world.addons().is_empty(),
                "{}",
                told()
            );
        }
        let twice = platform.repeated();
        assert!(!twice.keys().any(|effect| effect.starts_with("run ")), "ran twice: {twice:?} {}", told());
        assert!(
            !twice.keys().any(|effect| effect.starts_with("start ")),
            "started twice: {twice:?} {}",
            told()
        );
        assert!(
            !twice.keys().any(|effect| effect.starts_with("provision ")),
            "made twice: {twice:?} {}",
            told()
        );
        assert!(
            !twice.keys().any(|effect| effect.starts_with("rotate ") || effect.starts_with("revoke ")),
            "rotated twice: {twice:?} {}",
            told()
        );
        // The platform works: a deploy goes through.
        if engine.app(&hello()).await.is_ok() {
            platform.world.mend();
            let last = deploy(&engine, "web: last\n").await.unwrap();
            assert_eq!(last.state, WorkflowState::Succeeded, "{:?} {}", last.failure, told());
        }
        engine.shutdown().await;
    });
    was_cut
}

fn every_cut(scenario: Scenario, store_of: &dyn Fn(&TestPlatform) -> Arc<dyn Store>) -> u64 {
    let mut k = 1;
    while cut_at(scenario, store_of, k, Cut::Lost) {
        cut_at(scenario, store_of, k, Cut::Unanswered);
        k += 1;
        assert!(k < 200, "{scenario:?} never ends");
    }
    k - 1
}

macro_rules! a_power_cut_at_any_write_loses_nothing {
    ($($name:ident: $scenario:ident,)*) => {
        /// Invariant 7, for every kind of workflow and every outcome.
        mod invariant_7_a_power_cut_at_any_write_loses_nothing {
            use super::*;
            $(#[test]
            fn $name() {
                let memory = |platform: &TestPlatform| -> Arc<dyn Store> { Arc::new(MemoryStore::new(platform.clock())) };
                let writes = every_cut(Scenario::$scenario, &memory);
                println!("cut at each of {writes} writes, on both sides");
                assert!(writes > 3, "it writes");
            })*
        }
    };
}

a_power_cut_at_any_write_loses_nothing! {
    of_a_deploy: Deploy,
    of_a_first_deploy_with_an_add_on: FirstDeploy,
    of_a_deploy_that_fails: FailingDeploy,
    of_a_release_phase_which_runs_once_at_most: ReleasePhase,
    of_a_change_of_config: Configure,
    of_a_rollback: Rollback,
    of_scaling_up: ScaleUp,
    of_scaling_down: ScaleDown,
    of_making_an_add_on: AddAddon,
    of_rotating_credentials: RotateAddon,
    of_removing_an_add_on: RemoveAddon,
    of_destroying_an_app: Destroy,
    of_a_cancel: Cancel,
    of_deploys_that_supersede_each_other: Supersede,
}

#[test]
fn invariant_7_a_power_cut_at_any_write_of_a_deploy_loses_nothing_on_disk() {
    for scenario in [Scenario::Deploy, Scenario::FirstDeploy] {
        every_cut(scenario, &|platform| {
            Arc::new(SqliteStore::open(platform.dir().join("paas.db"), platform.clock()).unwrap())
        });
    }
}

#[cfg(feature = "store-postgres")]
#[test]
fn invariant_7_a_power_cut_at_any_write_of_a_deploy_loses_nothing_in_postgresql() {
    use paas_core::testkit::postgres::{ClockedStore, PostgresServer};

    // The store outlives the engines and their runtimes.
    let stores = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let Some(server) = stores.block_on(PostgresServer::shared()) else { return };
    every_cut(Scenario::Deploy, &|platform| {
        let schema = server.new_schema();
        let opened = ClockedStore::connect(&server, &schema, platform.clock());
        Arc::new(stores.block_on(opened).unwrap())
    });
}

#[tokio::test]
async fn invariant_5_an_engine_that_lost_its_lease_writes_nothing_more() {
    let platform = TestPlatform::new().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let zombie = platform.engine(store.clone()).unwrap().build().unwrap();
    zombie.start().await.unwrap();
    zombie.create_app(&hello(), &me()).await.unwrap();
    // The zombie is in the middle of a build when it freezes for longer than its lease.
    platform.world.plan("build", [Fault::Delay(Duration::from_millis(200))]);
    let handle = TestPlatform::deploy(&zombie, &hello(), WEB).await.unwrap();
    while handle.state().await.unwrap().step("build").unwrap().state != StepState::Started {
        tokio::task::yield_now().await;
    }
    platform.clock.advance(Duration::from_secs(60));
    let peer = platform.engine(store.clone()).unwrap().build().unwrap();
    peer.start().await.unwrap();
    peer.workflow(handle.id()).succeeded().await.unwrap();
    let rows = store.get(paas_core::store::Table::Workflows, &handle.id().to_string()).await.unwrap();
    // It thaws: its build ends, and its checkpoint is refused.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(store.get(paas_core::store::Table::Workflows, &handle.id().to_string()).await.unwrap(), rows);
    assert!(check(&platform.world, &peer, &hello()).await.unwrap().is_empty());
    assert_eq!(platform.world.count("start hello web.1 v1"), 1);
}

#[tokio::test]
async fn a_step_that_kills_every_engine_is_given_up_and_undone() {
    let platform = TestPlatform::new().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let first = platform.engine(store.clone()).unwrap().build().unwrap();
    first.start().await.unwrap();
    first.create_app(&hello(), &me()).await.unwrap();
    first.shutdown().await;
    let handle = TestPlatform::deploy(&first, &hello(), WEB).await.unwrap();
    for _ in 0..20 {
        platform.world.plan("build", [Fault::Hang]);
        let store = store.clone();
        let engine = platform.engine(store).unwrap();
        // An engine of its own that dies in the middle of the build.
        let dead = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    one_thread().block_on(async {
                        let engine = engine.build().unwrap();
                        engine.start().await.unwrap();
                        let handle = engine.workflow(handle.id());
                        loop {
                            let workflow = handle.state().await.unwrap();
                            let build = workflow.step("build").unwrap();
                            if workflow.state.is_ended()
                                || build.state == StepState::Started && engine_is_at(&platform)
                            {
                                return workflow.state.is_ended();
                            }
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    })
                })
                .join()
                .unwrap()
        });
        platform.clock.advance(Duration::from_secs(60));
        if dead {
            break;
        }
    }
    let ended = handle.state().await.unwrap();
    assert_eq!(ended.state, WorkflowState::Failed);
    assert_eq!(ended.failure.unwrap().code, paas_core::ErrorCode::RecoveryExhausted);
}

/// The planned hang was taken: the engine is inside the build.
fn engine_is_at(platform: &TestPlatform) -> bool {
    platform.world.planned("build") == 0
}
