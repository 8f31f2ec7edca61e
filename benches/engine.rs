//! What the engine itself costs, with providers that do nothing: a deploy beside 10, 1,000 and 10,000 live apps, and the
//! start with so many, on the memory and `SQLite` stores.
//!
//! Run: `cargo bench --bench engine [-- STORE… APPS…]`, where a store is `memory`, `sqlite`, `sqlite-shm` (its file in
//! `/dev/shm`, where a sync costs nothing: what is left is our own work) or, with `--features store-postgres`, `postgres`: on a
//! server that is started for it and syncs as for real.
//!
//! The sizes take turns, so that a machine that is busy for a while is so for each of them, and every figure is the median of all
//! rounds (`PAAS_ROUNDS`, 9). In each round an engine starts anew on the store with its live apps and, once
//! it is at rest, does the same work as those of the other sizes: it deploys the same ten apps, one after the other and many at once.
//!
//! The limit on `SQLite` and PostgreSQL is one fsync a transaction, shared by all that wait for one. The processor's time
//! (of all threads) doesn't know about disks and neighbours: whether a deploy costs more beside more apps is seen there first.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs)]

mod nothing;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use paas::store::{MemoryStore, SqliteStore};
use paas::{AppName, DeployOrder, Engine, Principal, SourceRef, Store, SystemClock};
use tokio::time::Instant;

use crate::nothing::Nothing;

fn name(number: usize) -> AppName {
    AppName::new(format!("app-{number}")).unwrap()
}

/// Runs `work` on all numbers below `count`, so many at once, and tells how long all took.
async fn timed<F>(count: usize, at_once: usize, work: impl Fn(usize) -> F) -> Duration
where
    F: Future<Output = ()> + Send + 'static,
{
    let began = Instant::now();
    let tasks = stream::iter(0..count).map(|n| tokio::spawn(work(n))).buffer_unordered(at_once);
    tasks.for_each(|done| async move { done.unwrap() }).await;
    began.elapsed()
}

/// Opens the store of this kind, the same one each time.
async fn open(kind: &str, place: &Place) -> Arc<dyn Store> {
    let clock = Arc::new(SystemClock::new());
    match kind {
        "sqlite" | "sqlite-shm" => Arc::new(SqliteStore::open(&place.file, clock).unwrap()),
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

/// A store with so many live apps, and what runs of them.
struct Site {
    kind: &'static str,
    apps: usize,
    dir: tempfile::TempDir,
    place: Place,
    /// The memory store would be gone with its value.
    kept: Option<Arc<dyn Store>>,
    instances: Arc<Nothing>,
}

/// What one round of a size measured.
struct Round {
    /// Until the engine has started.
    start: Duration,
    /// Until the first deploy after that has ended.
    first: Duration,
    /// Of one deploy, one after the other.
    alone: Duration,
    /// The processor's time of one of these.
    processor: Duration,
    /// Of one deploy, many at once.
    together: Duration,
}

/// How many apps every round deploys, whatever the size.
const DEPLOYED: usize = 10;

impl Site {
    /// Makes the apps, and deploys each of them once.
    async fn new(kind: &'static str, apps: usize) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = match kind {
            "sqlite-shm" => tempfile::tempdir_in(memory).unwrap(),
            _ => tempfile::tempdir().unwrap(),
        };
        let place = Place::new(kind, dir.path()).await;
        let kept = if kind == "memory" { Some(open(kind, &place).await) } else { None };
        let site = Self { kind, apps, dir, place, kept, instances: Arc::default() };
        let (engine, source) = site.engine().await;
        engine.start().await.unwrap();
        timed(apps, 64, |n| {
            let (engine, source) = (engine.clone(), source.clone());
            async move {
                engine.create_app(&name(n), &Principal::platform()).await.unwrap();
                deploy(&engine, n, source).await;
            }
        })
        .await;
        engine.shutdown().await;
        site
    }

    async fn engine(&self) -> (Engine, SourceRef) {
        let store = match &self.kept {
            Some(store) => store.clone(),
            None => open(self.kind, &self.place).await,
        };
        nothing::engine(store, &self.instances, self.dir.path(), |_| {}).await
    }

    async fn round(&self) -> Round {
        let began = Instant::now();
        let (engine, source) = self.engine().await;
        engine.start().await.unwrap();
        let start = began.elapsed();
        deploy(&engine, 0, source.clone()).await;
        let first = began.elapsed();
        rest().await;

        // Each task has an app of its own, since a newer deploy of an app supersedes one that waits.
        let spread = self.apps / DEPLOYED;
        let work = |times: u32| {
            let (engine, source) = (engine.clone(), source.clone());
            move |n: usize| {
                let (engine, source) = (engine.clone(), source.clone());
                async move {
                    for _ in 0..times {
                        deploy(&engine, n * spread, source.clone()).await;
                    }
                }
            }
        };
        let (one, many) = (5, 20);
        let used = processor_time();
        let alone = timed(DEPLOYED, 1, work(one)).await / (one * DEPLOYED as u32);
        let processor = processor_time().saturating_sub(used) / (one * DEPLOYED as u32);
        let together = timed(DEPLOYED, DEPLOYED, work(many)).await / (many * DEPLOYED as u32);
        engine.shutdown().await;
        Round { start, first, alone, processor, together }
    }
}

/// Deploys one app, to the deploy's end.
async fn deploy(engine: &Engine, n: usize, source: SourceRef) {
    let handle = engine.deploy(&name(n), DeployOrder::new(source), &Principal::platform()).await.unwrap();
    drop(handle.ended().await.unwrap());
}

/// What the processor has spent on this process so far.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Waits until this process has nothing to do: an engine looks at each of its apps after its start.
async fn rest() {
    let mut quiet = 0;
    while quiet < 3 {
        let used = processor_time();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let idle = processor_time().saturating_sub(used) < Duration::from_millis(2);
        quiet = if idle { quiet + 1 } else { 0 };
    }
}

/// The middle one, in milliseconds.
fn median(rounds: &[Round], figure: impl Fn(&Round) -> Duration) -> f64 {
    let mut all: Vec<Duration> = rounds.iter().map(figure).collect();
    all.sort_unstable();
    all[all.len() / 2].as_secs_f64() * 1e3
}

async fn measure(kind: &'static str, sizes: &[usize]) {
    let mut sites = Vec::new();
    for apps in sizes {
        sites.push((Site::new(kind, *apps).await, Vec::new()));
    }
    let rounds = std::env::var("PAAS_ROUNDS").map_or(9, |rounds| rounds.parse().unwrap());
    for _ in 0..rounds {
        for (site, measured) in &mut sites {
            measured.push(site.round().await);
        }
    }
    let mut least = None;
    for (site, rounds) in &sites {
        let (alone, processor) =
            (median(rounds, |round| round.alone), median(rounds, |round| round.processor));
        let (alone_least, processor_least) = *least.get_or_insert((alone, processor));
        println!(
            "{kind:<11}{:>7} apps {alone:>7.2} ms a deploy (x{:.2}), {processor:>6.2} ms of the processor (x{:.2}), \
             {:>6.2} ms of ten at once; {:>7.1} ms to start, {:>7.1} ms to the first deploy's end",
            site.apps,
            alone / alone_least,
            processor / processor_least,
            median(rounds, |round| round.together),
            median(rounds, |round| round.start),
            median(rounds, |round| round.first),
        );
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked: Vec<usize> = arguments.iter().filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![10, 1_000, 10_000] } else { asked };
    assert!(sizes.iter().all(|apps| *apps >= DEPLOYED), "every round deploys {DEPLOYED} apps");
    let known = ["memory", "sqlite", "sqlite-shm", "postgres"];
    let mut kinds: Vec<&str> =
        known.into_iter().filter(|kind| arguments.iter().any(|arg| arg == kind)).collect();
    if kinds.is_empty() {
        kinds = known[..if cfg!(feature = "store-postgres") { 4 } else { 3 }].to_vec();
    }
    assert!(
        cfg!(feature = "store-postgres") || !kinds.contains(&"postgres"),
        "the store postgres needs --features store-postgres"
    );
    for kind in kinds {
        measure(kind, &sizes).await;
    }
}
