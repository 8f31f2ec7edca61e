//! Power cuts at every write, engines that die at every step, zombies.

use std::sync::Arc;
use std::time::Duration;

use paas_core::store::{MemoryStore, SqliteStore};
use paas_core::testkit::cut::{Cuts, Scenario, Work, power_cuts};
use paas_core::testkit::world::{Fault, TestPlatform, check};
use paas_core::{StepState, Store, WorkflowState};
use tokio::runtime::Runtime;

use crate::{WEB, hello, me};

fn one_thread() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

macro_rules! a_power_cut_at_any_write_loses_nothing {
    ($($name:ident: $work:ident,)*) => {
        /// Invariant 7, for every kind of workflow and every end that it can come to.
        mod invariant_7_a_power_cut_at_any_write_loses_nothing {
            use super::*;
            $(#[test]
            fn $name() {
                let memory = |platform: &TestPlatform| -> Arc<dyn Store> { Arc::new(MemoryStore::new(platform.clock())) };
                for scenario in Scenario::of(Work::$work, true) {
                    let cuts = power_cuts(scenario, Cuts::All, true, &memory);
                    println!("{scenario}: {cuts} cuts");
                    assert!(cuts > 6, "it writes");
                }
            })*
        }
    };
}

a_power_cut_at_any_write_loses_nothing! {
    of_a_deploy: Deploy,
    of_a_first_deploy_with_an_add_on: FirstDeploy,
    of_a_release_phase_which_runs_once_at_most: ReleasePhase,
    of_a_rollback: Rollback,
    of_a_change_of_config: Configure,
    of_scaling_up: ScaleUp,
    of_scaling_down: ScaleDown,
    of_making_an_add_on: AddAddon,
    of_rotating_credentials: RotateAddon,
    of_removing_an_add_on: RemoveAddon,
    of_destroying_an_app: Destroy,
    of_another_master_key: RotateKey,
}

/// Every kind with every end. `PAAS_CUTS=all` cuts at every write, on both sides.
#[test]
fn invariant_7_a_power_cut_at_any_write_loses_nothing_on_disk() {
    for scenario in Scenario::all(false) {
        let cuts = power_cuts(scenario, Cuts::one_in(8), false, &|platform| {
            Arc::new(SqliteStore::open(platform.dir().join("paas.db"), platform.clock()).unwrap())
        });
        println!("{scenario}: {cuts} cuts");
    }
}

/// Every kind with every end. `PAAS_CUTS=all` cuts at every write, on both sides.
#[cfg(feature = "store-postgres")]
#[test]
fn invariant_7_a_power_cut_at_any_write_loses_nothing_in_postgresql() {
    use paas_core::testkit::postgres::{ClockedStore, PostgresServer};

    // The store outlives the engines and their runtimes.
    let stores = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let Some(server) = stores.block_on(PostgresServer::shared()) else { return };
    for scenario in Scenario::all(false) {
        let cuts = power_cuts(scenario, Cuts::one_in(12), false, &|platform| {
            let schema = server.new_schema();
            let opened = ClockedStore::connect(&server, &schema, platform.clock());
            Arc::new(stores.block_on(opened).unwrap())
        });
        println!("{scenario}: {cuts} cuts");
    }
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
