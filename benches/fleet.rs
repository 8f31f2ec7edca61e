//! Three engines on one PostgreSQL store under constant deploys, while one of them, chosen at random, is killed every five
//! seconds; and the same without kills. Says how many promises were broken, how long what a dead engine worked on lay
//! still, and how many deploys ended in a second.
//!
//! Run: `cargo bench --bench fleet --features store-postgres [-- SECONDS [APPS]]`: 600 seconds each and 1,000 apps where
//! nothing is said. `PAAS_SEED=` repeats the choice of whom to kill.
//!
//! An engine is killed by dropping the runtime that all its tasks and connections are on, at whatever they wait for: it
//! writes no further word, and its leases (2 s) run out. Another one takes its place at once, as after a restart. The
//! server syncs as for real.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

mod nothing;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use paas::store::{PostgresOptions, PostgresStore};
use paas::{
    AppName, Clock, DeployOrder, Engine, EventKind, Principal, Result, SourceRef, Store, SystemClock,
    WorkflowId,
};
use paas_core::testkit::history::{Acknowledged, History};
use paas_core::testkit::postgres::PostgresServer;
use tokio::runtime::{Builder, Runtime};

use crate::nothing::Nothing;

const ENGINES: usize = 3;
const LEASE: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(5);
/// How many apps are deployed at the same time.
const AT_ONCE: usize = 64;

/// What the engines share.
struct Platform {
    server: PostgresServer,
    schema: String,
    nothing: Arc<Nothing>,
    dir: PathBuf,
}

impl Platform {
    async fn store(&self) -> Arc<dyn Store> {
        let options = PostgresOptions::default().schema(&self.schema);
        let clock = Arc::new(SystemClock::new());
        Arc::new(PostgresStore::connect_with(&self.server.url(), options, clock).await.unwrap())
    }
}

/// An engine with all that it has on a runtime of its own.
struct Killable {
    engine: Engine,
    source: SourceRef,
    runtime: Runtime,
}

impl Killable {
    async fn start(platform: &Arc<Platform>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let platform = platform.clone();
        let begun = runtime.spawn(async move {
            let store = platform.store().await;
            let change = |options: &mut paas::EngineOptions| options.lease = LEASE;
            let (engine, source) = nothing::engine(store, &platform.nothing, &platform.dir, change).await;
            engine.start().await.unwrap();
            (engine, source)
        });
        let (engine, source) = begun.await.unwrap();
        Self { engine, source, runtime }
    }

    fn kill(self) {
        self.runtime.shutdown_background();
    }
}

type Engines = Arc<Mutex<Vec<Killable>>>;

/// Deploys these apps in turn until it is done, each through an engine that is there, and says what was acknowledged.
async fn client(
    engines: Engines,
    store: Arc<dyn Store>,
    apps: Vec<AppName>,
    done: Arc<AtomicBool>,
) -> Vec<WorkflowId> {
    let (mut told, mut turn) = (Vec::new(), 0);
    while !done.load(Ordering::SeqCst) {
        let app = &apps[turn % apps.len()];
        turn += 1;
        let asked = {
            let engines = engines.lock().unwrap();
            let one = &engines[turn % engines.len()];
            let (engine, source, app) = (one.engine.clone(), one.source.clone(), app.clone());
            one.runtime.spawn(async move {
                engine
                    .deploy(&app, DeployOrder::new(source), &Principal::platform())
                    .await
                    .map(|handle| handle.id())
            })
        };
        // Where the engine died meanwhile nothing was acknowledged.
        let Ok(Ok(id)) = asked.await else { continue };
        told.push(id);
        while !has_ended(store.as_ref(), id).await.unwrap_or(false) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    told
}

async fn has_ended(store: &dyn Store, id: WorkflowId) -> Result<bool> {
    let row = store.get(paas::store::Table::Workflows, &id.to_string()).await?;
    let state = row.and_then(|row| row.queue).map(|queue| queue.entry.state);
    Ok(state == Some(paas::store::QueueState::Ended))
}

async fn run(time: Duration, apps: usize, kills: bool, random: &mut u64) {
    let dir = tempfile::tempdir().unwrap();
    let server = PostgresServer::start().await.unwrap();
    let schema = server.new_schema();
    let platform = Platform { server, schema, nothing: Arc::default(), dir: dir.path().to_owned() };
    let platform = Arc::new(platform);
    let store = platform.store().await;
    let mut started = Vec::new();
    for _ in 0..ENGINES {
        started.push(Killable::start(&platform).await);
    }
    let names: Vec<AppName> = (0..apps).map(|n| format!("app-{n}").parse().unwrap()).collect();
    let first = started[0].engine.clone();
    let made = stream::iter(names.clone()).map(|app| {
        let first = first.clone();
        async move { first.create_app(&app, &Principal::platform()).await.map(drop) }
    });
    made.buffer_unordered(32).for_each(|made| async { made.unwrap() }).await;
    drop(first);

    let engines: Engines = Arc::new(Mutex::new(started));
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..AT_ONCE.min(apps))
        .map(|n| names.iter().skip(n).step_by(AT_ONCE).cloned().collect())
        .map(|apps| tokio::spawn(client(engines.clone(), store.clone(), apps, done.clone())))
        .collect();
    let (began, clock) = (tokio::time::Instant::now(), SystemClock::new());
    let mut killed: Vec<DateTime<Utc>> = Vec::new();
    while began.elapsed() + EVERY <= time {
        tokio::time::sleep(EVERY).await;
        if kills {
            let victim = {
                let mut engines = engines.lock().unwrap();
                let chosen = usize::try_from(next(random) % engines.len() as u64).unwrap();
                engines.swap_remove(chosen)
            };
            killed.push(clock.now());
            victim.kill();
            let peer = Killable::start(&platform).await;
            engines.lock().unwrap().push(peer);
        }
    }
    let took = began.elapsed();
    done.store(true, Ordering::SeqCst);
    let mut told = Vec::new();
    for client in clients {
        told.extend(client.await.unwrap());
    }
    let engines: Vec<Killable> = engines.lock().unwrap().drain(..).collect();
    for killable in engines {
        let engine = killable.engine.clone();
        killable.runtime.spawn(async move { engine.shutdown().await }).await.unwrap();
        killable.kill();
    }
    let history = History::read(store.as_ref()).await.unwrap();
    let deploys = told.len() as f64 / took.as_secs_f64();
    let history = told.into_iter().map(Acknowledged::Queued).fold(history, History::told);
    let wrong = history.check();
    println!(
        "{apps} apps, {ENGINES} engines, {:.0} s, {} kills: {} violations, {deploys:.1} deploys/s{}",
        took.as_secs_f64(),
        killed.len(),
        wrong.len(),
        takeovers(&history, &killed)
    );
    for wrong in wrong.iter().take(20) {
        println!("  {wrong}");
    }
}

/// How long what a dead engine worked on lay still, from the kill until somebody claimed it.
fn takeovers(history: &History, killed: &[DateTime<Utc>]) -> String {
    let mut last: HashMap<WorkflowId, DateTime<Utc>> = HashMap::new();
    let mut still: Vec<f64> = Vec::new();
    for event in &history.events {
        let Some(id) = event.workflow else { continue };
        if matches!(event.kind, EventKind::Claimed { claim } if claim > 1)
            && let Some(before) = last.get(&id)
            && let Some(kill) = killed.iter().find(|kill| before <= *kill && **kill <= event.at)
        {
            still.push((event.at - *kill).as_seconds_f64());
        }
        last.insert(id, event.at);
    }
    still.sort_by(f64::total_cmp);
    let Some(worst) = still.last() else { return String::new() };
    format!(", {} takeovers: median {:.2} s, worst {worst:.2} s", still.len(), still[still.len() / 2])
}

/// The next of a row of numbers that looks random (xorshift).
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u64>().ok());
    let time = Duration::from_secs(numbers.next().unwrap_or(600));
    let apps = usize::try_from(numbers.next().unwrap_or(1_000)).unwrap();
    let given = std::env::var("PAAS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| u64::from(std::process::id()) * 7919 + 1);
    println!("PAAS_SEED={seed}");
    let mut random = seed;
    run(time, apps, true, &mut random).await;
    run(time, apps, false, &mut random).await;
}
