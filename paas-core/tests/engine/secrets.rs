//! No secret is ever shown.

use std::sync::Arc;

use futures_util::StreamExt;
use paas_core::store::{ListQuery, SqliteStore, Table};
use paas_core::testkit::world::TestPlatform;
use paas_core::vault::MasterKey;
use paas_core::{ConfigEdit, ConfigVars, ErrorCode, LogQuery, Store, Vault};

use crate::{WEB, hello, me};

const CANARY: &str = "canary-hunter2-hunter2";

#[tokio::test]
async fn invariant_9_a_config_value_is_in_no_row_event_log_error_debug_or_file() {
    let platform = TestPlatform::new().unwrap();
    let file = platform.dir().join("paas.db");
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&file, platform.clock()).unwrap());
    let engine = platform.engine(store.clone()).unwrap().build().unwrap();
    let _passing = platform.let_time_pass();
    engine.start().await.unwrap();
    engine.create_app(&hello(), &me()).await.unwrap();
    let vars = ConfigVars::new().with("SECRET", CANARY).unwrap();
    let edit = ConfigEdit::set(vars);
    let shown = format!("{edit:?}");
    engine.configure(&hello(), edit, &me()).await.unwrap().succeeded().await.unwrap();
    TestPlatform::deploy(&engine, &hello(), WEB).await.unwrap().succeeded().await.unwrap();
    platform.world.crash("web");
    let code = "web: other\n---\n{\"addons\":[{\"service\":\"fakesql\",\"plan\":null,\"attachment\":null}]}";
    let failed = TestPlatform::deploy(&engine, &hello(), code).await.unwrap();
    let error = failed.succeeded().await.unwrap_err();

    let mut seen = vec![shown, format!("{error:?} {error}"), format!("{engine:?}")];
    for table in Table::ALL {
        for row in store.list(*table, &ListQuery::all()).await.unwrap() {
            seen.push(row.body);
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
    for text in &seen {
        assert!(!text.contains(CANARY), "{text}");
    }
    engine.shutdown().await;
    for entry in std::fs::read_dir(platform.dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
            assert!(!found, "{}", path.display());
        }
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
