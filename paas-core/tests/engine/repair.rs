//! What a person does with workflows that don't go on by themselves.

use std::sync::Arc;
use std::time::Duration;

use paas_core::store::MemoryStore;
use paas_core::testkit::world::{Fault, TestPlatform};
use paas_core::{
    AddonOrder, Engine, ErrorCode, EventKind, Missing, StepDef, StepState, Store, Subject, Workflow,
    WorkflowHandle, WorkflowState,
};

use crate::embed::{gated, kind, parked, step};
use crate::{Bench, WEB, hello, me};

/// More failures than anybody has patience for.
fn for_ever() -> impl Iterator<Item = Fault> {
    std::iter::repeat_n(Fault::Fail(ErrorCode::Internal), 1000)
}

/// A platform whose failures wait for ever: nothing is tried again before a person asks for it.
pub(crate) async fn slow() -> Bench {
    let platform = TestPlatform::new().unwrap();
    let mut options = platform.options();
    (options.max_backoff, options.max_stuck_backoff) = (Duration::from_secs(3600), Duration::from_secs(3600));
    Bench::of(platform, |builder| builder.with_options(options)).await
}

/// Waits until a workflow is like this.
async fn until(handle: &WorkflowHandle, is: impl Fn(&Workflow) -> bool) -> Workflow {
    loop {
        let workflow = handle.state().await.unwrap();
        if is(&workflow) {
            return workflow;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until a step waits for its next attempt.
pub(crate) async fn backs_off(handle: &WorkflowHandle, step: &str) -> Workflow {
    let waits = |workflow: &Workflow| {
        let state = workflow.step(step).unwrap().state;
        workflow.not_before.is_some() && matches!(state, StepState::Retrying | StepState::Undoing)
    };
    until(handle, waits).await
}

fn left(workflow: &Workflow) -> Vec<(&str, Missing)> {
    let left = &workflow.abandoned.as_ref().unwrap().left;
    left.iter().map(|left| (left.step.as_str(), left.missing)).collect()
}

async fn is_free(engine: &Engine) {
    assert!(engine.open_workflows(&Subject::App(hello())).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_backs_off_goes_on_at_once_when_somebody_retries_it_and_its_attempts_count_on() {
    let bench = slow().await;
    // Time stands still: nothing but a retry gets it on.
    bench.platform.world.plan("build", [Fault::Flake]);
    bench.platform.world.plan("retire", [Fault::Fail(ErrorCode::Internal)]);
    let first = TestPlatform::deploy(&bench.engine, &hello(), WEB).await.unwrap();
    backs_off(&first, "build").await;
    bench.engine.retry(first.id(), &me()).await.unwrap();
    let done = first.succeeded().await.unwrap();
    assert_eq!(done.step("build").unwrap().attempt, 2);

    let second = TestPlatform::deploy(&bench.engine, &hello(), "web: two\n").await.unwrap();
    backs_off(&second, "retire_old").await;
    bench.engine.retry(second.id(), &me()).await.unwrap();
    second.succeeded().await.unwrap();
    bench.is_sound().await;

    let ended = bench.engine.retry(second.id(), &me()).await.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (ErrorCode::Conflict, "the workflow has succeeded already"));
}

#[tokio::test]
async fn retrying_what_goes_on_by_itself_is_nothing_and_what_waits_for_an_answer_is_told_so() {
    let bench = gated("build").await;
    let waits = parked(&bench, WEB).await;
    let error = bench.engine.retry(waits.id(), &me()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict);
    assert!(error.to_string().contains("`signal`"), "{error}");
    bench.engine.signal(waits.id(), "yes".into(), &me()).await.unwrap();
    bench
        .engine
        .retry(waits.id(), &me())
        .await
        .or_else(|error| {
            // It may be through already.
            if error.code() == ErrorCode::Conflict { Ok(()) } else { Err(error) }
        })
        .unwrap();
    waits.succeeded().await.unwrap();
    let unknown = bench.engine.retry(paas_core::WorkflowId::new(), &me()).await.unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn what_can_neither_go_on_nor_back_is_given_up_and_names_what_it_leaves() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    // The new release crashes, and its processes can't be ended either.
    bench.platform.world.crash("worker");
    bench.platform.world.plan("retire", for_ever());
    let stuck = TestPlatform::deploy(&bench.engine, &hello(), "web: two\nworker: work\n").await.unwrap();
    until(&stuck, |workflow| workflow.step("start").unwrap().undo_attempt > 6).await;
    let events = bench.engine.events(0, Some(&hello()), 10_000).await.unwrap();
    let told = events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Stuck { missing: Missing::Undoing, .. }));
    assert_eq!(told.count(), 1, "a person is called once");

    let handle = bench.engine.abandon(stuck.id(), "the runtime is broken", &me()).await.unwrap();
    bench.engine.abandon(stuck.id(), "again", &me()).await.unwrap();
    let ended = handle.ended().await.unwrap();
    assert_eq!(ended.state, WorkflowState::Abandoned);
    assert_eq!(left(&ended), [("start", Missing::Undoing)]);
    assert_eq!(ended.abandoned.as_ref().unwrap().why, "the runtime is broken");
    let told = handle.live().await.unwrap_err();
    assert_eq!(told.code(), ErrorCode::Abandoned);
    let expected = "given up by ada: the runtime is broken; start is not undone: retire was planned to fail";
    assert_eq!(told.to_string(), expected);
    let events = bench.engine.events(0, Some(&hello()), 10_000).await.unwrap();
    assert!(events.iter().any(|e| e.kind.to_string() == "start is not undone: retire was planned to fail"));
    bench.engine.abandon(stuck.id(), "once more", &me()).await.unwrap();
    is_free(&bench.engine).await;

    // The release is recorded as failed, and the next deploy goes through.
    bench.platform.world.mend();
    bench.deploy("web: three\n").await.unwrap();
    assert_eq!(bench.engine.app(&hello()).await.unwrap().live.unwrap().version.number(), 3);
}

#[tokio::test]
async fn what_is_given_up_while_a_step_or_an_undo_hangs_ends_soon() {
    let bench = Bench::new().await;
    bench.platform.world.plan("build", [Fault::Hang]);
    let hangs = TestPlatform::deploy(&bench.engine, &hello(), WEB).await.unwrap();
    crate::queue::begun(&hangs, "build").await;
    let ended = bench.engine.abandon(hangs.id(), "enough", &me()).await.unwrap().ended().await.unwrap();
    assert_eq!((ended.state, left(&ended)), (WorkflowState::Abandoned, vec![]), "it could all be undone");

    bench.platform.world.crash("web");
    bench.platform.world.plan("retire", [Fault::Hang]);
    let hangs = TestPlatform::deploy(&bench.engine, &hello(), WEB).await.unwrap();
    while bench.platform.world.planned("retire") > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ended = bench.engine.abandon(hangs.id(), "enough", &me()).await.unwrap().ended().await.unwrap();
    assert_eq!(left(&ended), [("start", Missing::Undoing)]);
    bench.platform.world.mend();
    bench.deploy(WEB).await.unwrap();
}

#[tokio::test]
async fn after_the_pivot_what_remains_is_left_and_the_new_release_stays_live() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.platform.world.plan("drain", for_ever());
    let stuck = TestPlatform::deploy(&bench.engine, &hello(), "web: two\n").await.unwrap();
    until(&stuck, |workflow| workflow.step("retire_old").unwrap().attempt > 6).await;
    let refused = bench.engine.cancel(stuck.id(), "enough", &me()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::PastPivot);
    let ended = bench.engine.abandon(stuck.id(), "enough", &me()).await.unwrap().ended().await.unwrap();
    assert_eq!(ended.state, WorkflowState::Abandoned);
    assert_eq!(left(&ended), [("retire_old", Missing::Doing), ("finish", Missing::Doing)]);
    assert_eq!(stuck.live().await.unwrap().id, ended.id, "users have it");
    assert_eq!(bench.engine.app(&hello()).await.unwrap().live.unwrap().version.number(), 2);
    is_free(&bench.engine).await;
    bench.platform.world.mend();
    bench.deploy("web: three\n").await.unwrap();
}

#[tokio::test]
async fn what_waits_for_its_turn_or_an_answer_is_given_up_at_once() {
    let bench = gated("build").await;
    let waits = parked(&bench, WEB).await;
    let ended = bench.engine.abandon(waits.id(), "never mind", &me()).await.unwrap().ended().await.unwrap();
    assert_eq!((ended.state, left(&ended)), (WorkflowState::Abandoned, vec![]));
    let done = bench.engine.abandon(bench_done(&bench).await, "late", &me()).await.unwrap_err();
    assert_eq!(done.code(), ErrorCode::Conflict);
    bench.is_sound().await;
}

async fn bench_done(bench: &Bench) -> paas_core::WorkflowId {
    let edit = paas_core::ConfigEdit::set(paas_core::ConfigVars::new().with("A", "1").unwrap());
    let handle = bench.engine.configure(&hello(), edit, &me()).await.unwrap();
    handle.succeeded().await.unwrap();
    handle.id()
}

#[tokio::test]
async fn an_app_whose_add_on_s_provider_is_gone_is_destroyed_but_for_that_add_on_which_is_named() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    for name in ["FAKE", "OTHER"] {
        let order = AddonOrder::new("fakesql".parse().unwrap()).named(name.parse().unwrap());
        bench.engine.add_addon(&hello(), order, &me()).await.unwrap().1.succeeded().await.unwrap();
    }
    let addons = bench.engine.addons(&hello()).await.unwrap();
    while !bench.engine.open_workflows(&Subject::App(hello())).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench
        .platform
        .world
        .plan("deprovision", [Fault::Fail(ErrorCode::NotFound)].into_iter().cycle().take(1000));
    let stuck = bench.engine.destroy_app(&hello(), &me()).await.unwrap();
    let workflow = until(&stuck, |workflow| workflow.step("deprovision").unwrap().attempt > 6).await;
    let said = workflow.step("deprovision").unwrap().failure.as_ref().unwrap().to_string();
    assert!(said.starts_with(&format!("the add-on {} (fakesql ", addons[0].id)), "{said}");

    // Another app is not held up by it.
    let other = "other".parse().unwrap();
    bench.engine.create_app(&other, &me()).await.unwrap();
    TestPlatform::deploy(&bench.engine, &other, WEB).await.unwrap().succeeded().await.unwrap();

    let ended =
        bench.engine.abandon(stuck.id(), "it went bankrupt", &me()).await.unwrap().ended().await.unwrap();
    assert_eq!(left(&ended), [("deprovision", Missing::Doing), ("forget", Missing::Doing)]);
    let gone = bench.engine.app(&hello()).await.unwrap_err();
    assert_eq!(gone.code(), ErrorCode::NotFound);
    bench.engine.create_app(&hello(), &me()).await.expect("its name is free");
    // What is left goes once its provider is back.
    bench.platform.world.mend();
    for addon in &addons {
        bench.engine.remove_addon(addon.id, &me()).await.unwrap().succeeded().await.unwrap();
    }
    assert!(bench.platform.world.addons().is_empty());
}

#[tokio::test]
async fn a_workflow_of_a_kind_that_no_engine_knows_any_more_can_be_given_up() {
    let platform = TestPlatform::new().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let old = paas_core::WorkflowKind::new(kind("promote"), 1)
        .step(StepDef::new(step("build"), Arc::new(crate::embed::Approve)));
    let first = platform.engine(store.clone()).unwrap().with_workflow(old).build().unwrap();
    first.create_app(&hello(), &me()).await.unwrap();
    let lost = first.submit(&kind("promote"), Subject::App(hello()), &(), &me()).await.unwrap();
    let second = platform.engine(store).unwrap().build().unwrap();
    second.start().await.unwrap();
    let behind = TestPlatform::deploy(&second, &hello(), WEB).await.unwrap();
    let ended =
        second.abandon(lost.id(), "we don't promote any more", &me()).await.unwrap().ended().await.unwrap();
    assert_eq!(ended.state, WorkflowState::Abandoned);
    behind.succeeded().await.unwrap();
}

#[tokio::test]
async fn a_step_that_no_engine_has_any_more_is_never_left_behind_in_silence() {
    let platform = TestPlatform::new().unwrap();
    let _passing = platform.let_time_pass();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let made = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let def = StepDef::new(step("count"), Arc::new(crate::embed::Count(made.clone(), false)));
    let approve = StepDef::new(step("approve"), Arc::new(crate::embed::Approve));
    let builder = platform.engine(store.clone()).unwrap();
    let builder = builder.with_step_after(kind("deploy"), step("build"), approve);
    let first = builder.with_step_after(kind("deploy"), step("build"), def).build().unwrap();
    first.start().await.unwrap();
    first.create_app(&hello(), &me()).await.unwrap();
    let input = paas_core::DeployOrder::new(paas_core::testkit::world::FakeSource::code(WEB));
    let waits = first.deploy(&hello(), input, &me()).await.unwrap();
    assert_eq!(waits.parked().await.unwrap().state, WorkflowState::Parked);
    first.shutdown().await;

    let second = platform.engine(store).unwrap().build().unwrap();
    second.start().await.unwrap();
    second.cancel(waits.id(), "enough", &me()).await.unwrap();
    let handle = second.workflow(waits.id());
    let stuck = until(&handle, |workflow| workflow.step("count").unwrap().undo_attempt > 2).await;
    assert_eq!(stuck.state, WorkflowState::Undoing);
    let said = stuck.step("count").unwrap().failure.as_ref().unwrap().to_string();
    assert!(said.contains("this engine has no step count"), "{said}");
    let ended = second.abandon(waits.id(), "enough", &me()).await.unwrap().ended().await.unwrap();
    assert_eq!(left(&ended), [("count", Missing::Undoing)]);
}

#[tokio::test]
async fn a_wait_after_the_pivot_takes_nothing_back_and_lets_newer_releases_pass() {
    let bench = gated("switch_route").await;
    let first = parked(&bench, WEB).await;
    assert_eq!(bench.engine.app(&hello()).await.unwrap().live.unwrap().version.number(), 1);
    assert_eq!(bench.platform.world.instances().len(), 1);
    let second = parked(&bench, "web: two\n").await;
    bench.engine.signal(second.id(), "yes".into(), &me()).await.unwrap();
    second.succeeded().await.unwrap();
    bench.engine.signal(first.id(), "yes".into(), &me()).await.unwrap();
    first.succeeded().await.unwrap();
    bench.is_sound().await;
    assert_eq!(bench.engine.app(&hello()).await.unwrap().live.unwrap().version.number(), 2);

    // An app that is destroyed takes with it what still waits.
    let third = parked(&bench, "web: three\n").await;
    bench.engine.destroy_app(&hello(), &me()).await.unwrap().succeeded().await.unwrap();
    assert_eq!(third.ended().await.unwrap().state, WorkflowState::Abandoned);
}

#[tokio::test]
async fn a_step_after_the_pivot_that_kills_every_engine_waits_for_somebody() {
    let platform = TestPlatform::new().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let engine = || platform.engine(store.clone()).unwrap().build().unwrap();
    let first = engine();
    first.start().await.unwrap();
    first.create_app(&hello(), &me()).await.unwrap();
    TestPlatform::deploy(&first, &hello(), WEB).await.unwrap().succeeded().await.unwrap();
    first.shutdown().await;
    let handle = TestPlatform::deploy(&first, &hello(), "web: two\n").await.unwrap();
    let mut deaths = 0;
    loop {
        platform.world.plan("retire", [Fault::Hang]);
        // An engine that dies in the middle of the step, unless it waits.
        let waits = std::thread::scope(|scope| {
            let dies = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let engine = engine();
                    engine.start().await.unwrap();
                    let hangs_or_waits = |workflow: &Workflow| {
                        workflow.not_before.is_some() || platform.world.planned("retire") == 0
                    };
                    until(&engine.workflow(handle.id()), hangs_or_waits).await.not_before.is_some()
                })
            };
            scope.spawn(dies).join().unwrap()
        });
        if waits {
            break;
        }
        deaths += 1;
        assert!(deaths < 20, "it kills one engine after the other");
        platform.world.mend();
        platform.clock.advance(Duration::from_secs(60));
    }
    let told = first.explain(&hello()).await.unwrap().open.remove(0);
    assert!(told.stuck, "{told:?}");
    assert_eq!(told.failure.unwrap().code, ErrorCode::RecoveryExhausted);
    platform.world.mend();
    let last = engine();
    last.start().await.unwrap();
    last.retry(handle.id(), &me()).await.unwrap();
    last.workflow(handle.id()).succeeded().await.unwrap();
    last.shutdown().await;
}
