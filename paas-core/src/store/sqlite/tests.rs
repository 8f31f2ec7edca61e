use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::{SqliteStore, commit, queue, rows, schema};
use crate::store::{
    ClaimRequest, Expect, ListQuery, QueueEntry, QueueState, Store, Table, Transaction, Write,
};
use crate::{ErrorCode, KindName, OwnerId, Result, SystemClock, WorkflowId};

fn open(path: impl AsRef<Path>) -> Result<SqliteStore> {
    SqliteStore::open(path.as_ref(), Arc::new(SystemClock::new()))
}

fn put(key: &str, expect: Expect) -> Transaction {
    Transaction::new().write(Write::put(Table::Apps, key, "", expect, "{}".into()))
}

/// How SQLite carries a statement out, a line for each table it looks at.
fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let values = statement.parameter_count();
    let values = rusqlite::params_from_iter((0..values).map(|_| rusqlite::types::Null));
    let lines = statement.query_map(values, |row| row.get(3)).unwrap();
    lines.map(|line| line.unwrap()).collect()
}

/// That every table is searched by an index, or one walked whose entries are few: only what is open is in it.
fn assert_indexed(connection: &Connection, sql: &str, walks: &[&str]) {
    for line in plan(connection, sql) {
        let walk = line.strip_prefix("SCAN ");
        let allowed = walk.is_none_or(|walk| {
            walk.starts_with("kinds VIRTUAL TABLE")
                || walks.iter().any(|index| walk.ends_with(&format!("INDEX {index}")))
        });
        assert!(allowed, "{line}\nin {sql}");
    }
}

#[test]
fn claims_and_due_times_look_only_at_what_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let connection = schema::open_and_migrate(&dir.path().join("store.db")).unwrap();
    for sql in queue::claim_sql() {
        assert_indexed(&connection, &sql, &[]);
        let searched = "USING INDEX workflows_ready (state=? AND kind=? AND kind_version=?)";
        assert!(plan(&connection, &sql).concat().contains(searched), "{:?}", plan(&connection, &sql));
    }
    for sql in [queue::RIPEN_SQL].into_iter().chain(queue::FIRST_SQL) {
        assert_indexed(&connection, sql, &[]);
    }
    for sql in queue::DUE_SQL {
        assert_indexed(&connection, sql, &[]);
    }
}

#[test]
fn lists_and_events_are_read_along_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let connection = schema::open_and_migrate(&dir.path().join("store.db")).unwrap();
    for table in Table::ALL {
        for query in
            [ListQuery::of("p"), ListQuery::of("p").after("k"), ListQuery::of("p").descending().limit(1)]
        {
            let (sql, _) = rows::list_sql(*table, &query);
            assert_indexed(&connection, &sql, &[]);
            assert!(!plan(&connection, &sql).concat().contains("TEMP B-TREE"), "{sql}");
        }
    }
    let open = [QueueState::Queued, QueueState::Active, QueueState::Parked];
    let (sql, _) = rows::list_sql(Table::Workflows, &ListQuery::of("p").states(open));
    assert!(plan(&connection, &sql).concat().contains("workflows_open_by_parent"), "{sql}");
    let (sql, _) = rows::list_sql(Table::Workflows, &ListQuery::all().states(open));
    assert!(plan(&connection, &sql).concat().contains("workflows_open"), "{sql}");
    for sql in commit::EVENTS_SQL {
        assert_indexed(&connection, sql, &[]);
    }
}

#[tokio::test]
async fn a_queue_of_the_first_version_goes_on_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(schema::MIGRATIONS[0]).unwrap();
    old.pragma_update(None, "application_id", 0x7061_6173).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    // Left by an engine; behind it; two of a subject; one that is not due.
    let far = i64::MAX / 2;
    let rows = [
        ("d", "busy", "active", None, Some(1)),
        ("e", "busy", "queued", None, None),
        ("b", "free", "queued", None, None),
        ("a", "free", "queued", None, None),
        ("c", "late", "queued", Some(far), None),
    ];
    for (place, (key, subject, state, not_before, lease)) in (1_i64..).zip(rows) {
        let key = WorkflowId::from(uuid::Uuid::from_u128(u128::from(key.as_bytes()[0]))).to_string();
        let sql = "INSERT INTO workflows (key, parent, rev, body, subject, kind, kind_version, state, not_before, turn,
            place, owner, fence, lease_until) VALUES (?1, ?2, 1, '{}', ?2, 'deploy', 1, ?3, ?4, NULL, ?5, NULL, 0, ?6)";
        old.execute(sql, (key, subject, state, not_before, place, lease)).unwrap();
    }
    old.close().unwrap();
    let store = open(&path).unwrap();
    let kinds = vec![(KindName::new("deploy").unwrap(), 1)];
    let request = ClaimRequest::new(OwnerId::new(), Duration::from_secs(600), kinds);
    let mut places = Vec::new();
    while let Some(row) = store.claim(&request).await.unwrap() {
        places.push(row.queue.unwrap().place);
    }
    assert_eq!(places, [1, 3], "one of each subject");
}

#[test]
fn nobody_else_can_read_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    for path in [path, dir.path().join("new.db")] {
        let _store = open(path).unwrap();
        for file in fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
            if file.file_name() == "store.db" || file.file_name().to_string_lossy().starts_with("new.db") {
                assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
            }
        }
    }
}

#[test]
fn a_file_of_a_newer_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    drop(open(&path).unwrap());
    // The thread that writes closes the file at its end, and then the log is gone.
    while dir.path().join("store.db-wal").exists() {
        std::thread::yield_now();
    }
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.message().contains("schema 99"), "{error}");
    assert!(error.context().iter().any(|(key, value)| *key == "store" && value.ends_with("store.db")));
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    fs::write(&text, "this is not a database, and it is longer than a header".repeat(50)).unwrap();
    assert_eq!(open(&text).unwrap_err().code(), ErrorCode::Corrupt);
    let other = dir.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE notes (text)").unwrap();
    let before = (fs::read(&other).unwrap(), fs::metadata(&other).unwrap().permissions());
    let error = open(&other).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Corrupt);
    assert!(error.message().contains("another program's"), "{error}");
    assert_eq!((fs::read(&other).unwrap(), fs::metadata(&other).unwrap().permissions()), before);
    let error = open(dir.path().join("none/store.db")).unwrap_err();
    assert!(error.to_string().contains("none/store.db"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_can_be_opened_by_many_at_once_while_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || open(path))
        })
        .collect();
    for (n, thread) in threads.into_iter().enumerate() {
        thread.join().unwrap().unwrap().commit(put(&n.to_string(), Expect::Absent)).await.unwrap();
    }
    assert_eq!(open(&path).unwrap().list(Table::Apps, &ListQuery::all()).await.unwrap().len(), 8);
}

#[tokio::test]
async fn what_a_dead_process_had_claimed_is_claimed_at_once_after_all_leases_were_ended() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path().join("store.db")).unwrap();
    let kind: KindName = "deploy".parse().unwrap();
    let workflow = WorkflowId::new();
    let queued = QueueEntry::queued("app/hello", kind.clone(), 1);
    let write =
        Write::put(Table::Workflows, workflow.to_string(), "", Expect::Absent, "{}".into()).standing(queued);
    store.commit(Transaction::new().write(write)).await.unwrap();
    let claim = || ClaimRequest::new(OwnerId::new(), Duration::from_secs(3600), vec![(kind.clone(), 1)]);
    let (dead, alive) = (claim(), claim());
    assert!(store.claim(&dead).await.unwrap().is_some());
    assert!(store.lease("turn/app/other", "dead", Duration::from_secs(3600)).await.unwrap());
    assert!(store.claim(&alive).await.unwrap().is_none());

    store.end_leases().await.unwrap();

    let claimed = store.claim(&alive).await.unwrap().unwrap();
    assert_eq!(claimed.queue.unwrap().owner, Some(alive.owner));
    assert_eq!(store.leased("turn/app/other").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_undoes_nothing_of_those_that_share_its_sync() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path().join("store.db")).unwrap());
    let calls = (0..100).map(|n| {
        let store = store.clone();
        let expect = if n % 3 == 0 { Expect::Rev(9) } else { Expect::Absent };
        let written = put(&format!("first-{n}"), Expect::Absent).write(Write::put(
            Table::Apps,
            format!("second-{n}"),
            "",
            expect,
            "{}".into(),
        ));
        async move { store.commit(written).await }
    });
    let results = futures_util::future::join_all(calls).await;
    for (n, result) in results.into_iter().enumerate() {
        assert_eq!(result.is_ok(), n % 3 != 0);
        for row in [format!("first-{n}"), format!("second-{n}")] {
            assert_eq!(store.get(Table::Apps, &row).await.unwrap().is_some(), n % 3 != 0, "{row}");
        }
    }
}

#[tokio::test]
async fn a_dropped_caller_harms_no_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path().join("store.db")).unwrap();
    for n in 0..50 {
        let call = store.commit(put(&n.to_string(), Expect::Absent));
        let _ = futures_util::FutureExt::now_or_never(call);
    }
    store.commit(put("last", Expect::Absent)).await.unwrap();
    let rows = store.list(Table::Apps, &ListQuery::all()).await.unwrap();
    assert_eq!(rows.len(), 51, "what was asked for happens, in order");
}
