//! A new master key, while the platform works.

use std::sync::Arc;
use std::time::Duration;

use paas_core::store::MemoryStore;
use paas_core::testkit::world::TestPlatform;
use paas_core::testkit::{Cut, CutStore};
use paas_core::vault::KeyFile;
use paas_core::{
    AppName, ConfigEdit, ConfigVars, Engine, ErrorCode, EventKind, Result, Store, Vault, WorkflowState,
};
use tokio::runtime::Runtime;

use crate::{WEB, hello, me};

/// A platform whose master keys are in a file, on each machine its own.
struct Keys {
    platform: TestPlatform,
    store: Arc<dyn Store>,
}

impl Keys {
    fn new() -> Self {
        let platform = TestPlatform::new().unwrap();
        let store = Arc::new(MemoryStore::new(platform.clock()));
        Self { platform, store }
    }

    fn file(&self, machine: &str) -> KeyFile {
        KeyFile::new(self.platform.dir().join(machine))
    }

    /// Gives a machine the file of another one.
    fn copy(&self, from: &str, to: &str) {
        std::fs::copy(self.platform.dir().join(from), self.platform.dir().join(to)).unwrap();
    }

    fn on(&self, machine: &str, store: Arc<dyn Store>) -> Engine {
        let mut options = self.platform.options();
        options.lease = Duration::from_millis(400);
        // Attempts last longer than an engine takes to look at its key file, and than its lease.
        options.max_backoff = options.lease;
        let vault = Vault::of_file(self.file(machine)).unwrap();
        let builder = self.platform.engine(store).unwrap().with_options(options).with_vault(vault);
        builder.build().unwrap()
    }

    async fn started(&self, machine: &str) -> Engine {
        let engine = self.on(machine, self.store.clone());
        engine.start().await.unwrap();
        engine
    }
}

fn vars() -> ConfigVars {
    ConfigVars::new().with("SECRET", "hunter2hunter2").unwrap()
}

async fn with_secrets(engine: &Engine, apps: usize) {
    engine.create_app(&hello(), &me()).await.unwrap();
    engine.configure(&hello(), ConfigEdit::set(vars()), &me()).await.unwrap();
    for n in 1..apps {
        engine.create_app(&AppName::new(format!("app-{n}")).unwrap(), &me()).await.unwrap();
    }
}

async fn rotated(engine: &Engine) -> Result<WorkflowState> {
    Ok(engine.rotate_key(&me()).await?.ended().await?.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_master_key_is_moved_to_beside_running_deploys_and_then_the_old_one_can_go() {
    let keys = Keys::new();
    let _passing = keys.platform.let_time_pass();
    let engine = keys.started("a").await;
    with_secrets(&engine, 120).await;
    let old = engine.key_state().await.unwrap().sealing;
    keys.copy("a", "old");
    assert_eq!(rotated(&engine).await.unwrap_err().code(), ErrorCode::InvalidParams, "there is no new key");

    let new = keys.file("a").add_key().unwrap();
    let deploys = async {
        for n in 0..10 {
            let code = format!("web: release {n}\n");
            TestPlatform::deploy(&engine, &hello(), &code).await.unwrap().succeeded().await.unwrap();
            engine.create_app(&AppName::new(format!("new-{n}")).unwrap(), &me()).await.unwrap();
        }
    };
    let (ended, ()) = tokio::join!(rotated(&engine), deploys);
    assert_eq!(ended.unwrap(), WorkflowState::Succeeded);

    let state = engine.key_state().await.unwrap();
    assert_eq!((&state.sealing, state.known.len(), state.behind), (&new, 2, 0));
    let events = engine.events(0, None, 10_000).await.unwrap();
    let wrapped: Vec<u64> = events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::KeysRewrapped { apps } => Some(apps),
            _ => None,
        })
        .collect();
    assert!(wrapped.len() >= 3 && wrapped.iter().sum::<u64>() >= 120, "progress is told: {wrapped:?}");
    let told = events.iter().any(|event| event.kind == EventKind::KeyRotated { key: new.clone() });
    assert!(told, "and the end");
    engine.shutdown().await;

    keys.file("a").drop_old_keys().unwrap();
    let after = keys.started("a").await;
    assert_eq!(after.config(&hello()).await.unwrap(), vars());
    TestPlatform::deploy(&after, &hello(), WEB).await.unwrap().succeeded().await.unwrap();
    after.shutdown().await;
    let error = keys.on("old", keys.store.clone()).start().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::WrongKey);
    assert!(error.message().contains(&old) && error.message().contains("rotated"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_know_the_new_key_is_named_and_nothing_is_sealed_that_it_cannot_open() {
    let keys = Keys::new();
    let _passing = keys.platform.let_time_pass();
    let one = keys.started("a").await;
    keys.copy("a", "b");
    let other = keys.started("b").await;
    with_secrets(&one, 3).await;
    let new = keys.file("a").add_key().unwrap();

    let failed = one.rotate_key(&me()).await.unwrap().ended().await.unwrap();
    assert_eq!(failed.state, WorkflowState::Failed);
    let failure = failed.failure.unwrap();
    assert!(failure.message.contains("(process ") && failure.message.contains(&new), "{failure:?}");
    assert_eq!(one.key_state().await.unwrap().behind, 0, "all is sealed as before");
    assert_eq!(other.config(&hello()).await.unwrap(), vars());

    // It learns the key while it works.
    keys.copy("a", "b");
    assert_eq!(rotated(&one).await.unwrap(), WorkflowState::Succeeded);
    for engine in [&one, &other] {
        assert_eq!(engine.key_state().await.unwrap().sealing, new);
        assert_eq!(engine.config(&hello()).await.unwrap(), vars());
    }
    let made = AppName::new("made-by-the-other").unwrap();
    other.create_app(&made, &me()).await.unwrap();
    assert_eq!(one.key_state().await.unwrap().behind, 0);
    one.shutdown().await;
    other.shutdown().await;
}

/// A rotation whose engine dies at its `k`th write. False once it ends before.
fn cut_at(k: u64, cut: Cut) -> bool {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let keys = Keys::new();
    runtime().block_on(async {
        let _passing = keys.platform.let_time_pass();
        let engine = keys.started("a").await;
        with_secrets(&engine, 3).await;
        engine.shutdown().await;
    });
    let new = keys.file("a").add_key().unwrap();
    let cutting = Arc::new(CutStore::new(keys.store.clone(), k, cut));
    let dying: Runtime = runtime();
    let was_cut = dying.block_on(async {
        let _passing = keys.platform.let_time_pass();
        let engine = keys.on("a", cutting.clone());
        let work = async {
            engine.start().await?;
            rotated(&engine).await
        };
        tokio::select! {
            ended = work => { assert_eq!(ended.unwrap(), WorkflowState::Succeeded); false }
            () = cutting.cut() => true,
        }
    });
    drop(dying);
    keys.platform.clock.advance(Duration::from_secs(60));
    runtime().block_on(async {
        let _passing = keys.platform.let_time_pass();
        let engine = keys.started("a").await;
        assert_eq!(engine.config(&hello()).await.unwrap(), vars(), "cut at write {k}, {cut:?}");
        match rotated(&engine).await {
            Ok(ended) => assert_eq!(ended, WorkflowState::Succeeded, "cut at write {k}, {cut:?}"),
            // It was over, or is by now.
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::InvalidParams, "cut at write {k}, {cut:?}: {error}");
            }
        }
        let state = engine.key_state().await.unwrap();
        assert_eq!((&state.sealing, state.behind), (&new, 0), "cut at write {k}, {cut:?}");
        engine.shutdown().await;
        keys.file("a").drop_old_keys().unwrap();
        let after = keys.started("a").await;
        assert_eq!(after.config(&hello()).await.unwrap(), vars(), "cut at write {k}, {cut:?}");
        after.shutdown().await;
    });
    was_cut
}

#[test]
fn a_power_cut_at_any_write_of_a_rotation_loses_no_secret_and_the_next_engine_ends_it() {
    for cut in [Cut::Lost, Cut::Unanswered] {
        let writes = (0..1000).take_while(|k| cut_at(*k, cut)).count();
        assert!(writes > 10, "only {writes} writes");
    }
}
