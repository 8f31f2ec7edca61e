//! The PostgreSQL store on a real server: the suite, several engines' stores, death and reconnection.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use paas_core::store::{
    ClaimRequest, EventRow, Expect, Fence, ListQuery, NewEvent, PostgresOptions, PostgresStore, QueueEntry,
    Store, Table, Transaction, Write, turn_lease,
};
use paas_core::testkit::ManualClock;
use paas_core::testkit::postgres::{ClockedStore, PostgresServer};
use paas_core::testkit::store::{agrees_with_memory, conformance};
use paas_core::{Clock, ErrorCode, KindName, OwnerId, Result, Retry, SystemClock, WorkflowId};

use tokio::task::JoinHandle;

use super::peers::Peers;

#[tokio::test(flavor = "multi_thread")]
async fn the_postgres_store_keeps_the_contract() {
    let Some(server) = PostgresServer::shared().await else { return };
    conformance(async |clock| ClockedStore::connect(&server, &server.new_schema(), clock).await.unwrap())
        .await;
}

/// `PAAS_SEED=7` runs that seed alone.
#[tokio::test]
async fn the_postgres_store_agrees_with_the_model() {
    let Some(server) = PostgresServer::shared().await else { return };
    let seeds = match std::env::var("PAAS_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..6).collect(),
    };
    for seed in seeds {
        let make = async |clock| ClockedStore::connect(&server, &server.new_schema(), clock).await.unwrap();
        agrees_with_memory(make, seed, 400).await;
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

async fn open(server: &PostgresServer, schema: &str) -> Result<PostgresStore> {
    PostgresStore::connect_with(&server.url(), PostgresOptions::default().schema(schema), clock()).await
}

fn put(key: &str, body: String) -> Transaction {
    Transaction::new().write(Write::put(Table::Apps, key, "", Expect::Any, body))
}

async fn peers(server: &PostgresServer, clock: &Arc<dyn Clock>) -> Peers<ClockedStore> {
    let schema = server.new_schema();
    let stores = (0..3).map(|_| ClockedStore::connect(server, &schema, clock.clone()));
    Peers::new(try_join_all(stores).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_stores_on_one_schema_are_one_store() {
    let Some(server) = PostgresServer::shared().await else { return };
    conformance(async |clock| peers(&server, &clock).await).await;
    agrees_with_memory(async |clock| peers(&server, &clock).await, 7, 400).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_engines_may_start_at_once_on_an_empty_database() {
    let Some(server) = PostgresServer::shared().await else { return };
    let schema = server.new_schema();
    let stores = try_join_all((0..8).map(|_| open(&server, &schema))).await.unwrap();
    for (n, store) in stores.iter().enumerate() {
        store.commit(put(&n.to_string(), "{}".into())).await.unwrap();
    }
    assert_eq!(stores[0].list(Table::Apps, &ListQuery::all()).await.unwrap().len(), 8);
}

#[tokio::test]
async fn schemas_of_one_database_are_stores_apart() {
    let Some(server) = PostgresServer::shared().await else { return };
    let (one, two) = (
        open(&server, &server.new_schema()).await.unwrap(),
        open(&server, &server.new_schema()).await.unwrap(),
    );
    one.commit(put("a", "{}".into()).event(NewEvent::new("a", "{}".into()))).await.unwrap();
    assert!(one.lease("a", "me", Duration::from_secs(60)).await.unwrap());
    assert_eq!(two.get(Table::Apps, "a").await.unwrap(), None);
    assert_eq!(two.events(0, None, 1).await.unwrap(), []);
    assert!(two.lease("a", "other", Duration::from_secs(60)).await.unwrap());
}

#[tokio::test]
async fn a_schema_of_a_newer_version_is_refused() {
    let Some(server) = PostgresServer::shared().await else { return };
    let schema = server.new_schema();
    drop(open(&server, &schema).await.unwrap());
    server.execute(&format!("UPDATE {schema}.paas_version SET schema = 99")).await.unwrap();
    let error = open(&server, &schema).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.message().contains("schema 99"), "{error}");
}

#[tokio::test]
async fn another_programs_schema_is_refused_and_left_alone() {
    let Some(server) = PostgresServer::shared().await else { return };
    let schema = server.new_schema();
    server
        .execute(&format!("CREATE SCHEMA {schema}; CREATE TABLE {schema}.notes (text text)"))
        .await
        .unwrap();
    let error = open(&server, &schema).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Corrupt);
    assert!(error.message().contains("another program's"), "{error}");
    let only = format!(
        "SELECT 1 / (count(*) = 1)::int FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r'"
    );
    server.execute(&only).await.expect("there is its table and no other");
}

#[tokio::test]
async fn what_cannot_be_reached_or_used_is_told_without_the_password() {
    let quick = || PostgresOptions::default().connect_timeout(Duration::from_millis(200));
    for (url, options, code) in [
        ("postgres://ada:CANARY@127.0.0.1:port/db", quick(), ErrorCode::InvalidParams),
        ("CANARY", quick(), ErrorCode::InvalidParams),
        ("postgres://ada:CANARY@127.0.0.1:1/db", quick(), ErrorCode::Unavailable),
        ("postgres://ada:CANARY@127.0.0.1:1/db?sslmode=require", quick(), ErrorCode::Unsupported),
        ("postgres://ada:CANARY@127.0.0.1:1/db?sslmode=verify-full", quick(), ErrorCode::Unsupported),
        ("postgres://ada:CANARY@127.0.0.1:1/db", quick().schema("a b"), ErrorCode::InvalidParams),
        ("postgres://ada:CANARY@127.0.0.1:1/db", quick().connections(0), ErrorCode::InvalidParams),
    ] {
        let error = PostgresStore::connect_with(url, options, clock()).await.unwrap_err();
        assert_eq!(error.code(), code, "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("CANARY"), "{error:?}");
    }
}

#[tokio::test]
async fn debug_says_where_it_is_and_no_more() {
    let Some(server) = PostgresServer::shared().await else { return };
    let schema = server.new_schema();
    let url = server.url().replace("paas@", "paas:CANARY@");
    let options = PostgresOptions::default().schema(&schema);
    let store = PostgresStore::connect_with(&url, options, clock()).await.unwrap();
    let shown = format!("{store:?}");
    assert!(shown.contains(&schema) && shown.contains("/postgres") && !shown.contains("CANARY"), "{shown}");
}

#[tokio::test]
async fn a_lease_ends_by_the_databases_clock_however_wrong_the_engines_is() {
    let Some(server) = PostgresServer::shared().await else { return };
    let schema = server.new_schema();
    let (databases, engines) = (Arc::new(ManualClock::default()), Arc::new(ManualClock::default()));
    let shown = ClockedStore::connect(&server, &schema, databases.clone()).await.unwrap();
    let options = PostgresOptions::default().schema(&schema);
    let wrong = PostgresStore::connect_with(&server.url(), options, engines.clone()).await.unwrap();
    let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
    // The first call shows the database its time.
    assert_eq!(shown.leased(&turn_lease("app")).await.unwrap(), None);
    engines.advance(hour);
    assert!(wrong.lease(&turn_lease("app"), "a", minute).await.unwrap());
    assert!(!shown.lease(&turn_lease("app"), "b", minute).await.unwrap(), "its holder's clock is ahead");
    assert_eq!(wrong.next_due().await.unwrap(), Some(engines.now() + minute), "told by the asker's clock");
    engines.set(databases.now() - hour);
    databases.advance(minute);
    assert!(shown.lease(&turn_lease("app"), "b", minute).await.unwrap(), "its holder's clock is behind");
    assert_eq!(wrong.next_due().await.unwrap(), Some(engines.now() + minute));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_store_commits_wakes_listeners_of_another() {
    let Some(server) = PostgresServer::shared().await else { return };
    let schema = server.new_schema();
    let (ours, theirs) = (open(&server, &schema).await.unwrap(), open(&server, &schema).await.unwrap());
    let mut changes = ours.changes();
    for n in 0..3 {
        changes.mark_unchanged();
        theirs.commit(put("a", n.to_string())).await.unwrap();
        changes.changed().await.unwrap();
    }
    assert!(theirs.lease("a", "me", Duration::from_secs(60)).await.unwrap());
    changes.mark_unchanged();
    theirs.unlease("a", "me").await.unwrap();
    changes.changed().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_events_sees_each_once_and_in_order_however_many_engines_write() {
    const STORES: usize = 4;
    const WRITERS: usize = 6;
    const EACH: usize = 15;
    let Some(server) = PostgresServer::shared().await else { return };
    let schema = server.new_schema();
    let mut writers = Vec::new();
    for store in 0..STORES {
        let store = (Arc::new(open(&server, &schema).await.unwrap()), store);
        for writer in 0..WRITERS {
            let (store, who) = (store.0.clone(), format!("{}-{writer}", store.1));
            writers.push(tokio::spawn(async move {
                let mut last = 0;
                for n in 0..EACH {
                    // A row that all write, one of its own, and events of different numbers.
                    let mut transaction = put("shared", who.clone()).write(Write::put(
                        Table::Releases,
                        format!("{who}-{n}"),
                        "",
                        Expect::Absent,
                        "{}".into(),
                    ));
                    for _ in 0..=n % 3 {
                        transaction = transaction.event(NewEvent::new(who.clone(), n.to_string()));
                    }
                    let place = store.commit(transaction).await.unwrap();
                    assert!(place > last, "places grow");
                    last = place;
                    let own = store.events(place - 1, None, 1).await.unwrap();
                    assert!(own[0].subject == who && own[0].body == n.to_string(), "what is told is there");
                }
            }));
        }
    }
    let reader = open(&server, &schema).await.unwrap();
    let all = STORES * WRITERS * EACH * 2;
    let (mut cursor, mut seen) = (0, Vec::new());
    while seen.len() < all {
        let over = writers.iter().all(JoinHandle::is_finished);
        let events = reader.events(cursor, None, 7).await.unwrap();
        assert!(!over || !events.is_empty(), "{} of {all} events were never seen", all - seen.len());
        for event in events {
            assert_eq!(event.seq, cursor + 1, "none is missing before it");
            cursor = event.seq;
            seen.push(event);
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(reader.events(cursor, None, 1).await.unwrap(), []);
    let shared = reader.get(Table::Apps, "shared").await.unwrap().unwrap();
    assert_eq!(shared.rev, (STORES * WRITERS * EACH) as u64, "no write of it was lost");
    let of = |who: &str| {
        seen.iter().filter(|event| event.subject == who).map(|e| e.body.clone()).collect::<Vec<_>>()
    };
    let expected: Vec<_> = (0..EACH).flat_map(|n| vec![n.to_string(); n % 3 + 1]).collect();
    for writer in 0..STORES * WRITERS {
        assert_eq!(
            of(&format!("{}-{}", writer / WRITERS, writer % WRITERS)),
            expected,
            "each writer's in its order"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_cannot_be_kept_harms_no_other() {
    let Some(server) = PostgresServer::shared().await else { return };
    let store = open(&server, &server.new_schema()).await.unwrap();
    let commits = (0..60).map(|n| {
        // PostgreSQL keeps no text with a zero byte.
        let key = if n % 7 == 3 { format!("\0{n}") } else { n.to_string() };
        store.commit(put(&key, "{}".into()))
    });
    for (n, answer) in join_all(commits).await.into_iter().enumerate() {
        match answer {
            Ok(_) => assert!(n % 7 != 3),
            Err(e) => assert!(n % 7 == 3 && e.code() == ErrorCode::InvalidParams, "{n}: {e}"),
        }
    }
    assert_eq!(store.list(Table::Apps, &ListQuery::all()).await.unwrap().len(), 51);
}

/// One app's workflow after the other, by several stores, while the server is killed again and again.
/// Commits without end, each by a store of its own, and keeps book of what was acknowledged and what may have happened.
struct Writers {
    over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<(BTreeSet<String>, BTreeSet<String>)>>,
}

impl Writers {
    fn start(stores: Vec<PostgresStore>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let task = |(worker, store): (usize, PostgresStore)| {
            let over = over.clone();
            tokio::spawn(async move {
                let (mut kept, mut unsure) = (BTreeSet::new(), BTreeSet::new());
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("{worker}-{n}");
                    let transaction = put(&key, "{}".into()).event(NewEvent::new("app", key.clone()));
                    match store.commit(transaction).await {
                        Ok(_) => drop(kept.insert(key)),
                        Err(e) => {
                            assert_eq!(
                                (e.code(), e.retry()),
                                (ErrorCode::Unavailable, Retry::Backoff),
                                "{e}"
                            );
                            unsure.insert(key);
                        }
                    }
                }
                (kept, unsure)
            })
        };
        let tasks = stores.into_iter().enumerate().map(task).collect();
        Self { over, tasks }
    }

    /// Until everybody has gone on after these events, which stay as they were.
    async fn go_on(reader: &PostgresStore, seen: &[EventRow]) -> Vec<EventRow> {
        let mut changes = reader.changes();
        loop {
            let events = reader.events(0, None, usize::MAX).await.unwrap_or_default();
            if events.len() >= seen.len() + 30 {
                assert!(events.starts_with(seen), "what a reader has seen is not there any more");
                return events;
            }
            changes.changed().await.unwrap();
        }
    }

    /// What was acknowledged is there, and nothing that nobody wrote; each with its event.
    async fn lost_nothing(self, reader: &PostgresStore) {
        self.over.store(true, Ordering::Relaxed);
        let (mut kept, mut unsure) = (BTreeSet::new(), BTreeSet::new());
        for task in self.tasks {
            let (k, u) = task.await.unwrap();
            kept.extend(k);
            unsure.extend(u);
        }
        println!("{} kept, {} interrupted", kept.len(), unsure.len());
        assert!(!unsure.is_empty(), "the server was killed in the middle of something");
        let rows = reader.list(Table::Apps, &ListQuery::all()).await.unwrap();
        let there: BTreeSet<_> = rows.into_iter().map(|row| row.key).collect();
        assert!(kept.is_subset(&there), "lost: {:?}", kept.difference(&there));
        assert!(there.iter().all(|key| kept.contains(key) || unsure.contains(key)));
        let events = reader.events(0, None, usize::MAX).await.unwrap();
        let bodies: BTreeSet<_> = events.iter().map(|event| event.body.clone()).collect();
        assert_eq!((events.len(), bodies), (there.len(), there), "each row has its event, once");
        assert!(events.iter().map(|event| event.seq).eq(1..=events.len() as u64));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_loses_nothing_that_it_acknowledged_and_the_stores_go_on() {
    let Some(server) = PostgresServer::own().await else { return };
    let schema = server.new_schema();
    let stores = (0..3).map(|_| open(&server, &schema));
    let writers = Writers::start(try_join_all(stores).await.unwrap());
    let reader = open(&server, &schema).await.unwrap();
    let mut seen = Writers::go_on(&reader, &[]).await;
    for _ in 0..4 {
        server.kill().unwrap();
        server.restart().await.unwrap();
        seen = Writers::go_on(&reader, &seen).await;
    }
    writers.lost_nothing(&reader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_synchronous_standby_loses_nothing_and_the_stores_follow() {
    let Some(primary) = PostgresServer::own().await else { return };
    let standby = primary.standby().await.unwrap();
    let url = primary.url_with(&standby);
    let open = || PostgresStore::connect_with(&url, PostgresOptions::default().schema("moves"), clock());
    let writers = Writers::start(try_join_all((0..3).map(|_| open())).await.unwrap());
    let reader = open().await.unwrap();
    let seen = Writers::go_on(&reader, &[]).await;
    primary.kill().unwrap();
    standby.promote().await.unwrap();
    Writers::go_on(&reader, &seen).await;
    writers.lost_nothing(&reader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_out_a_restart_and_the_listener_hears_again() {
    let Some(server) = PostgresServer::own().await else { return };
    let schema = server.new_schema();
    let (ours, theirs) = (open(&server, &schema).await.unwrap(), open(&server, &schema).await.unwrap());
    let mut changes = ours.changes();
    theirs.commit(put("a", "1".into())).await.unwrap();
    server.kill().unwrap();
    let ((), restarted) = tokio::join!(
        async {
            // Nobody answers while it is away: what was only waiting for it goes through afterwards.
            loop {
                match theirs.commit(put("a", "2".into())).await {
                    Ok(_) => break,
                    Err(e) => assert_eq!(e.code(), ErrorCode::Unavailable, "{e}"),
                }
            }
        },
        server.restart()
    );
    restarted.unwrap();
    while ours.get(Table::Apps, "a").await.unwrap().unwrap().body != "2" {
        changes.changed().await.unwrap();
    }
    changes.mark_unchanged();
    theirs.commit(put("a", "3".into())).await.unwrap();
    changes.changed().await.unwrap();
}

/// A session such as a person has with psql.
async fn session(server: &PostgresServer) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_holds_keeps_no_other_call_waiting() {
    let Some(server) = PostgresServer::shared().await else { return };
    let schema = server.new_schema();
    let options = PostgresOptions::default().schema(&schema).statement_timeout(Duration::from_millis(300));
    let store = PostgresStore::connect_with(&server.url(), options, clock()).await.unwrap();
    let (deploy, id) = (KindName::new("deploy").unwrap(), WorkflowId::new());
    let standing = |subject: &str, id: WorkflowId| {
        let entry = QueueEntry::queued(subject, deploy.clone(), 1);
        Write::put(Table::Workflows, id.to_string(), subject, Expect::Any, "{}".into()).standing(entry)
    };
    store.commit(Transaction::new().write(standing("app", id))).await.unwrap();
    let person = session(&server).await;
    person.batch_execute(&format!("BEGIN; SELECT FROM {schema}.workflows FOR UPDATE")).await.unwrap();
    let request = ClaimRequest::new(OwnerId::new(), Duration::from_secs(60), vec![(deploy.clone(), 1)]);
    assert_eq!(store.claim(&request).await.unwrap(), None, "it is passed over");
    let refused = store.commit(Transaction::new().write(standing("app", id))).await.unwrap_err();
    assert_eq!((refused.code(), refused.retry()), (ErrorCode::Unavailable, Retry::Backoff), "{refused}");
    let other = WorkflowId::new();
    store.commit(Transaction::new().write(standing("other", other))).await.unwrap();
    let claimed = store.claim(&request).await.unwrap().unwrap();
    assert_eq!(claimed.key, other.to_string());
    person.batch_execute("ROLLBACK").await.unwrap();
    let claimed = store.claim(&request).await.unwrap().unwrap();
    let owner = claimed.queue.unwrap().owner.unwrap();
    assert_eq!(claimed.key, id.to_string());
    assert_eq!(store.renew(&Fence::new(id, owner, 1), Duration::from_secs(60)).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_is_never_given_back_is_told_and_not_waited_for_without_end() {
    let Some(server) = PostgresServer::shared().await else { return };
    let schema = server.new_schema();
    let options = PostgresOptions::default().schema(&schema).statement_timeout(Duration::from_millis(300));
    let store = PostgresStore::connect_with(&server.url(), options, clock()).await.unwrap();
    let person = session(&server).await;
    let hold = format!("SELECT pg_advisory_lock(hashtext('paas commit'), hashtext('{schema}'))");
    person.batch_execute(&hold).await.unwrap();
    let refused = store.commit(put("a", "{}".into())).await.unwrap_err();
    assert_eq!((refused.code(), refused.retry()), (ErrorCode::Unavailable, Retry::Backoff), "{refused}");
    assert_eq!(store.get(Table::Apps, "a").await.unwrap(), None);
    drop(person);
    while store.commit(put("a", "{}".into())).await.is_err() {}
    assert_eq!(store.get(Table::Apps, "a").await.unwrap().unwrap().rev, 1);
}
