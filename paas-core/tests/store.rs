//! Every store of this crate passes the public suite.

use paas_core::store::MemoryStore;
use paas_core::testkit::store::conformance;

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_keeps_the_contract() {
    conformance(async |clock| MemoryStore::new(clock)).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn the_sqlite_store_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let made = std::sync::atomic::AtomicU32::new(0);
    conformance(async |clock| {
        let n = made.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        paas_core::store::SqliteStore::open(dir.path().join(format!("{n}.db")), clock).unwrap()
    })
    .await;
}
