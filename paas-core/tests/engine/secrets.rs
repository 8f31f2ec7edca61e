//! No secret is ever shown.

use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use paas_core::store::{ListQuery, SqliteStore, Table};
use paas_core::testkit::world::TestPlatform;
use paas_core::vault::MasterKey;
use paas_core::{ConfigEdit, ConfigVars, ErrorCode, LogQuery, Store, Vault};

use crate::{WEB, hello, me};

const CANARY: &str = "canary-hunter2-hunter2";

/// Everything that the engine says by `tracing` on this thread: spans with all their fields when they open and close, and
/// events of every level.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Vec<u8>>>);

impl Recorded {
    fn begin(&self) -> tracing::subscriber::DefaultGuard {
        let to = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(move || to.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Recorded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sets a config var, deploys, fails, binds an add-on, changes the master key, and gives everything that could be seen.
async fn all_that_is_seen(platform: &TestPlatform, store: &Arc<dyn Store>) -> Vec<String> {
    let recorded = Recorded::default();
    let recording = recorded.begin();
    let old = MasterKey::generate().unwrap();
    let first = platform.engine(store.clone()).unwrap().with_vault(Vault::new(old.clone())).build().unwrap();
    first.start().await.unwrap();
    first.create_app(&hello(), &me()).await.unwrap();
    let edit = ConfigEdit::set(ConfigVars::new().with("SECRET", CANARY).unwrap());
    let mut seen = vec![format!("{edit:?}")];
    first.configure(&hello(), edit, &me()).await.unwrap().succeeded().await.unwrap();
    TestPlatform::deploy(&first, &hello(), WEB).await.unwrap().succeeded().await.unwrap();
    first.shutdown().await;

    let keys = Vault::new(MasterKey::generate().unwrap()).with_older(old);
    let engine = platform.engine(store.clone()).unwrap().with_vault(keys).build().unwrap();
    engine.start().await.unwrap();
    engine.rotate_key(&me()).await.unwrap().succeeded().await.unwrap();
    platform.world.crash("web");
    let code = "web: other\n---\n{\"addons\":[{\"service\":\"fakesql\",\"plan\":null,\"attachment\":null}]}";
    let failed = TestPlatform::deploy(&engine, &hello(), code).await.unwrap();
    let error = failed.succeeded().await.unwrap_err();

    seen.extend([format!("{error:?} {error}"), format!("{engine:?}")]);
    for table in Table::ALL {
        for row in store.list(*table, &ListQuery::all()).await.unwrap() {
            seen.push(format!("{row:?}"));
        }
    }
    for event in engine.events(0, None, 10_000).await.unwrap() {
        seen.push(format!("{event:?} {}", serde_json::to_string(&event).unwrap()));
    }
    let log: Vec<_> = engine.read_log(&hello(), LogQuery::all()).await.unwrap().collect().await;
    assert!(
        log.iter().any(|line| line.text.contains("SECRET=[redacted]")),
        "the build did print it: {log:#?}"
    );
    seen.extend(log.iter().map(ToString::to_string));
    seen.push(format!("{:?}", engine.app(&hello()).await.unwrap()));
    seen.push(format!("{:?}", engine.releases(&hello()).await.unwrap()));
    seen.push(format!("{:?}", engine.config(&hello()).await.unwrap()));
    seen.push(format!("{:?}", platform.world.instances()));
    engine.shutdown().await;
    drop(recording);
    let spans = recorded.text();
    assert!(spans.contains("step.name"), "spans are recorded: {spans}");
    seen.push(spans);
    seen
}

#[tokio::test]
async fn invariant_9_a_config_value_is_in_no_row_event_log_error_debug_span_or_file() {
    let platform = TestPlatform::new().unwrap();
    let file = platform.dir().join("paas.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&file, platform.clock()).unwrap());
    let _passing = platform.let_time_pass();
    for text in all_that_is_seen(&platform, &store).await {
        assert!(!text.contains(CANARY), "{text}");
    }
    for entry in std::fs::read_dir(platform.dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}

#[cfg(feature = "store-postgres")]
#[tokio::test]
async fn invariant_9_a_config_value_is_in_no_row_of_postgresql() {
    use paas_core::testkit::postgres::{ClockedStore, PostgresServer};
    let Some(server) = PostgresServer::shared().await else { return };
    let platform = TestPlatform::new().unwrap();
    let store = ClockedStore::connect(&server, &server.new_schema(), platform.clock()).await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let _passing = platform.let_time_pass();
    for text in all_that_is_seen(&platform, &store).await {
        assert!(!text.contains(CANARY), "{text}");
    }
}

#[tokio::test]
async fn another_master_key_is_refused_at_start_with_what_to_do() {
    let platform = TestPlatform::new().unwrap();
    let store: Arc<dyn Store> = Arc::new(paas_core::store::MemoryStore::new(platform.clock()));
    let engine = platform.engine(store.clone()).unwrap().build().unwrap();
    engine.start().await.unwrap();
    engine.shutdown().await;
    let other = Vault::new(MasterKey::generate().unwrap());
    let engine = platform.engine(store).unwrap().with_vault(other).build().unwrap();
    let error = engine.start().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::WrongKey);
    assert!(error.to_string().contains("key file"), "{error}");
}
