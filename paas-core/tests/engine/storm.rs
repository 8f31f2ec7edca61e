//! Storms on every store.

use std::sync::Arc;
use std::time::Duration;

use paas_core::Store;
use paas_core::store::{MemoryStore, SqliteStore};
use paas_core::testkit::seeds;
use paas_core::testkit::storm::Storm;
use paas_core::testkit::world::TestPlatform;

/// `PAAS_SEED=7` replays a storm, `PAAS_ROUNDS=5000` lets so many rage.
#[test]
fn no_promise_is_broken_in_a_storm_of_faults_freezes_and_deaths() {
    for seed in seeds(40) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let platform = TestPlatform::new().unwrap();
            let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
            Storm::new(seed).over(&platform, async || store.clone(), || platform.parts()).await;
        });
    }
}

/// Where time really passes; a lease that a busy machine loses is one more fault.
async fn rage(seed: u64, store: impl AsyncFn(&TestPlatform) -> Arc<dyn Store>) {
    let platform = TestPlatform::new().unwrap();
    let storm = Storm::new(seed).in_real_time(LEASE).with_wishes(30);
    storm.over(&platform, async || store(&platform).await, || platform.parts()).await;
}

const LEASE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn no_promise_is_broken_in_a_storm_on_disk() {
    for seed in seeds(1) {
        rage(seed, async |platform| {
            let store = SqliteStore::open(platform.dir().join("paas.db"), platform.clock());
            Arc::new(store.unwrap()) as Arc<dyn Store>
        })
        .await;
    }
}

#[cfg(feature = "store-postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn no_promise_is_broken_in_a_storm_in_postgresql() {
    use paas_core::testkit::postgres::{ClockedStore, PostgresServer};
    let Some(server) = PostgresServer::shared().await else { return };
    for seed in seeds(1) {
        let schema = server.new_schema();
        rage(seed, async |platform| {
            let store = ClockedStore::connect(&server, &schema, platform.clock()).await;
            Arc::new(store.unwrap()) as Arc<dyn Store>
        })
        .await;
    }
}
