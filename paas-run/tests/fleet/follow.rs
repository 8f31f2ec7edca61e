//! Proxies that follow the routes of the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use paas_core::testkit::world::TestPlatform;

use crate::platform::{Fleet, Users, deploy, hello, me};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn constant_deploys_beside_a_proxy_that_is_always_late_lose_no_request() {
    let Some(fleet) = Fleet::new().await else { return };
    let engine = fleet.engine().await;
    engine.create_app(&hello(), &me()).await.unwrap();
    let url = fleet.server.url();
    let (quick, late) = (fleet.proxy(&url, LONG).await, fleet.proxy(&url, LONG).await);
    let live = Arc::new(AtomicU32::new(deploy(&engine, "web: first\n").await));
    late.slow.pause.store(100, Ordering::SeqCst);
    let users = [Users::of(&quick, &live), Users::of(&late, &live)];
    for round in 0..15 {
        live.store(deploy(&engine, &format!("web: {round}\n")).await, Ordering::SeqCst);
    }
    for users in users {
        assert!(users.end().await > 0);
    }
    assert_eq!(fleet.machines.releases(), 1, "only the live release runs");
    quick.stop().await;
    late.stop().await;
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_release_runs_until_the_last_proxy_has_the_new_routes() {
    let Some(fleet) = Fleet::new().await else { return };
    let engine = fleet.engine().await;
    engine.create_app(&hello(), &me()).await.unwrap();
    let url = fleet.server.url();
    let (quick, late) = (fleet.proxy(&url, LONG).await, fleet.proxy(&url, LONG).await);
    deploy(&engine, "web: one\n").await;
    late.slow.open.send_replace(false);
    let second = TestPlatform::deploy(&engine, &hello(), "web: two\n").await.unwrap();
    quick.answers(200, "2").await;
    for _ in 0..50 {
        assert_eq!(late.get().await, (200, "1".into()), "what it knows still runs");
    }
    assert!(!second.state().await.unwrap().state.is_ended());
    late.slow.open.send_replace(true);
    second.succeeded().await.unwrap();
    assert_eq!(late.get().await, (200, "2".into()));
    assert_eq!(fleet.machines.releases(), 1);
    quick.stop().await;
    late.stop().await;
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_cut_off_from_the_store_serves_nobody_after_its_lease_and_comes_back_by_itself() {
    let Some(fleet) = Fleet::new().await else { return };
    let engine = fleet.engine().await;
    engine.create_app(&hello(), &me()).await.unwrap();
    // It reaches the database as a user of its own, who can be locked out.
    let role = format!("edge_{}", uuid::Uuid::new_v4().simple());
    fleet.server.execute(&format!("CREATE ROLE {role} SUPERUSER LOGIN")).await.unwrap();
    let url = fleet.server.url().replacen("paas@", &format!("{role}@"), 1);
    let edge = fleet.proxy(&url, Duration::from_secs(2)).await;
    let near = fleet.proxy(&fleet.server.url(), LONG).await;
    let live = Arc::new(AtomicU32::new(deploy(&engine, "web: one\n").await));
    edge.answers(200, "1").await;
    let users = Users::of(&near, &live);

    fleet.server.execute(&format!("ALTER ROLE {role} NOLOGIN")).await.unwrap();
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
    fleet.server.execute(&end).await.unwrap();
    live.store(deploy(&engine, "web: two\n").await, Ordering::SeqCst);
    let (status, body) = edge.get().await;
    assert_eq!(status, 503, "the old release is gone, and it does not try: {body}");
    live.store(deploy(&engine, "web: three\n").await, Ordering::SeqCst);

    fleet.server.execute(&format!("ALTER ROLE {role} LOGIN")).await.unwrap();
    edge.follower.serves().await;
    edge.answers(200, "3").await;
    live.store(deploy(&engine, "web: four\n").await, Ordering::SeqCst);
    assert_eq!(edge.get().await, (200, "4".into()));
    assert!(users.end().await > 0);
    edge.stop().await;
    near.stop().await;
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_app_is_gone_from_every_proxy_and_its_name_leads_to_its_next_life() {
    let Some(fleet) = Fleet::new().await else { return };
    let engine = fleet.engine().await;
    engine.create_app(&hello(), &me()).await.unwrap();
    deploy(&engine, "web: one\n").await;
    let proxy = fleet.proxy(&fleet.server.url(), LONG).await;
    proxy.answers(200, "1").await;
    engine.destroy_app(&hello(), &me()).await.unwrap().succeeded().await.unwrap();
    proxy.answers(404, "").await;
    engine.create_app(&hello(), &me()).await.unwrap();
    deploy(&engine, "web: again\n").await;
    assert_eq!(proxy.get().await, (200, "1".into()), "the first release of its new life");
    proxy.stop().await;
    engine.shutdown().await;
}
