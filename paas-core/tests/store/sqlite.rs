//! The SQLite store: the suite, several processes, death and full disks.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use paas_core::store::{Expect, ListQuery, NewEvent, SqliteStore, Store, Table, Transaction, Write};
use paas_core::testkit::store::{agrees_with_memory, conformance};
use paas_core::{Clock, ErrorCode, SystemClock};

use super::peers::Peers;

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

fn put(key: &str, body: String) -> Transaction {
    Transaction::new().write(Write::put(Table::Apps, key, "", Expect::Any, body))
}

/// New paths in a folder that lives as long as this.
struct Files(tempfile::TempDir, AtomicUsize);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap(), AtomicUsize::new(0))
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join(format!("{}.db", self.1.fetch_add(1, Ordering::Relaxed)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sqlite_store_keeps_the_contract() {
    let files = Files::new();
    conformance(async |clock| SqliteStore::open(files.path(), clock).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_stores_on_one_file_are_one_store() {
    let files = Files::new();
    conformance(async |clock| peers(&files.path(), &clock)).await;
}

/// `PAAS_SEED=7` runs that seed alone.
#[tokio::test]
async fn the_sqlite_store_agrees_with_the_model() {
    let files = Files::new();
    let seeds = match std::env::var("PAAS_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..6).collect(),
    };
    for seed in seeds {
        agrees_with_memory(async |clock| SqliteStore::open(files.path(), clock).unwrap(), seed, 400).await;
        agrees_with_memory(async |clock| peers(&files.path(), &clock), seed, 100).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_commits_wakes_listeners_in_another() {
    let files = Files::new();
    let path = files.path();
    let (ours, theirs) =
        (SqliteStore::open(&path, clock()).unwrap(), SqliteStore::open(&path, clock()).unwrap());
    ours.commit(put("a", "{}".into())).await.unwrap();
    let mut changes = ours.changes();
    for n in 0..3 {
        changes.mark_unchanged();
        theirs.commit(put("a", n.to_string())).await.unwrap();
        changes.changed().await.unwrap();
    }
}

/// The parent kills this one while it commits; it has no end of its own.
const CHILD: &str = "PAAS_TEST_COMMIT_INTO";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_killed_process() {
    if let Some(path) = std::env::var_os(CHILD) {
        return commit_until_killed(Path::new(&path)).await;
    }
    let files = Files::new();
    let path = files.path();
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sqlite::what_was_acknowledged_outlives_a_killed_process", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let said = |line: String| line.split_once("acknowledged ").map(|(_, key)| key.to_owned());
        acknowledged.extend(lines.by_ref().filter_map(said).take(50 + round * 37));
        child.kill().unwrap();
        acknowledged.extend(lines.filter_map(said));
        child.wait().unwrap();

        let store = SqliteStore::open(&path, clock()).unwrap();
        for key in &acknowledged {
            assert!(
                store.get(Table::Apps, key).await.unwrap().is_some(),
                "{key} was acknowledged and is lost"
            );
        }
        let rows = store.list(Table::Apps, &ListQuery::all()).await.unwrap();
        let events = store.events(0, None, usize::MAX).await.unwrap();
        assert_eq!(rows.len(), events.len(), "a row and its event are one");
        assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64));
    }
}

async fn commit_until_killed(path: &Path) {
    let store = SqliteStore::open(path, clock()).unwrap();
    let writers = (0..8).map(|_| async {
        loop {
            let key = paas_core::WorkflowId::new().to_string();
            store.commit(put(&key, "{}".into()).event(NewEvent::new("app", key.clone()))).await.unwrap();
            println!("acknowledged {key}");
        }
    });
    futures_util::future::join_all(writers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_harms_nothing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let path = disk.0.path().join("store.db");
    let store = Arc::new(SqliteStore::open(&path, clock()).unwrap());
    store.commit(put("before", "{}".into())).await.unwrap();
    let body = "x".repeat(20_000);
    let (mut kept, mut refused) = (Vec::new(), Vec::new());
    for round in 0..100 {
        let commits = (0..4).map(|n| {
            let (store, key, body) = (store.clone(), format!("{round}-{n}"), body.clone());
            tokio::spawn(async move { (store.commit(put(&key, body)).await, key) })
        });
        for commit in futures_util::future::join_all(commits).await {
            match commit.unwrap() {
                (Ok(_), key) => kept.push(key),
                (Err(e), key) => {
                    assert_eq!(e.code(), ErrorCode::DiskFull, "{e:?}");
                    assert!(e.message().contains("free some space"), "{e}");
                    refused.push(key);
                }
            }
        }
    }
    assert!(!kept.is_empty() && refused.len() > 100, "the disk got full: {} {}", kept.len(), refused.len());
    let there = |key: String| {
        let store = store.clone();
        async move { store.get(Table::Apps, &key).await.unwrap().is_some() }
    };
    for key in &kept {
        assert!(there(key.clone()).await, "{key} was acknowledged");
    }
    for key in refused {
        assert!(!there(key.clone()).await, "{key} was refused");
    }
    disk.free();
    store.commit(put("after", body)).await.expect("there is room again");
    assert!(there("before".into()).await && there("after".into()).await);
    drop(store);
    let again = SqliteStore::open(&path, clock()).unwrap();
    assert_eq!(again.list(Table::Apps, &ListQuery::all()).await.unwrap().len(), kept.len() + 2);
}

/// Four megabytes, three of them taken.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(dir.path());
        match mount.output() {
            Ok(output) if output.status.success() => {
                let disk = Self(dir);
                std::fs::write(disk.filler(), vec![0; 3 << 20]).unwrap();
                Some(disk)
            }
            failed => {
                assert!(std::env::var_os("CI").is_none(), "a tmpfs can't be mounted: {failed:?}");
                eprintln!(
                    "SKIPPED a_full_disk_is_told_and_harms_nothing: a tmpfs can't be mounted: {failed:?}"
                );
                None
            }
        }
    }

    fn filler(&self) -> std::path::PathBuf {
        self.0.path().join("filler")
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since the store's thread may still close its file; a failure leaves four megabytes behind.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Stores on one file, as several processes would have.
fn peers(path: &Path, clock: &Arc<dyn Clock>) -> Peers<SqliteStore> {
    Peers::new((0..3).map(|_| SqliteStore::open(path, clock.clone()).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_the_store_at_one_moment_however_much_is_written_meanwhile() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new();
    let store = Arc::new(SqliteStore::open(files.path(), clock()).unwrap());
    // Each transaction writes the same number into two rows and an event: a torn copy shows different ones.
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let body = n.to_string();
                let mut tx = put("a", body.clone()).event(NewEvent::new("s", body.clone()));
                tx.writes.push(Write::put(Table::Releases, "b", "", Expect::Any, body));
                store.commit(tx).await.unwrap();
            }
            n
        }
    });
    while store.get(Table::Apps, "a").await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    let mut newest = 0;
    for _ in 0..10 {
        let to = files.path();
        let found = store.backup(&to).await.unwrap();
        assert!(found.newest_event >= newest, "a later backup has no less");
        newest = found.newest_event;
        assert_eq!((found.rows["apps"], found.rows["releases"], found.rows["addons"]), (1, 1, 0));
        assert_eq!(std::fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
        let again = store.backup(&to).await.unwrap_err();
        assert_eq!(again.code(), ErrorCode::Exists, "{again}");

        let copy = SqliteStore::open(&to, clock()).unwrap();
        let a = copy.get(Table::Apps, "a").await.unwrap().unwrap();
        let b = copy.get(Table::Releases, "b").await.unwrap().unwrap();
        let last = copy.events(newest - 1, None, 10).await.unwrap();
        assert_eq!((&a.body, a.rev), (&b.body, b.rev));
        assert_eq!((last.len(), &last[0].body), (1, &a.body));
        copy.commit(put("a", "and it goes on".into())).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(writer.await.unwrap() >= newest);
}

#[tokio::test]
async fn a_backup_that_fails_leaves_nothing_behind() {
    let files = Files::new();
    let store = SqliteStore::open(files.path(), clock()).unwrap();
    let nowhere = files.0.path().join("none/backup.db");
    assert!(store.backup(&nowhere).await.is_err());
    let taken = files.path();
    std::fs::write(&taken, "mine").unwrap();
    assert_eq!(store.backup(&taken).await.unwrap_err().code(), ErrorCode::Exists);
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "mine");
    let parts = std::fs::read_dir(files.0.path()).unwrap().flatten();
    let parts = parts.filter(|entry| entry.file_name().to_string_lossy().contains(".part"));
    assert_eq!(parts.count(), 0);
}
