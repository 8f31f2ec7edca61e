//! The look at all apps from time to time: one engine's work, and cheap where all is well.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use paas_core::store::{MemoryStore, Store};
use paas_core::testkit::world::{TestPlatform, check};
use paas_core::{AppName, Engine, Result};

use crate::hooked::{Call, Hook, Hooked};
use crate::{WEB, hello, me};

/// More than any round is apart from the next one, and than its lease lasts.
const ROUNDS: u32 = 60;

/// Counts what is written on behalf of apps.
#[derive(Debug, Default)]
struct Writes(AtomicUsize);

#[async_trait]
impl Hook for Writes {
    async fn before(&self, call: Call<'_>) -> Result<()> {
        let counts = match call {
            Call::Commit(_) => true,
            Call::Lease(name) => name.starts_with("reconcile/"),
            Call::Get(_) => false,
        };
        self.0.fetch_add(usize::from(counts), Ordering::SeqCst);
        Ok(())
    }
}

async fn started(platform: &TestPlatform, store: &Arc<dyn Store>) -> Engine {
    let engine = platform.engine(store.clone()).unwrap().build().unwrap();
    engine.start().await.unwrap();
    engine.routed().await;
    engine
}

async fn becomes_sound(platform: &TestPlatform, engine: &Engine) {
    while !check(&platform.world, engine, &hello()).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Who makes the rounds.
async fn maker(store: &Arc<dyn Store>) -> String {
    loop {
        if let Some(owner) = store.leased("round").await.unwrap() {
            return owner;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rounds_write_nothing_where_all_is_well() {
    let platform = TestPlatform::new().unwrap();
    let _passing = platform.let_time_pass();
    let hooked = Hooked::new(platform.clock(), Writes::default());
    let store: Arc<dyn Store> = hooked.clone();
    let engine = started(&platform, &store).await;
    for number in 0..20 {
        let app: AppName = format!("app-{number}").parse().unwrap();
        engine.create_app(&app, &me()).await.unwrap();
        TestPlatform::deploy(&engine, &app, WEB).await.unwrap().succeeded().await.unwrap();
    }
    let round = platform.options().poll * 30;
    tokio::time::sleep(round * 2).await;
    let before = hooked.hook.0.load(Ordering::SeqCst);
    tokio::time::sleep(round * 10).await;
    assert_eq!(hooked.hook.0.load(Ordering::SeqCst) - before, 0);
    engine.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn of_several_engines_one_makes_the_rounds_and_another_one_when_it_ends() {
    let platform = TestPlatform::new().unwrap();
    let _passing = platform.let_time_pass();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let first = started(&platform, &store).await;
    first.create_app(&hello(), &me()).await.unwrap();
    TestPlatform::deploy(&first, &hello(), WEB).await.unwrap().succeeded().await.unwrap();
    let maker_before = maker(&store).await;
    let second = started(&platform, &store).await;
    tokio::time::sleep(platform.options().poll * ROUNDS).await;
    assert_eq!(maker(&store).await, maker_before, "it stays with the one that has it");

    // Nobody hints at what is gone: only a look at all apps finds it.
    platform.world.reboot();
    becomes_sound(&platform, &second).await;
    assert_eq!(maker(&store).await, maker_before);

    first.shutdown().await;
    platform.world.reboot();
    becomes_sound(&platform, &second).await;
    assert_ne!(maker(&store).await, maker_before);
    second.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_dies_leaves_the_rounds_to_another_one() {
    let platform = TestPlatform::new().unwrap();
    let _passing = platform.let_time_pass();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    // Its lease is there, and nobody prolongs it.
    assert!(store.lease("round", "a dead engine", platform.options().poll * ROUNDS).await.unwrap());
    let engine = started(&platform, &store).await;
    engine.create_app(&hello(), &me()).await.unwrap();
    TestPlatform::deploy(&engine, &hello(), WEB).await.unwrap().succeeded().await.unwrap();
    platform.world.reboot();
    becomes_sound(&platform, &engine).await;
    assert_ne!(maker(&store).await, "a dead engine");
    engine.shutdown().await;
}
