//! What a commit costs, alone and among many, and whether a claim's cost grows with the number of apps and with
//! history. `cargo bench -p paas-core --bench store`, the disk's folder in `TMPDIR`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program that prints figures")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use paas_core::store::{
    ClaimRequest, Expect, MemoryStore, NewEvent, QueueEntry, QueueState, SqliteStore, Store, Table,
    Transaction, Write,
};
use paas_core::{KindName, OwnerId, SystemClock, WorkflowId};
use tokio::time::Instant;

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    for callers in [1, 32] {
        let store = sqlite(&dir.path().join(format!("commits-{callers}")));
        println!("sqlite: {:>8.0} commits/s, {callers} callers", commits(store, callers).await);
    }
    for (apps, ended) in [(100, 0), (1_000, 0), (10_000, 0), (100, 100_000)] {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
        for (name, store) in
            [("sqlite", sqlite(&dir.path().join(format!("claims-{apps}-{ended}")))), ("memory", memory)]
        {
            let Costs { claim, cycle, vain, due } = claims(store, apps, ended).await;
            println!(
                "{name}: {apps:>6} apps, {ended:>6} ended: claim {claim:>5.0} us, claim and end {cycle:>5.0} us, \
                 claim in vain {vain:>4.0} us, next due {due:>4.0} us"
            );
        }
    }
    for way in InTheWay::ALL {
        for many in [0, 10_000] {
            let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(SystemClock::new())));
            let file = sqlite(&dir.path().join(format!("behind-{way:?}-{many}")));
            let (file, memory) = (claim_behind(file, way, many).await, claim_behind(memory, way, many).await);
            println!("{many:>6} {way:?} in the way: claim sqlite {file:>6.0} us, memory {memory:>6.1} us");
        }
    }
}

/// What can't be claimed stands before what can.
#[derive(Debug, Clone, Copy, PartialEq)]
enum InTheWay {
    /// Of a kind that nobody here knows.
    UnknownKind,
    /// For a later time, such as what waits for its node.
    Later,
    /// Left by an engine that knew its kind, with an expired lease.
    LeftUnknown,
    /// Behind another one of its subject.
    BehindAnother,
}

impl InTheWay {
    const ALL: [Self; 4] = [Self::UnknownKind, Self::Later, Self::LeftUnknown, Self::BehindAnother];
}

/// What a claim costs behind so many.
async fn claim_behind(store: Arc<dyn Store>, way: InTheWay, many: usize) -> f64 {
    const CLAIMS: u32 = 41;
    let (known, other) = (KindName::new("deploy").unwrap(), KindName::new("other").unwrap());
    let write = |entry: QueueEntry| {
        let parent = entry.subject.clone();
        let id = WorkflowId::new().to_string();
        Write::put(Table::Workflows, id, parent, Expect::Any, "x".repeat(1000)).standing(entry)
    };
    let in_the_way = (0..many).map(|number| {
        let kind = if matches!(way, InTheWay::UnknownKind | InTheWay::LeftUnknown) { &other } else { &known };
        let subject = if way == InTheWay::BehindAnother { "one".into() } else { format!("other-{number}") };
        let mut entry = QueueEntry::queued(subject, kind.clone(), 1);
        match way {
            InTheWay::Later => entry.not_before = Some(chrono::DateTime::<chrono::Utc>::MAX_UTC),
            InTheWay::LeftUnknown => entry.state = QueueState::Active,
            InTheWay::UnknownKind | InTheWay::BehindAnother => {}
        }
        write(entry)
    });
    let wanted = (0..=CLAIMS).map(|app| write(QueueEntry::queued(format!("app-{app}"), known.clone(), 1)));
    let all: Vec<_> = in_the_way.chain(wanted).collect();
    for some in all.chunks(2_000) {
        let transaction = some.iter().cloned().fold(Transaction::new(), Transaction::write);
        store.commit(transaction).await.unwrap();
    }
    let request = ClaimRequest::new(OwnerId::new(), Duration::from_secs(600), vec![(known, 1)]);
    // The first takes note of what is due, or is the one that all others are behind.
    store.claim(&request).await.unwrap().unwrap();
    timed(CLAIMS, async || drop(store.claim(&request).await.unwrap().unwrap())).await
}

fn sqlite(path: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(path, Arc::new(SystemClock::new())).unwrap())
}

/// A row and an event, as a step's checkpoint writes them.
async fn commits(store: Arc<dyn Store>, callers: usize) -> f64 {
    const EACH: usize = 400;
    let started = Instant::now();
    let tasks = (0..callers).map(|caller| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..EACH {
                let write = Write::put(Table::Apps, format!("{caller}"), "", Expect::Any, "x".repeat(1000));
                let event = NewEvent::new(format!("{caller}"), format!("{n}"));
                store.commit(Transaction::new().write(write).event(event)).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    f64::from(u32::try_from(callers * EACH).unwrap()) / started.elapsed().as_secs_f64()
}

struct Costs {
    claim: f64,
    cycle: f64,
    vain: f64,
    due: f64,
}

/// With two workflows waiting for each app, the second behind the first.
async fn claims(store: Arc<dyn Store>, apps: usize, ended: usize) -> Costs {
    const CLAIMS: u32 = 41;
    let kind = KindName::new("deploy").unwrap();
    let entry = |app: usize| QueueEntry::queued(format!("app-{app}"), kind.clone(), 1);
    let write = |id: WorkflowId, entry: QueueEntry| {
        let parent = entry.subject.clone();
        Write::put(Table::Workflows, id.to_string(), parent, Expect::Any, "x".repeat(1000)).standing(entry)
    };
    let end = |app: usize| {
        let mut entry = entry(app);
        entry.state = QueueState::Ended;
        entry
    };
    let history = (0..ended).map(|n| write(WorkflowId::new(), end(n % apps)));
    let waiting = (0..2).flat_map(|_| (0..apps).map(|app| write(WorkflowId::new(), entry(app))));
    let all: Vec<_> = history.chain(waiting).collect();
    for some in all.chunks(2_000) {
        let transaction = some.iter().cloned().fold(Transaction::new(), Transaction::write);
        store.commit(transaction).await.unwrap();
    }
    let request = ClaimRequest::new(OwnerId::new(), Duration::from_secs(600), vec![(kind.clone(), 1)]);
    let mut claimed = Vec::new();
    let claim = timed(CLAIMS, async || claimed.push(store.claim(&request).await.unwrap().unwrap())).await;
    let mut ended = claimed.into_iter();
    let cycle = timed(CLAIMS, async || {
        let row = ended.next().unwrap();
        let mut entry = row.queue.unwrap().entry;
        entry.state = QueueState::Ended;
        store.commit(Transaction::new().write(write(row.key.parse().unwrap(), entry))).await.unwrap();
        store.claim(&request).await.unwrap().unwrap();
    })
    .await;
    let unknown =
        ClaimRequest::new(OwnerId::new(), Duration::from_secs(600), vec![(KindName::new("x").unwrap(), 1)]);
    let vain = timed(CLAIMS, async || assert!(store.claim(&unknown).await.unwrap().is_none())).await;
    let due = timed(CLAIMS, async || assert!(store.next_due().await.unwrap().is_some())).await;
    Costs { claim, cycle, vain, due }
}

/// The median of the calls, in microseconds: single ones meet a checkpoint or a busy disk.
async fn timed(calls: u32, mut call: impl AsyncFnMut()) -> f64 {
    let mut took = Vec::new();
    for _ in 0..calls {
        let started = Instant::now();
        call().await;
        took.push(started.elapsed());
    }
    took.sort();
    took[took.len() / 2].as_secs_f64() * 1e6
}
