//! Cancel says why, and each reason has its own behaviour.

use std::sync::Arc;
use std::time::Duration;

use paas_core::store::MemoryStore;
use paas_core::testkit::world::{Fault, TestPlatform, check};
use paas_core::{ErrorCode, StepState, Store, WorkflowState};

use crate::{Bench, WEB, hello, me};

async fn until(bench: &Bench, id: paas_core::WorkflowId, step: &str) {
    loop {
        let workflow = bench.engine.workflow(id).state().await.unwrap();
        if workflow.step(step).unwrap().state == StepState::Started {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn invariant_8_a_person_s_cancel_undoes_what_was_started() {
    for (call, step) in [("fetch", "fetch"), ("build", "build"), ("ensure", "start")] {
        let bench = Bench::new().await;
        bench.deploy(WEB).await.unwrap();
        let routes = bench.platform.world.routes(&hello());
        bench.platform.world.plan(call, [Fault::Hang]);
        let handle = TestPlatform::deploy(&bench.engine, &hello(), "web: other\n").await.unwrap();
        until(&bench, handle.id(), step).await;
        bench.engine.cancel(handle.id(), "wrong branch", &me()).await.unwrap();
        let ended = handle.ended().await.unwrap();
        assert_eq!(ended.state, WorkflowState::Cancelled, "{call}: {:?}", ended.failure);
        let error = handle.live().await.unwrap_err();
        assert_eq!(error.to_string(), "cancelled by ada: wrong branch");
        assert_eq!(bench.platform.world.routes(&hello()), routes);
        bench.is_sound().await;
    }
}

#[tokio::test]
async fn invariant_8_after_the_pivot_a_cancel_is_refused() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.platform.world.plan("drain", [Fault::Delay(Duration::from_millis(50))]);
    let handle = TestPlatform::deploy(&bench.engine, &hello(), "web: other\n").await.unwrap();
    handle.live().await.unwrap();
    let refused = bench.engine.cancel(handle.id(), "too late", &me()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::PastPivot);
    handle.succeeded().await.unwrap();
    let ended = bench.engine.cancel(handle.id(), "much too late", &me()).await.unwrap_err();
    assert_eq!(ended.code(), ErrorCode::Conflict);
    bench.is_sound().await;
}

#[tokio::test]
async fn invariant_8_a_shutdown_gives_the_work_back_and_the_next_engine_goes_on_at_once() {
    let platform = TestPlatform::new().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let first = platform.engine(store.clone()).unwrap().build().unwrap();
    first.start().await.unwrap();
    first.create_app(&hello(), &me()).await.unwrap();
    platform.world.plan("build", [Fault::Hang]);
    let handle = TestPlatform::deploy(&first, &hello(), WEB).await.unwrap();
    while handle.state().await.unwrap().step("build").unwrap().state != StepState::Started {
        tokio::task::yield_now().await;
    }
    first.shutdown().await;
    assert_eq!(handle.state().await.unwrap().state, WorkflowState::Running, "it was not failed");
    // No time passes: the lease was given back.
    let second = platform.engine(store).unwrap().build().unwrap();
    second.start().await.unwrap();
    let ended = second.workflow(handle.id()).succeeded().await.unwrap();
    assert_eq!(ended.takeovers, 0);
    assert!(check(&platform.world, &second, &hello()).await.unwrap().is_empty());
}

#[tokio::test]
async fn invariant_8_what_takes_too_long_fails_and_is_undone() {
    let bench = Bench::with(|builder| {
        let mut options = paas_core::EngineOptions::default();
        options.build_timeout = Duration::from_millis(20);
        options.work_dir = std::env::temp_dir().join(format!("paas-test-{}", std::process::id()));
        builder.with_options(options)
    })
    .await;
    bench.platform.world.plan("build", [Fault::Hang]);
    let error = bench.deploy(WEB).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Timeout);
    bench.is_sound().await;
    bench.deploy(WEB).await.unwrap();
}

#[tokio::test]
async fn an_app_whose_destroying_is_cancelled_while_it_waits_is_an_app_as_before() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.platform.world.plan("build", [Fault::Hang]);
    let in_the_way = TestPlatform::deploy(&bench.engine, &hello(), "web: other\n").await.unwrap();
    until(&bench, in_the_way.id(), "build").await;
    let destroy = bench.engine.destroy_app(&hello(), &me()).await.unwrap();
    bench.engine.cancel(destroy.id(), "oh no", &me()).await.unwrap();
    assert_eq!(destroy.ended().await.unwrap().state, WorkflowState::Cancelled);
    assert!(!bench.engine.app(&hello()).await.unwrap().destroying);
    bench.engine.cancel(in_the_way.id(), "enough", &me()).await.unwrap();
    in_the_way.ended().await.unwrap();
    bench.deploy("web: third\n").await.unwrap();
    bench.is_sound().await;
    bench.engine.destroy_app(&hello(), &me()).await.unwrap().succeeded().await.unwrap();
}
