//! Who goes first, and who never goes.

use paas_core::testkit::world::{Fault, TestPlatform};
use paas_core::{
    ConfigEdit, ConfigVars, ErrorCode, EventKind, StepState, Subject, WorkflowHandle, WorkflowState,
};

use crate::{Bench, WEB, hello, me};

/// Waits until a step of a workflow has begun.
pub(crate) async fn begun(handle: &WorkflowHandle, step: &str) {
    loop {
        if handle.state().await.unwrap().step(step).unwrap().state == StepState::Started {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn set(key: &str) -> ConfigEdit {
    ConfigEdit::set(ConfigVars::new().with(key, "1").unwrap())
}

#[tokio::test]
async fn invariant_4_a_newer_deploy_takes_the_place_of_one_that_waits_and_nothing_else_is_dropped() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.platform.world.plan("build", [Fault::Hang]);
    let first = TestPlatform::deploy(&bench.engine, &hello(), "web: one\n").await.unwrap();
    begun(&first, "build").await;
    let second = TestPlatform::deploy(&bench.engine, &hello(), "web: two\n").await.unwrap();
    let config = bench.engine.configure(&hello(), set("A"), &me()).await.unwrap();
    let third = TestPlatform::deploy(&bench.engine, &hello(), "web: three\n").await.unwrap();
    assert_eq!(second.state().await.unwrap().state, WorkflowState::Superseded);
    assert_eq!(second.live().await.unwrap_err().code(), ErrorCode::Conflict);
    assert_eq!(first.state().await.unwrap().state, WorkflowState::Running, "one that runs is left alone");
    assert_eq!(config.state().await.unwrap().state, WorkflowState::Queued);
    bench.engine.cancel(first.id(), "enough", &me()).await.unwrap();
    config.succeeded().await.unwrap();
    third.succeeded().await.unwrap();
    let (config, third) = (config.state().await.unwrap(), third.state().await.unwrap());
    assert!(config.ended_at <= third.steps[0].started_at, "in order, one at a time");
    bench.is_sound().await;
}

#[tokio::test]
async fn invariant_4_queued_changes_of_config_are_rolled_out_once() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.platform.world.plan("build", [Fault::Hang]);
    let deploy = TestPlatform::deploy(&bench.engine, &hello(), "web: one\n").await.unwrap();
    begun(&deploy, "build").await;
    let first = bench.engine.configure(&hello(), set("A"), &me()).await.unwrap();
    let second = bench.engine.configure(&hello(), set("B"), &me()).await.unwrap();
    assert_eq!(first.id(), second.id());
    bench.engine.cancel(deploy.id(), "enough", &me()).await.unwrap();
    second.succeeded().await.unwrap();
    let releases = bench.engine.releases(&hello()).await.unwrap();
    assert_eq!(releases.len(), 2);
    assert_eq!(releases[0].config_keys().count(), 2);
}

#[tokio::test]
async fn an_app_that_hangs_holds_no_other_app_up() {
    let bench = Bench::new().await;
    bench.platform.world.plan("build", [Fault::Hang]);
    let stuck = TestPlatform::deploy(&bench.engine, &hello(), WEB).await.unwrap();
    // Until it hangs: the other app's build must not take the fault that was planned for this one.
    while bench.platform.world.planned("build") > 0 {
        tokio::task::yield_now().await;
    }
    let other = "other".parse().unwrap();
    bench.engine.create_app(&other, &me()).await.unwrap();
    TestPlatform::deploy(&bench.engine, &other, "web: two\n").await.unwrap().succeeded().await.unwrap();
    bench.engine.cancel(stuck.id(), "enough", &me()).await.unwrap();
    stuck.ended().await.unwrap();
}

#[tokio::test]
async fn many_at_once_each_go_live_or_are_superseded_and_the_last_one_wins() {
    let bench = Bench::new().await;
    let mut handles = Vec::new();
    for number in 0..20 {
        let code = format!("web: {number}\n");
        handles.push(TestPlatform::deploy(&bench.engine, &hello(), &code).await.unwrap());
    }
    for handle in &handles {
        let state = handle.ended().await.unwrap().state;
        assert!(matches!(state, WorkflowState::Succeeded | WorkflowState::Superseded), "{state}");
    }
    let live = bench.engine.app(&hello()).await.unwrap().live.unwrap();
    let release = bench.engine.release(&hello(), live.version).await.unwrap();
    assert_eq!(release.artifact.processes.get(&"web".parse().unwrap()).unwrap().command, "19");
    bench.is_sound().await;
}

#[tokio::test]
async fn invariant_6_events_tell_the_whole_story_in_order_and_again_from_any_place() {
    let bench = Bench::new().await;
    let workflow = bench.deploy(WEB).await.unwrap();
    let all = bench.engine.events(0, Some(&hello()), 1000).await.unwrap();
    assert!(all.is_sorted_by_key(|event| event.seq));
    let steps: Vec<_> = all
        .iter()
        .filter(|event| event.workflow == Some(workflow.id))
        .filter_map(|event| match &event.kind {
            EventKind::StepFinished { step } => Some(step.as_str()),
            _ => None,
        })
        .collect();
    let expected =
        ["fetch", "build", "prepare", "start", "await_healthy", "switch_route", "retire_old", "finish"];
    assert_eq!(steps, expected);
    let half = all[all.len() / 2].seq;
    let rest = bench.engine.events(half, Some(&hello()), 1000).await.unwrap();
    assert_eq!(rest[..], all[all.len() / 2 + 1..]);
    let text = serde_json::to_string(&all[0]).unwrap();
    assert_eq!(serde_json::from_str::<paas_core::Event>(&text).unwrap(), all[0]);
}

#[tokio::test]
async fn a_turn_that_is_kept_holds_the_next_workflow_until_it_ends() {
    let bench = Bench::new().await;
    let turn = bench.engine.take_turn(&hello()).await.unwrap();
    let order = paas_core::DeployOrder::new(paas_core::testkit::world::FakeSource::code(WEB)).during(&turn);
    let first = bench.engine.deploy(&hello(), order, &me()).await.unwrap();
    first.succeeded().await.unwrap();
    let second = TestPlatform::deploy(&bench.engine, &hello(), "web: two\n").await.unwrap();
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(second.state().await.unwrap().state, WorkflowState::Queued);
    turn.end().await.unwrap();
    second.succeeded().await.unwrap();
}

#[tokio::test]
async fn a_deploy_whose_client_is_gone_before_its_turn_is_never_built() {
    let bench = Bench::new().await;
    let turn = bench.engine.take_turn(&hello()).await.unwrap();
    bench.platform.world.plan("build", [Fault::Hang]);
    let stuck = TestPlatform::deploy(&bench.engine, &hello(), "web: stuck\n").await.unwrap();
    begun(&stuck, "build").await;
    let order = paas_core::DeployOrder::new(paas_core::testkit::world::FakeSource::code(WEB)).during(&turn);
    let left = bench.engine.deploy(&hello(), order, &me()).await.unwrap();
    turn.end().await.unwrap();
    bench.engine.cancel(stuck.id(), "enough", &me()).await.unwrap();
    assert_eq!(left.ended().await.unwrap().state, WorkflowState::Cancelled);
    assert!(bench.engine.open_workflows(&Subject::App(hello())).await.unwrap().is_empty());
    assert_eq!(bench.platform.world.count("build hello"), 0);
}
