//! What `explain` says of workflows that were really brought into each state.

use std::sync::Arc;
use std::time::Duration;

use paas_core::store::{ClaimRequest, MemoryStore};
use paas_core::testkit::world::{FakeSource, Fault, TestPlatform};
use paas_core::{
    AddonOrder, Clock, ConfigEdit, ConfigVars, DeployOrder, Engine, ErrorCode, Explanation, OpenWorkflow,
    OwnerId, Remedy, Scope, StepDef, StepState, Store, Subject, WaitsFor, WorkflowKind, WorkflowState,
};

use crate::embed::{Approve, gated, kind, parked, step};
use crate::queue::begun;
use crate::repair::{backs_off, slow};
use crate::{Bench, WEB, WEB_AND_WORKER, hello, me};

async fn explain(engine: &Engine) -> Explanation {
    engine.explain(&hello()).await.unwrap()
}

/// The one that is open.
async fn only(engine: &Engine) -> OpenWorkflow {
    let mut open = explain(engine).await.open;
    assert_eq!(open.len(), 1, "{open:?}");
    open.remove(0)
}

fn edit() -> ConfigEdit {
    ConfigEdit::set(ConfigVars::new().with("COLOR", "blue").unwrap())
}

/// Two engines on one store, of which only the first works; nobody's time passes.
async fn pair() -> (TestPlatform, Arc<dyn Store>, Engine, Engine) {
    let platform = TestPlatform::new().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let first = platform.engine(store.clone()).unwrap().build().unwrap();
    let second = platform.engine(store.clone()).unwrap().build().unwrap();
    first.create_app(&hello(), &me()).await.unwrap();
    (platform, store, first, second)
}

#[tokio::test]
async fn nothing_open_says_what_is_live_how_much_is_up_and_what_the_last_deploy_came_to() {
    let bench = Bench::new().await;
    let told = explain(&bench.engine).await;
    assert!(told.live.is_none() && told.last_deploy.is_none() && told.open.is_empty());
    assert!(told.to_string().contains("Nothing is live yet"), "{told}");

    let deploy = bench.deploy(WEB_AND_WORKER).await.unwrap();
    let told = explain(&bench.engine).await;
    let live = told.live.as_ref().unwrap();
    assert_eq!(live.version.number(), 1);
    assert_eq!(Some(live.since), deploy.step("switch_route").unwrap().started_at);
    assert_eq!(told.last_deploy.as_ref().unwrap().workflow, deploy.id);
    let counts: Vec<_> = told.processes.iter().map(|c| (c.process.as_str(), c.up, c.wanted)).collect();
    assert_eq!(counts, [("web", 1, 1), ("worker", 1, 1)]);
    assert!(told.to_string().ends_with("Nothing is under way. Things Just Work\n"), "{told}");

    bench.platform.world.crash("web");
    bench.deploy("web: two\n").await.unwrap_err();
    let told = explain(&bench.engine).await;
    let last = told.last_deploy.as_ref().unwrap();
    assert_eq!(
        (last.state, last.failure.as_ref().unwrap().code),
        (WorkflowState::Failed, ErrorCode::ProcessCrashed)
    );
    let nobody = bench.engine.explain(&"nobody".parse().unwrap()).await.unwrap_err();
    assert_eq!(nobody.code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn one_that_backs_off_says_what_failed_and_when_it_is_tried_again() {
    let bench = slow().await;
    bench.platform.world.plan("build", [Fault::Flake]);
    let handle = TestPlatform::deploy(&bench.engine, &hello(), WEB).await.unwrap();
    let state = backs_off(&handle, "build").await;
    let told = only(&bench.engine).await;
    assert_eq!(told.waits_for, WaitsFor::Attempt { at: state.not_before.unwrap() });
    assert_eq!((told.step.unwrap().as_str(), told.attempts, told.stuck), ("build", 1, false));
    assert_eq!(told.failure.unwrap().code, ErrorCode::Unavailable);
    assert_eq!(told.remedies, [Remedy::Retry, Remedy::Cancel]);
    bench.engine.retry(told.id, &me()).await.unwrap();
    handle.succeeded().await.unwrap();
}

#[tokio::test]
async fn one_that_only_a_person_can_help_is_called_stuck() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.platform.world.plan("retire", std::iter::repeat_n(Fault::Fail(ErrorCode::Internal), 1000));
    let handle = TestPlatform::deploy(&bench.engine, &hello(), "web: two\n").await.unwrap();
    let told = loop {
        let told = only(&bench.engine).await;
        if told.stuck {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert!(told.attempts > 5, "{told:?}");
    assert_eq!(told.step.unwrap().as_str(), "retire_old");
    assert_eq!(explain(&bench.engine).await.live.unwrap().version.number(), 2, "users have it");
    let ended = bench.engine.abandon(handle.id(), "enough", &me()).await.unwrap().ended().await.unwrap();
    assert_eq!(ended.state, WorkflowState::Abandoned);
}

#[tokio::test]
async fn one_that_queues_names_those_before_it_and_one_that_is_worked_on_names_its_engine() {
    let (platform, _, first, second) = pair().await;
    platform.world.plan("build", [Fault::Hang]);
    first.start().await.unwrap();
    let running = TestPlatform::deploy(&first, &hello(), WEB).await.unwrap();
    begun(&running, "build").await;
    let queued = first.configure(&hello(), edit(), &me()).await.unwrap();
    for (engine, is_here) in [(&first, true), (&second, false)] {
        let open = explain(engine).await.open;
        assert!(matches!(open[0].waits_for, WaitsFor::Step { here, .. } if here == is_here), "{open:?}");
        assert_eq!(open[0].remedies, [Remedy::Cancel]);
        let WaitsFor::Turn(ahead) = &open[1].waits_for else { panic!("{open:?}") };
        assert_eq!(ahead.iter().map(|ahead| ahead.id).collect::<Vec<_>>(), [running.id()]);
        assert_eq!(open[1].id, queued.id());
    }
    first.cancel(running.id(), "enough", &me()).await.unwrap();
    queued.succeeded().await.unwrap();
    first.shutdown().await;
}

#[tokio::test]
async fn one_whose_engine_died_says_until_when_and_that_another_one_goes_on_then() {
    let (platform, store, _, engine) = pair().await;
    let handle = TestPlatform::deploy(&engine, &hello(), WEB).await.unwrap();
    assert_eq!(only(&engine).await.waits_for, WaitsFor::Engine, "nobody took it yet");
    let dead = OwnerId::new();
    let request = ClaimRequest::new(dead, Duration::from_secs(10), vec![(kind("deploy"), 1)]);
    store.claim(&request).await.unwrap().unwrap();
    let until = platform.clock.now() + Duration::from_secs(10);
    assert_eq!(only(&engine).await.waits_for, WaitsFor::Step { engine: dead, here: false, until });
    platform.clock.advance(Duration::from_secs(11));
    let told = only(&engine).await;
    assert_eq!((told.waits_for, told.since), (WaitsFor::Takeover { engine: dead }, until));
    assert!(told.remedies.is_empty(), "it goes on by itself");
    engine.start().await.unwrap();
    handle.succeeded().await.unwrap();
    engine.shutdown().await;
}

#[tokio::test]
async fn one_that_waits_for_an_answer_says_for_which_and_what_a_freeze_will_do_to_it() {
    let bench = gated("build").await;
    let handle = parked(&bench, WEB).await;
    let told = only(&bench.engine).await;
    assert_eq!(told.waits_for, WaitsFor::Answer { why: "somebody's approval".into() });
    assert_eq!(told.remedies, [Remedy::Signal, Remedy::Cancel]);
    assert_eq!(told.freeze, None);
    let freeze = bench.engine.freeze(&Scope::Platform, "a holiday", &me()).await.unwrap();
    let all = explain(&bench.engine).await;
    assert_eq!(all.freeze, Some(freeze.clone()));
    assert_eq!(only(&bench.engine).await.freeze, Some(freeze));
    bench.engine.signal(handle.id(), "yes".into(), &me()).await.unwrap();
    assert_eq!(handle.live().await.unwrap_err().code(), ErrorCode::Frozen);
}

#[tokio::test]
async fn one_that_a_client_keeps_from_its_turn_says_so() {
    let (_platform, _, first, engine) = pair().await;
    first.start().await.unwrap();
    let turn = first.take_turn(&hello()).await.unwrap();
    let order = DeployOrder::new(FakeSource::code(WEB)).during(&turn);
    first.deploy(&hello(), order, &me()).await.unwrap().succeeded().await.unwrap();
    let next = TestPlatform::deploy(&first, &hello(), "web: two\n").await.unwrap();
    assert_eq!(only(&engine).await.waits_for, WaitsFor::Client);
    turn.end().await.unwrap();
    next.succeeded().await.unwrap();
    first.shutdown().await;
}

#[tokio::test]
async fn one_of_a_kind_that_this_program_does_not_know_says_that_too() {
    let platform = TestPlatform::new().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let promote = WorkflowKind::new(kind("promote"), 7).step(StepDef::new(step("ask"), Arc::new(Approve)));
    let newer = platform.engine(store.clone()).unwrap().with_workflow(promote).build().unwrap();
    newer.create_app(&hello(), &me()).await.unwrap();
    newer.submit(&kind("promote"), Subject::App(hello()), &(), &me()).await.unwrap();
    let older = platform.engine(store).unwrap().build().unwrap();
    let told = only(&older).await;
    assert_eq!(told.waits_for, WaitsFor::Program { version: 7 });
    assert_eq!(told.remedies, [Remedy::Abandon]);
}

#[tokio::test]
async fn an_add_on_that_waits_for_its_app_is_told_of_with_its_reason() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let order = AddonOrder::new("fakesql".parse().unwrap());
    let (addon, made) = bench.engine.add_addon(&hello(), order, &me()).await.unwrap();
    made.succeeded().await.unwrap();
    while !explain(&bench.engine).await.open.is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.platform.world.crash("web");
    let rotating = bench.engine.rotate_addon(addon, &me()).await.unwrap();
    let told = loop {
        let open = explain(&bench.engine).await.open;
        let looks = |w: &OpenWorkflow| matches!(w.waits_for, WaitsFor::Look { .. });
        if let Some(told) = open.into_iter().find(|w| w.id == rotating.id() && looks(w)) {
            break told;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert_eq!(told.subject, Subject::Addon(addon));
    let WaitsFor::Look { why, .. } = &told.waits_for else { panic!("{told:?}") };
    assert!(why.contains("still runs with the old credentials"), "{why}");
    assert_eq!(told.remedies, [Remedy::Retry, Remedy::Abandon]);
    bench.platform.world.mend();
    bench.deploy("web: two\n").await.unwrap();
    rotating.succeeded().await.unwrap();
}

#[tokio::test]
async fn one_that_is_undone_says_so() {
    let bench = slow().await;
    bench.platform.world.crash("web");
    bench.platform.world.plan("retire", [Fault::Flake]);
    let handle = TestPlatform::deploy(&bench.engine, &hello(), WEB).await.unwrap();
    let state = backs_off(&handle, "start").await;
    assert_eq!(state.step("start").unwrap().state, StepState::Undoing);
    let told = explain(&bench.engine).await;
    assert!(told.to_string().contains("Waits to try the undo of start again"), "{told}");
    assert_eq!(told.open[0].remedies, [Remedy::Retry, Remedy::Abandon]);
    bench.engine.retry(handle.id(), &me()).await.unwrap();
    assert_eq!(handle.ended().await.unwrap().state, WorkflowState::Failed);
}
