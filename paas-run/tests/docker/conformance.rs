//! Containers keep every promise of the runtime's contract, with images and with slugs.

use crate::support::{Kind, World};

#[tokio::test(flavor = "multi_thread")]
async fn images_in_containers_keep_the_contract() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    paas_core::testkit::runtime::conformance(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slugs_in_containers_keep_the_contract() {
    let Some(world) = World::shared(Kind::Slug).await else { return };
    paas_core::testkit::runtime::conformance(&world).await;
}
