//! Every store of this crate passes the public suite.

use paas_core::store::MemoryStore;
use paas_core::testkit::store::conformance;

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_store_keeps_the_contract() {
    conformance(async |clock| MemoryStore::new(clock)).await;
}
