//! Every step run twice, every step failed, every undo repeated: by layers around the steps, as any embedder could.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use paas_core::testkit::world::TestPlatform;
use paas_core::{
    AddonOrder, ConfigEdit, ConfigVars, Error, ErrorCode, RollbackOrder, Scale, StepAction, StepCall,
    StepOutput, Version, WorkflowState,
};
use tower::{BoxError, Layer, Service};

use crate::{Bench, WEB_AND_WORKER, hello, me};

const CODE: &str = "web: new\nrelease: migrate\n---\n{\"addons\":[{\"service\":\"fakesql\",\"plan\":null,\"attachment\":null}]}";

/// Calls each step, or each undo, a second time: its answer was lost.
#[derive(Debug, Clone)]
struct Twice;

#[derive(Debug, Clone)]
struct TwiceService<S>(S);

impl<S> Layer<S> for Twice {
    type Service = TwiceService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        TwiceService(inner)
    }
}

impl<S> Service<StepCall> for TwiceService<S>
where
    S: Service<StepCall, Response = StepOutput, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = StepOutput;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<StepOutput, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, call: StepCall) -> Self::Future {
        let mut inner = self.0.clone();
        Box::pin(async move {
            inner.call(call.clone()).await?;
            inner.call(call).await
        })
    }
}

/// Fails one step after it has happened, for good.
#[derive(Debug, Clone)]
struct Fail {
    step: &'static str,
    armed: Arc<AtomicBool>,
}

#[derive(Debug, Clone)]
struct FailService<S>(S, Fail);

impl<S> Layer<S> for Fail {
    type Service = FailService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        FailService(inner, self.clone())
    }
}

impl<S> Service<StepCall> for FailService<S>
where
    S: Service<StepCall, Response = StepOutput, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = StepOutput;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<StepOutput, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, call: StepCall) -> Self::Future {
        let (mut inner, fail) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            let hit = call.action == StepAction::Run && call.step.as_str() == fail.step;
            let output = inner.call(call).await?;
            if hit && fail.armed.swap(false, Ordering::SeqCst) {
                return Err(Error::new(ErrorCode::Internal, "planned").into());
            }
            Ok(output)
        })
    }
}

/// Every kind of workflow once.
async fn everything(bench: &Bench) {
    let (engine, by) = (&bench.engine, me());
    bench.deploy(CODE).await.unwrap();
    bench.deploy(WEB_AND_WORKER).await.unwrap();
    let vars = ConfigVars::new().with("COLOR", "blue").unwrap();
    engine.configure(&hello(), ConfigEdit::set(vars), &by).await.unwrap().succeeded().await.unwrap();
    let web = |n| [(paas_core::ProcessType::web(), Scale::of(n))].into();
    engine.scale(&hello(), web(3), &by).await.unwrap().succeeded().await.unwrap();
    engine.scale(&hello(), web(1), &by).await.unwrap().succeeded().await.unwrap();
    let back = RollbackOrder::to(Version::FIRST);
    engine.rollback(&hello(), back, &by).await.unwrap().succeeded().await.unwrap();
    let order = AddonOrder::new("fakesql".parse().unwrap()).named("SECOND".parse().unwrap());
    let (addon, made) = engine.add_addon(&hello(), order, &by).await.unwrap();
    made.succeeded().await.unwrap();
    engine.rotate_addon(addon, &by).await.unwrap().succeeded().await.unwrap();
    engine.remove_addon(addon, &by).await.unwrap().succeeded().await.unwrap();
    loop {
        if engine.open_workflows(&paas_core::Subject::App(hello())).await.unwrap().is_empty() {
            break;
        }
        tokio::task::yield_now().await;
    }
    bench.is_sound().await;
    engine.destroy_app(&hello(), &by).await.unwrap().succeeded().await.unwrap();
}

#[tokio::test]
async fn invariant_1_every_step_run_twice_has_its_effect_once() {
    let bench = Bench::with(|builder| builder.step_layer(Twice)).await;
    everything(&bench).await;
    let mut repeated = bench.platform.repeated();
    // Fetching and building have no effect but their result.
    repeated.retain(|effect, _| {
        effect != "fetch" && !effect.starts_with("build ") && !effect.starts_with("forget ")
    });
    assert!(repeated.is_empty(), "{repeated:#?}");
    assert!(bench.platform.world.instances().is_empty());
    assert!(bench.platform.world.addons().is_empty());
}

#[tokio::test]
async fn every_step_that_fails_after_it_happened_is_undone_and_every_undo_may_be_repeated() {
    for step in ["fetch", "build", "provision", "prepare", "release_phase", "start", "await_healthy"] {
        let armed = Arc::new(AtomicBool::new(false));
        let fail = Fail { step, armed: armed.clone() };
        let bench = Bench::with(|builder| builder.step_layer(Twice).step_layer(fail)).await;
        armed.store(true, Ordering::SeqCst);
        let failed =
            TestPlatform::deploy(&bench.engine, &hello(), CODE).await.unwrap().ended().await.unwrap();
        assert_eq!(failed.state, WorkflowState::Failed, "{step}");
        assert_eq!(failed.failure.unwrap().step.unwrap().as_str(), step);
        assert!(bench.platform.world.instances().is_empty(), "{step}");
        assert!(bench.platform.world.addons().is_empty(), "{step}");
        bench.is_sound().await;
        bench.deploy(CODE).await.unwrap();
        bench.is_sound().await;
    }
}

#[tokio::test]
async fn every_step_after_the_pivot_that_fails_is_done_again() {
    for step in ["bind", "settle", "revoke"] {
        let armed = Arc::new(AtomicBool::new(false));
        let fail = Fail { step, armed: armed.clone() };
        let bench = Bench::with(|builder| builder.step_layer(fail)).await;
        bench.deploy(CODE).await.unwrap();
        let addon = bench.engine.addons(&hello()).await.unwrap()[0].id;
        armed.store(true, Ordering::SeqCst);
        let done = bench.engine.rotate_addon(addon, &me()).await.unwrap().succeeded().await.unwrap();
        assert!(done.step(step).unwrap().attempt > 1, "{step}");
        bench.is_sound().await;
    }
    for step in ["switch_route", "retire_old", "finish"] {
        let armed = Arc::new(AtomicBool::new(false));
        let fail = Fail { step, armed: armed.clone() };
        let bench = Bench::with(|builder| builder.step_layer(fail)).await;
        bench.deploy(WEB_AND_WORKER).await.unwrap();
        armed.store(true, Ordering::SeqCst);
        let done = bench.deploy("web: new\n").await.unwrap();
        assert_eq!(done.step(step).unwrap().attempt, 2);
        bench.is_sound().await;
    }
}
