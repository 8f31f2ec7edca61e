//! A runtime or a router that doesn't answer: told, cut off, tried again, and nobody else waits for it.

use std::sync::Arc;
use std::time::Duration;

use paas_core::store::MemoryStore;
use paas_core::testkit::world::{TestPlatform, check};
use paas_core::{AppName, Engine, ErrorCode, EventKind, Store};

use crate::{Bench, WEB, WEB_AND_WORKER, hello, me};

/// More than are looked at at once.
const MANY: usize = 20;
const LIMIT: Duration = Duration::from_secs(60);

struct Hanging {
    platform: TestPlatform,
    store: Arc<dyn Store>,
}

impl Hanging {
    /// A platform on which the apps `hello` and `app-0`, `app-1`, … are live.
    async fn new() -> Self {
        let platform = TestPlatform::new().unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
        let this = Self { platform, store };
        let engine = this.engine();
        engine.start().await.unwrap();
        for app in many().chain([hello()]) {
            engine.create_app(&app, &me()).await.unwrap();
            TestPlatform::deploy(&engine, &app, WEB).await.unwrap().succeeded().await.unwrap();
        }
        engine.shutdown().await;
        this
    }

    fn engine(&self) -> Engine {
        let mut options = self.platform.options();
        options.call_timeout = LIMIT;
        self.platform.engine(self.store.clone()).unwrap().with_options(options).build().unwrap()
    }

    fn stall(&self, call: &'static str) {
        for app in many() {
            self.platform.world.stall(&app, call);
        }
    }

    async fn is_sound(&self, engine: &Engine, app: &AppName) {
        while !check(&self.platform.world, engine, app).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// How often it was said that an app is neglected.
    async fn told(&self, engine: &Engine, app: &AppName) -> usize {
        let events = engine.events(0, Some(app), 10_000).await.unwrap();
        events.iter().filter(|event| matches!(event.kind, EventKind::Neglected { .. })).count()
    }
}

fn many() -> impl Iterator<Item = AppName> {
    (0..MANY).map(|number| format!("app-{number}").parse().unwrap())
}

async fn calls_that_hang(call: &'static str) {
    let hanging = Hanging::new().await;
    let _passing = hanging.platform.let_time_pass();
    hanging.platform.world.reboot();
    hanging.stall(call);
    let engine = hanging.engine();
    engine.start().await.unwrap();
    engine.routed().await;
    // It comes behind all the others in each round.
    hanging.is_sound(&engine, &hello()).await;
    for app in many() {
        while hanging.told(&engine, &app).await == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    // It goes on being tried, and said once.
    let first: AppName = "app-0".parse().unwrap();
    let neglect = loop {
        let neglect = engine.explain(&first).await.unwrap().neglect.unwrap();
        if neglect.times > 2 {
            break neglect;
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    };
    assert_eq!(neglect.last.code, ErrorCode::Timeout);
    assert_eq!(hanging.told(&engine, &first).await, 1);
    let stalled = hanging.platform.world.count(&format!("stall {call} {first}"));
    assert!(stalled >= 3, "{stalled}");
    hanging.is_sound(&engine, &hello()).await;
    // A deploy of another app goes through meanwhile.
    TestPlatform::deploy(&engine, &hello(), "web: other\n").await.unwrap().succeeded().await.unwrap();
    hanging.platform.world.mend();
    for app in many() {
        while engine.explain(&app).await.unwrap().neglect.is_some() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        hanging.is_sound(&engine, &app).await;
    }
    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_does_not_start_what_should_run_holds_no_other_app_up_and_is_told() {
    calls_that_hang("ensure").await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_does_not_say_what_runs_holds_no_other_app_up_and_is_told() {
    calls_that_hang("observe").await;
}

#[tokio::test(start_paused = true)]
async fn a_router_that_does_not_answer_for_some_apps_holds_no_other_app_up_and_is_told() {
    calls_that_hang("apply").await;
}

#[tokio::test]
async fn what_is_kept_up_slowly_never_brings_back_a_release_that_was_replaced_meanwhile() {
    let bench = Bench::new().await;
    bench.deploy(WEB_AND_WORKER).await.unwrap();
    let world = &bench.platform.world;
    world.stall(&hello(), "ensure");
    while world.count("stall ensure hello") == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The look is at the web processes of the first release, and the workers come after them.
    bench.deploy(WEB_AND_WORKER).await.unwrap();
    world.mend();
    while bench.store.leased("reconcile/hello").await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.count("start hello worker.1 v1"), 1);
    while !check(world, &bench.engine, &hello()).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_ends_in_order_beside_calls_that_never_return() {
    for call in ["ensure", "observe", "apply"] {
        let hanging = Hanging::new().await;
        hanging.platform.world.reboot();
        hanging.stall(call);
        let engine = hanging.engine();
        engine.start().await.unwrap();
        let stalled = || hanging.platform.world.effects().keys().any(|effect| effect.starts_with("stall "));
        while !stalled() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Far less than the limit of a call.
        let ended = tokio::time::timeout(LIMIT / 2, engine.shutdown()).await;
        assert!(ended.is_ok(), "{call} keeps the engine from ending");
    }
}
