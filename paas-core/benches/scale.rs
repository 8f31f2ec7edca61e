//! Whether cost grows with the number of apps and of engines: claims and workflows per second with 1, 2, 4 and 8 engines' stores
//! on one platform; how long an engine takes to start and to claim its first work among many apps with ten releases each;
//! events read per second by cursor.
//!
//! `cargo bench -p paas-core --bench scale --all-features [-- STORE… APPS…]`: `sqlite` and `postgres`, with 10, 1,000, 10,000
//! and 100,000 apps where nothing is said. The server syncs as for real; the file lies in `TMPDIR`. The limit is one fsync
//! a transaction, shared by all that wait for one.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program that prints figures"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use paas_core::store::{
    ClaimRequest, Expect, Fence, NewEvent, PostgresOptions, PostgresStore, QueueEntry, QueueState, Row,
    SqliteStore, Store, Table, Transaction, Write,
};
use paas_core::testkit::postgres::PostgresServer;
use paas_core::testkit::world::TestPlatform;
use paas_core::{AppId, AppName, AppRoutes, KindName, OwnerId, Principal, SystemClock, WorkflowId};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const ENGINES: [usize; 4] = [1, 2, 4, 8];
/// How many workflows an engine works on at once.
const AT_ONCE: usize = 16;
const WORKFLOWS: usize = 500;
/// How long an engine waits for a change before it looks again.
const POLL: Duration = Duration::from_millis(50);
/// What a deploy commits between its claim and its end.
const CHECKPOINTS: usize = 9;
const RELEASES: usize = 10;

enum Place {
    File(PathBuf),
    Server(PostgresServer, String),
}

impl Place {
    async fn open(&self) -> Arc<dyn Store> {
        let clock = Arc::new(SystemClock::new());
        match self {
            Self::File(path) => Arc::new(SqliteStore::open(path, clock).unwrap()),
            Self::Server(server, schema) => {
                let options = PostgresOptions::default().schema(schema);
                Arc::new(PostgresStore::connect_with(&server.url(), options, clock).await.unwrap())
            }
        }
    }
}

#[tokio::main]
async fn main() {
    let said: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let mut apps: Vec<usize> = said.iter().filter_map(|arg| arg.parse().ok()).collect();
    let mut stores: Vec<&str> =
        said.iter().map(String::as_str).filter(|arg| arg.parse::<usize>().is_err()).collect();
    if apps.is_empty() {
        apps = vec![10, 1_000, 10_000, 100_000];
    }
    if stores.is_empty() {
        stores = vec!["sqlite", "postgres"];
    }
    for name in stores {
        for apps in &apps {
            let dir = tempfile::tempdir().unwrap();
            let place = match name {
                "postgres" => Place::Server(PostgresServer::start().await.unwrap(), "paas".into()),
                _ => Place::File(dir.path().join("paas.db")),
            };
            measure(name, &place, *apps).await;
        }
    }
}

async fn measure(name: &str, place: &Place, apps: usize) {
    let store = place.open().await;
    let platform = TestPlatform::new().unwrap();
    fill(&platform, &store, apps).await;
    for engines in ENGINES {
        let claims = run(place, &store, apps, engines, 0).await;
        let workflows = run(place, &store, apps, engines, CHECKPOINTS).await;
        println!(
            "{name} {apps:>6} apps, {engines} engines: {claims:>6.0} claims/s, {workflows:>5.0} workflows/s"
        );
    }
    let (started, ended) = start(&platform, &store).await;
    println!(
        "{name} {apps:>6} apps, {} releases: start {started:.3} s, first work claimed after {ended:.3} s",
        apps * RELEASES
    );
    println!("{name} {apps:>6} apps: {:>7.0} events/s by cursor", events(&store).await);
}

async fn write(store: &Arc<dyn Store>, writes: Vec<Write>) {
    for some in writes.chunks(2_000) {
        let transaction = some.iter().cloned().fold(Transaction::new(), Transaction::write);
        store.commit(transaction).await.unwrap();
    }
}

/// Apps as the engine makes them, each with its routes and releases.
async fn fill(platform: &TestPlatform, store: &Arc<dyn Store>, apps: usize) {
    let (by, model) = (Principal::platform(), AppName::new("model").unwrap());
    let engine = platform.engine(store.clone()).unwrap().build().unwrap();
    engine.start().await.unwrap();
    engine.create_app(&model, &by).await.unwrap();
    engine.shutdown().await;
    let row = store.get(Table::Apps, "model").await.unwrap().unwrap();
    let mut body: Value = serde_json::from_str(&row.body).unwrap();
    for number in (0..apps).collect::<Vec<_>>().chunks(1_000) {
        let mut writes = Vec::new();
        for number in number {
            let (name, id) = (AppName::new(format!("app-{number}")).unwrap(), AppId::new());
            (body["name"], body["id"]) = (json!(name), json!(id));
            writes.push(Write::put(Table::Apps, name.as_str(), "", Expect::Any, body.to_string()));
            let routes = serde_json::to_string(&AppRoutes::new(name.clone(), id, 1)).unwrap();
            writes.push(Write::put(Table::Routes, name.as_str(), "", Expect::Any, routes));
            for release in 0..RELEASES {
                let key = format!("{id}/{release:010}");
                writes.push(Write::put(Table::Releases, key, id.to_string(), Expect::Any, "x".repeat(500)));
            }
        }
        write(store, writes).await;
    }
}

fn kind() -> KindName {
    KindName::new("bench").unwrap()
}

fn put(key: &str, subject: &str, state: QueueState) -> Write {
    let mut entry = QueueEntry::queued(subject, kind(), 1);
    entry.state = state;
    Write::put(Table::Workflows, key, subject, Expect::Any, "x".repeat(1_000)).standing(entry)
}

/// How many workflows end in a second, each claimed, written down so often, and ended.
async fn run(place: &Place, store: &Arc<dyn Store>, apps: usize, engines: usize, checkpoints: usize) -> f64 {
    let queued = (0..WORKFLOWS).map(|number| {
        let subject = format!("app/app-{}", number % apps);
        put(&WorkflowId::new().to_string(), &subject, QueueState::Queued)
    });
    write(store, queued.collect()).await;
    let done = Arc::new(AtomicUsize::new(0));
    let mut stores = Vec::new();
    for _ in 0..engines {
        stores.push(place.open().await);
    }
    let began = Instant::now();
    let mut engines = JoinSet::new();
    for store in stores {
        engines.spawn(engine(store, done.clone(), checkpoints));
    }
    while let Some(engine) = engines.join_next().await {
        engine.unwrap();
    }
    WORKFLOWS as f64 / began.elapsed().as_secs_f64()
}

/// Claims as an engine's dispatcher does: one claim at a time, and when there is nothing, it waits for a change.
async fn engine(store: Arc<dyn Store>, done: Arc<AtomicUsize>, checkpoints: usize) {
    let request = ClaimRequest::new(OwnerId::new(), Duration::from_secs(600), vec![(kind(), 1)]);
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut changes = store.queue_changes();
    let mut tasks = JoinSet::new();
    while done.load(Ordering::Relaxed) < WORKFLOWS {
        let slot = slots.clone().acquire_owned().await.unwrap();
        changes.mark_unchanged();
        if let Some(row) = store.claim(&request).await.unwrap() {
            let (store, done) = (store.clone(), done.clone());
            tasks.spawn(async move {
                work(&store, row, checkpoints).await;
                done.fetch_add(1, Ordering::Relaxed);
                drop(slot);
            });
        } else {
            // The last one ends while nobody writes any more.
            let _ = timeout(POLL, changes.changed()).await;
        }
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
}

async fn work(store: &Arc<dyn Store>, row: Row, checkpoints: usize) {
    let queue = row.queue.unwrap();
    let subject = queue.entry.subject;
    let fence = Fence::new(row.key.parse().unwrap(), queue.owner.unwrap(), queue.fence);
    for checkpoint in 0..=checkpoints {
        let state = if checkpoint == checkpoints { QueueState::Ended } else { QueueState::Active };
        let event = NewEvent::new(subject.clone(), "x".repeat(200));
        let tx = Transaction::new().fenced(fence).write(put(&row.key, &subject, state)).event(event);
        store.commit(tx).await.unwrap();
    }
}

/// How long until an engine has started, and until it has claimed what waited.
async fn start(platform: &TestPlatform, store: &Arc<dyn Store>) -> (f64, f64) {
    let model = AppName::new("model").unwrap();
    let before = platform.engine(store.clone()).unwrap().build().unwrap();
    let waits = TestPlatform::deploy(&before, &model, "web: serve\n").await.unwrap();
    let began = Instant::now();
    let engine = platform.engine(store.clone()).unwrap().build().unwrap();
    engine.start().await.unwrap();
    let started = began.elapsed().as_secs_f64();
    while engine.workflow(waits.id()).state().await.unwrap().state == paas_core::WorkflowState::Queued {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let claimed = began.elapsed().as_secs_f64();
    engine.shutdown().await;
    (started, claimed)
}

async fn events(store: &Arc<dyn Store>) -> f64 {
    let (began, mut read, mut cursor) = (Instant::now(), 0, 0);
    loop {
        let page = store.events(cursor, None, 500).await.unwrap();
        let Some(last) = page.last() else { break };
        (read, cursor) = (read + page.len(), last.seq);
    }
    read as f64 / began.elapsed().as_secs_f64()
}
