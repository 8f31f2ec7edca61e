//! Local processes keep every promise of the runtime's contract.

mod world;

use world::World;

#[tokio::test(flavor = "multi_thread")]
async fn local_processes_keep_the_contract() {
    let world = World::new();
    paas_core::testkit::runtime::conformance(&world).await;
}
