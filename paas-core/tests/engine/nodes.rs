//! Engines whose processes only they can see: an app's work is done on its node, and a lost node is named.

use std::sync::Arc;
use std::time::Duration;

use paas_core::store::{MemoryStore, Table};
use paas_core::testkit::world::{FakeRuntime, TestPlatform, check};
use paas_core::{Engine, ErrorCode, EventKind, Remedy, Store, WaitsFor, WorkflowId};

use crate::{WEB, hello, me};

struct Nodes {
    platform: TestPlatform,
    store: Arc<dyn Store>,
}

impl Nodes {
    fn new() -> Self {
        let platform = TestPlatform::new().unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
        Self { platform, store }
    }

    async fn engine(&self, name: &str) -> Engine {
        let mut parts = self.platform.parts().unwrap();
        parts.runtime = Arc::new(FakeRuntime::new(&self.platform.world).on(name.parse().unwrap()));
        let engine = self.platform.engine_of(self.store.clone(), parts).unwrap().build().unwrap();
        engine.start().await.unwrap();
        engine
    }

    /// The nodes that something runs on.
    fn used(&self) -> Vec<String> {
        let instances = self.platform.world.instances();
        let mut used: Vec<String> =
            instances.iter().filter_map(|i| i.metadata.get("node").cloned()).collect();
        used.dedup();
        used
    }

    async fn looks(&self, workflow: WorkflowId) -> u64 {
        self.store.get(Table::Workflows, &workflow.to_string()).await.unwrap().unwrap().rev
    }

    async fn until(&self, holds: impl AsyncFn() -> bool) {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn is_sound(&self, engine: &Engine) {
        let sound = async || check(&self.platform.world, engine, &hello()).await.unwrap().is_empty();
        self.until(sound).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_an_app_is_done_on_its_node_whoever_was_asked() {
    let nodes = Nodes::new();
    let _passing = nodes.platform.let_time_pass();
    let (here, other) = (nodes.engine("here").await, nodes.engine("other").await);
    here.create_app(&hello(), &me()).await.unwrap();
    TestPlatform::deploy(&here, &hello(), WEB).await.unwrap().succeeded().await.unwrap();
    let home = here.app(&hello()).await.unwrap().node.unwrap();
    for round in 0..4 {
        let code = format!("web: {round}\n");
        TestPlatform::deploy(&other, &hello(), &code).await.unwrap().succeeded().await.unwrap();
        assert_eq!(nodes.used(), [home.to_string()]);
    }
    other.set_maintenance(&hello(), true, &me()).await.unwrap();
    other.set_maintenance(&hello(), false, &me()).await.unwrap();
    nodes.is_sound(&other).await;
    here.shutdown().await;
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_lost_node_could_do_is_shown_and_goes_on_when_it_is_back() {
    let nodes = Nodes::new();
    let _passing = nodes.platform.let_time_pass();
    let lost = nodes.engine("lost").await;
    lost.create_app(&hello(), &me()).await.unwrap();
    TestPlatform::deploy(&lost, &hello(), WEB).await.unwrap().succeeded().await.unwrap();
    lost.shutdown().await;

    let peer = nodes.engine("peer").await;
    let deploy = TestPlatform::deploy(&peer, &hello(), "web: two\n").await.unwrap();
    nodes.until(async || nodes.looks(deploy.id()).await > 6).await;
    nodes
        .until(async || {
            let told = peer.explain(&hello()).await.unwrap();
            let Some(open) = told.open.first() else { return false };
            let WaitsFor::Look { why, .. } = &open.waits_for else { return false };
            assert!(why.starts_with("lost, where its processes are"), "{why}");
            assert_eq!(open.remedies, [Remedy::Retry, Remedy::Cancel]);
            assert_eq!(told.processes[0].up, 0);
            assert!(told.processes[0].reason.as_ref().unwrap().contains("lost"), "{told}");
            true
        })
        .await;
    let events = peer.events(0, Some(&hello()), 1000).await.unwrap();
    let held = events.iter().filter(|event| matches!(event.kind, EventKind::Held { .. })).count();
    assert_eq!(held, 1, "it is said once, however often somebody looks");
    assert_eq!(nodes.used(), ["lost"], "nothing of it was begun elsewhere");
    assert_eq!(nodes.platform.world.routes(&hello()).unwrap().backends.len(), 1, "its routes are kept");

    let back = nodes.engine("lost").await;
    deploy.succeeded().await.unwrap();
    assert_eq!(nodes.used(), ["lost"]);
    nodes.is_sound(&peer).await;
    back.shutdown().await;
    peer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_moves_away_from_a_lost_node_which_ends_its_processes_when_it_is_back() {
    let nodes = Nodes::new();
    let _passing = nodes.platform.let_time_pass();
    let lost = nodes.engine("lost").await;
    lost.create_app(&hello(), &me()).await.unwrap();
    TestPlatform::deploy(&lost, &hello(), WEB).await.unwrap().succeeded().await.unwrap();
    let peer = nodes.engine("peer").await;
    let refused = peer.move_here(&hello(), &me()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Conflict, "{refused}");
    lost.shutdown().await;

    let deploy = TestPlatform::deploy(&peer, &hello(), "web: two\n").await.unwrap();
    peer.move_here(&hello(), &me()).await.unwrap();
    deploy.succeeded().await.unwrap();
    let world = &nodes.platform.world;
    let on_peer = || world.instances().iter().filter(|i| i.metadata["node"] == "peer").count();
    nodes.until(async || on_peer() == 1).await;
    assert_eq!(world.instances().len(), 2, "the lost node still runs what it ran");

    let back = nodes.engine("lost").await;
    nodes.until(async || nodes.used() == ["peer"]).await;
    nodes.is_sound(&back).await;
    back.shutdown().await;
    peer.shutdown().await;
}
