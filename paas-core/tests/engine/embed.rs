//! What embedders add: steps, layers, kinds of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use paas_core::testkit::world::{FakeSource, TestPlatform};
use paas_core::{
    DeployOrder, ErrorCode, KindName, Result, Step, StepCall, StepDef, StepName, StepOutput, Subject,
    WorkflowKind, WorkflowState,
};

use crate::{Bench, WEB, hello, me};

pub(crate) fn kind(name: &str) -> KindName {
    name.parse().unwrap()
}

pub(crate) fn step(name: &str) -> StepName {
    name.parse().unwrap()
}

#[derive(Debug)]
pub(crate) struct Approve;

#[async_trait]
impl Step for Approve {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        match call.signal() {
            None => Ok(StepOutput::wait("somebody's approval")),
            Some(answer) if answer == "yes" => Ok(StepOutput::done()),
            Some(_) => Err(paas_core::Error::new(ErrorCode::Forbidden, "not approved")),
        }
    }
}

pub(crate) async fn gated(anchor: &str) -> Bench {
    let def = StepDef::new(step("approve"), Arc::new(Approve));
    Bench::with(|builder| builder.with_step_after(kind("deploy"), step(anchor), def)).await
}

pub(crate) async fn parked(bench: &Bench, code: &str) -> paas_core::WorkflowHandle {
    let handle =
        bench.engine.deploy(&hello(), DeployOrder::new(FakeSource::code(code)), &me()).await.unwrap();
    assert_eq!(handle.parked().await.unwrap().state, WorkflowState::Parked);
    handle
}

#[tokio::test]
async fn a_step_that_waits_parks_its_workflow_and_lets_others_pass() {
    for anchor in ["build", "await_healthy"] {
        let bench = gated(anchor).await;
        let first = parked(&bench, WEB).await;
        assert!(bench.platform.world.instances().is_empty(), "{anchor}: what it started would be in the way");
        bench.engine.signal(first.id(), "yes".into(), &me()).await.unwrap();
        first.succeeded().await.unwrap();

        let second = parked(&bench, "web: two\n").await;
        let edit = paas_core::ConfigEdit::set(paas_core::ConfigVars::new().with("A", "1").unwrap());
        bench.engine.configure(&hello(), edit, &me()).await.unwrap().succeeded().await.unwrap();
        bench.engine.signal(second.id(), "yes".into(), &me()).await.unwrap();
        second.succeeded().await.unwrap();
        let releases = bench.engine.releases(&hello()).await.unwrap();
        let told: Vec<_> = releases.iter().map(|r| (r.version, r.state, r.description.clone())).collect();
        println!("{told:?}");
        assert_eq!(releases[0].config_keys().count(), 1, "{anchor}: the release is prepared after the wait");
        bench.is_sound().await;
    }
}

#[tokio::test]
async fn a_refusal_fails_the_workflow_and_a_cancel_frees_one_that_waits() {
    let bench = gated("build").await;
    let first = parked(&bench, WEB).await;
    bench.engine.signal(first.id(), "no".into(), &me()).await.unwrap();
    assert_eq!(first.live().await.unwrap_err().code(), ErrorCode::Forbidden);
    let second = parked(&bench, WEB).await;
    bench.engine.cancel(second.id(), "never mind", &me()).await.unwrap();
    assert_eq!(second.ended().await.unwrap().state, WorkflowState::Cancelled);
    let again = bench.engine.signal(second.id(), "yes".into(), &me()).await.unwrap_err();
    assert_eq!(again.code(), ErrorCode::Conflict);
    bench.is_sound().await;
}

#[tokio::test]
async fn every_step_passes_the_layers_and_a_layer_s_refusal_is_a_failure() {
    let seen = Arc::new(AtomicU32::new(0));
    let counter = seen.clone();
    let layer = tower::layer::layer_fn(move |inner| {
        let counter = counter.clone();
        tower::ServiceExt::map_request(inner, move |call: StepCall| {
            counter.fetch_add(1, Ordering::Relaxed);
            call
        })
    });
    let bench = Bench::with(|builder| builder.step_layer(layer)).await;
    let workflow = bench.deploy(WEB).await.unwrap();
    let ran = workflow.steps.iter().filter(|step| step.attempt > 0).count();
    assert_eq!(seen.load(Ordering::Relaxed) as usize, ran);
}

#[derive(Debug)]
pub(crate) struct Count(pub(crate) Arc<AtomicU32>, pub(crate) bool);

#[async_trait]
impl Step for Count {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        self.0.fetch_add(1, Ordering::Relaxed);
        if self.1 {
            return Err(paas_core::Error::new(ErrorCode::Internal, "the second step fails"));
        }
        StepOutput::with(&call.workflow.input)
    }

    fn has_undo(&self) -> bool {
        true
    }

    async fn undo(&self, _: &StepCall) -> Result<()> {
        self.0.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test]
async fn a_kind_of_the_embedder_s_own_has_steps_undo_and_a_queue() {
    let (one, two) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let good = WorkflowKind::new(kind("greet"), 1)
        .step(StepDef::new(step("count"), Arc::new(Count(one.clone(), false))));
    let bad = WorkflowKind::new(kind("stumble"), 1)
        .step(StepDef::new(step("count"), Arc::new(Count(two.clone(), false))))
        .step(StepDef::new(step("fall"), Arc::new(Count(two.clone(), true))));
    let bench = Bench::with(|builder| builder.with_workflow(good).with_workflow(bad)).await;
    let greet = bench.engine.submit(&kind("greet"), Subject::Platform, &"hi", &me()).await.unwrap();
    assert_eq!(greet.succeeded().await.unwrap().output("count").unwrap(), "hi");
    assert_eq!(one.load(Ordering::Relaxed), 1);
    let stumble = bench.engine.submit(&kind("stumble"), Subject::App(hello()), &"hi", &me()).await.unwrap();
    stumble.succeeded().await.unwrap_err();
    assert_eq!(two.load(Ordering::Relaxed), 0, "both were undone");
    let unknown = bench.engine.submit(&kind("dance"), Subject::Platform, &"hi", &me()).await.unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn a_step_after_one_that_is_not_there_is_refused_when_the_engine_is_built() {
    let platform = TestPlatform::new().unwrap();
    let store = Arc::new(paas_core::store::MemoryStore::new(platform.clock()));
    let def = || StepDef::new(step("approve"), Arc::new(Approve));
    let builder = platform.engine(store.clone()).unwrap();
    let error = builder.with_step_after(kind("deploy"), step("bild"), def()).build().unwrap_err();
    assert!(error.to_string().contains("fetch, build"), "{error}");
    let builder = platform.engine(store).unwrap();
    let error = builder.with_step_after(kind("deploi"), step("build"), def()).build().unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn an_app_is_ensured_once_and_its_events_read_as_sentences() {
    let bench = Bench::with(|builder| builder).await;
    let before = bench.engine.app(&hello()).await.unwrap();
    assert_eq!(bench.engine.ensure_app(&hello(), &me()).await.unwrap().id, before.id, "it was there");
    let name = "second".parse().unwrap();
    let made = bench.engine.ensure_app(&name, &me()).await.unwrap();
    assert_eq!(bench.engine.ensure_app(&name, &me()).await.unwrap().id, made.id);
    let events = bench.engine.events(0, Some(&name), 10).await.unwrap();
    assert_eq!(format!("{:<8}|{}", name, events[0].kind), format!("second  |{} made the app", me()));
}
