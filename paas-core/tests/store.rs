//! Every store of this crate passes the public suite and agrees with the model.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test does")]

#[cfg(all(feature = "store-postgres", feature = "sqlite"))]
#[path = "store/differences.rs"]
mod differences;
#[cfg(any(feature = "store-postgres", feature = "sqlite"))]
#[path = "store/peers.rs"]
mod peers;
#[cfg(feature = "store-postgres")]
#[path = "store/postgres.rs"]
mod postgres;
#[cfg(feature = "sqlite")]
#[path = "store/sqlite.rs"]
mod sqlite;

use paas_core::store::MemoryStore;
use paas_core::testkit::store::{agrees_with_memory, conformance};

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_keeps_the_contract() {
    conformance(async |clock| MemoryStore::new(clock)).await;
}

#[tokio::test]
async fn the_model_agrees_with_itself() {
    agrees_with_memory(async |clock| MemoryStore::new(clock), 1, 5_000).await;
}
