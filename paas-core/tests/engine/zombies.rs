//! An engine freezes at some call for longer than its lease, another one takes over, and the first thaws.

use std::sync::Arc;
use std::time::Duration;

use paas_core::store::{ListQuery, MemoryStore, Store, Table};
use paas_core::testkit::chaos::{Chaos, Rates, Side};
use paas_core::testkit::history::History;
use paas_core::testkit::world::{TestPlatform, check};
use paas_core::{Engine, WorkflowState};

use crate::{hello, me};

const OLD: &str = "web: old\nworker: work\n";
const NEW: &str =
    "web: new\nrelease: migrate\nclock: tick\n---\n{\"formation\":{\"clock\":{\"single\":true}}}";

/// Every call by which a deploy touches the world, and those by which it writes.
const CALLS: &[&str] = &[
    "fetch", "put", "detect", "build", "run_once", "ensure", "observe", "apply", "drain", "retire", "commit",
];

/// Everything that engines have written, leases apart.
async fn written(store: &dyn Store) -> Vec<String> {
    let mut all = Vec::new();
    for table in Table::ALL {
        let rows = store.list(*table, &ListQuery::all()).await.unwrap();
        all.extend(rows.into_iter().map(|row| format!("{table:?} {row:?}")));
    }
    all.extend(store.events(0, None, usize::MAX).await.unwrap().into_iter().map(|event| event.body));
    all
}

async fn rests(engine: &Engine) {
    while !engine.open_workflows(&paas_core::Subject::App(hello())).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The zombie freezes at the `number`th such call of a deploy. False once there are fewer.
async fn thaws_after_a_takeover(call: &'static str, side: Side, number: u64, deploys_after: bool) -> bool {
    let platform = TestPlatform::new().unwrap();
    let _passing = platform.let_time_pass();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let mut options = platform.options();
    options.poll = Duration::from_secs(1);
    let chaos = Chaos::new(1).with_rates(Rates::none());
    let zombie = platform.engine_of(chaos.store(store.clone()), chaos.around(platform.parts().unwrap()));
    let zombie = zombie.unwrap().with_options(options.clone()).build().unwrap();
    zombie.start().await.unwrap();
    zombie.create_app(&hello(), &me()).await.unwrap();
    TestPlatform::deploy(&zombie, &hello(), OLD).await.unwrap().succeeded().await.unwrap();

    let peer = platform.engine(store.clone()).unwrap().with_options(options.clone()).build().unwrap();
    let id = TestPlatform::deploy(&peer, &hello(), NEW).await.unwrap().id();
    chaos.freeze_at(call, side, number);
    let ended = async {
        peer.workflow(id).ended().await.unwrap();
        // What follows by itself, such as the heartbeat.
        tokio::time::sleep(options.lease).await;
    };
    tokio::select! {
        () = chaos.frozen() => {}
        () = ended => return false,
    }
    peer.start().await.unwrap();
    let at = format!("frozen {side:?} {call} {number}");
    let ended = peer.workflow(id).ended().await.unwrap();
    assert_eq!(ended.state, WorkflowState::Succeeded, "{at}: {:?}", ended.failure);
    rests(&peer).await;
    if deploys_after {
        TestPlatform::deploy(&peer, &hello(), "web: newest\n").await.unwrap().succeeded().await.unwrap();
    }
    // The peer's reconciler has its last word, too.
    tokio::time::sleep(options.poll * 60).await;
    let (rows, routes) = (written(store.as_ref()).await, platform.world.routes(&hello()));

    chaos.thaw();
    tokio::time::sleep(options.poll * 60).await;
    assert_eq!(written(store.as_ref()).await, rows, "{at}: the zombie wrote");
    assert_eq!(platform.world.routes(&hello()), routes, "{at}: the zombie routed");
    let wrong = check(&platform.world, &peer, &hello()).await.unwrap();
    assert_eq!(wrong, [], "{at}: {:#?}", platform.world.history());
    let twice = platform.repeated();
    let once = |effect: &String| effect.starts_with("run ") || effect.starts_with("start ");
    assert!(!twice.keys().any(once), "{at}: {twice:?}");
    let history = History::read(store.as_ref()).await.unwrap().ran(platform.world.release_phases());
    assert_eq!(history.check(), [], "{at}");
    // It is an engine as good as any other again.
    peer.shutdown().await;
    TestPlatform::deploy(&zombie, &hello(), "web: last\n").await.unwrap().succeeded().await.unwrap();
    zombie.shutdown().await;
    true
}

/// Every place of a deploy, once with a newer deploy before the thaw and once without.
async fn everywhere(side: Side) {
    let mut frozen = 0;
    for call in CALLS {
        let mut number = 1;
        while thaws_after_a_takeover(call, side, number, number % 2 == 0).await {
            frozen += 1;
            number += 1;
        }
        assert!(number > 1, "a deploy calls {call}");
    }
    println!("frozen at {frozen} places");
}

#[tokio::test(start_paused = true)]
async fn a_zombie_that_froze_before_a_call_writes_nothing_and_routes_nothing_back() {
    everywhere(Side::Before).await;
}

#[tokio::test(start_paused = true)]
async fn a_zombie_that_froze_after_a_call_writes_nothing_and_routes_nothing_back() {
    everywhere(Side::After).await;
}
