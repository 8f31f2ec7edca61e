//! What the engine itself costs: deploys per second and cost per deploy with providers that do nothing, at 10, 1,000
//! and 10,000 apps, on the memory and `SQLite` stores; and how long an engine takes to start with so many apps.
//!
//! Run: `cargo bench --bench engine [-- STORE… APPS…]`, where a store is `memory`, `sqlite` or, with
//! `--features store-postgres`, `postgres`: on a server that is started for it and syncs as for real.
//!
//! The limit on `SQLite` and PostgreSQL is one fsync a transaction, shared by all that wait for one.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, missing_docs)]

mod nothing;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use paas::store::{MemoryStore, SqliteStore};
use paas::{AppName, DeployOrder, Engine, Principal, SourceRef, Store, SystemClock};

use crate::nothing::Nothing;

async fn engine(store: Arc<dyn Store>, dir: &Path) -> (Engine, SourceRef) {
    nothing::engine(store, &Arc::new(Nothing::default()), dir, |_| {}).await
}

fn name(number: usize) -> AppName {
    AppName::new(format!("app-{number}")).unwrap()
}

/// Runs `work` on all numbers below `count`, so many at once, and tells how long all took.
async fn timed<F>(count: usize, at_once: usize, work: impl Fn(usize) -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let began = tokio::time::Instant::now();
    let tasks = stream::iter(0..count).map(|n| tokio::spawn(work(n))).buffer_unordered(at_once);
    tasks.for_each(|done| async move { done.unwrap() }).await;
    began.elapsed()
}

/// Opens the store of this kind, the same one each time.
async fn open(kind: &str, place: &Place) -> Arc<dyn Store> {
    let clock = Arc::new(SystemClock::new());
    match kind {
        "sqlite" => Arc::new(SqliteStore::open(&place.file, clock).unwrap()),
        #[cfg(feature = "store-postgres")]
        "postgres" => {
            let (server, schema) = place.server.as_ref().unwrap();
            let options = paas::store::PostgresOptions::default().schema(schema);
            Arc::new(paas::store::PostgresStore::connect_with(&server.url(), options, clock).await.unwrap())
        }
        _ => Arc::new(MemoryStore::new(clock)),
    }
}

/// Where a store lies.
struct Place {
    file: std::path::PathBuf,
    #[cfg(feature = "store-postgres")]
    server: Option<(paas_core::testkit::postgres::PostgresServer, String)>,
}

impl Place {
    async fn new(kind: &str, dir: &Path) -> Self {
        #[cfg(feature = "store-postgres")]
        let server = if kind == "postgres" {
            let server = paas_core::testkit::postgres::PostgresServer::start().await.unwrap();
            let schema = server.new_schema();
            Some((server, schema))
        } else {
            None
        };
        #[cfg(not(feature = "store-postgres"))]
        let _ = kind;
        Self {
            file: dir.join("paas.db"),
            #[cfg(feature = "store-postgres")]
            server,
        }
    }
}

async fn measure(kind: &str, apps: usize) {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new(kind, dir.path()).await;
    let by = Principal::platform();
    let store = open(kind, &place).await;
    let (first, source) = engine(store.clone(), dir.path()).await;
    first.start().await.unwrap();
    timed(apps, 64, |n| {
        let (engine, by) = (first.clone(), by.clone());
        async move { drop(engine.create_app(&name(n), &by).await.unwrap()) }
    })
    .await;
    let deploy = |n: usize| {
        let (engine, source, by) = (first.clone(), source.clone(), by.clone());
        async move {
            let order = DeployOrder::new(source);
            let handle = engine.deploy(&name(n * 7919 % apps), order, &by).await.unwrap();
            drop(handle.ended().await.unwrap());
        }
    };
    timed(20, 1, deploy).await;
    let (one, many) = (100, 400);
    let alone = timed(one, 1, deploy).await;
    let together = timed(many, 32, deploy).await;
    first.shutdown().await;

    let began = tokio::time::Instant::now();
    let again = if kind == "memory" { store } else { open(kind, &place).await };
    let (second, _) = engine(again, dir.path()).await;
    second.start().await.unwrap();
    let started = began.elapsed();
    let handle = second.deploy(&name(0), DeployOrder::new(source), &by).await.unwrap();
    handle.ended().await.unwrap();
    let ready = began.elapsed();
    second.shutdown().await;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{kind:<9}{apps:>7} apps {:>8.2} ms/deploy alone {:>7.0} deploys/s of 32 at once {:>8.1} ms to start {:>8.1} ms to the first deploy's end",
        ms(alone) / one as f64,
        many as f64 / together.as_secs_f64(),
        ms(started),
        ms(ready),
    );
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked: Vec<usize> = arguments.iter().filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![10, 1_000, 10_000] } else { asked };
    let known = ["memory", "sqlite", "postgres"];
    let mut kinds: Vec<&str> =
        known.into_iter().filter(|kind| arguments.iter().any(|arg| arg == kind)).collect();
    if kinds.is_empty() {
        kinds = known[..if cfg!(feature = "store-postgres") { 3 } else { 2 }].to_vec();
    }
    assert!(
        cfg!(feature = "store-postgres") || !kinds.contains(&"postgres"),
        "the store postgres needs --features store-postgres"
    );
    for kind in kinds {
        for apps in &sizes {
            measure(kind, *apps).await;
        }
    }
}
