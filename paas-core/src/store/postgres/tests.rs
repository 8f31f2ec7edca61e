//! How much of the database the statements look at. The server comes from the testkit.
#![cfg(feature = "testkit")]

use std::sync::Arc;
use std::time::Duration;

use super::session::{Connector, Session};
use super::{PostgresOptions, PostgresStore, queue, rows, schema};
use crate::store::{ClaimRequest, ListQuery, QueueState, Store, Table};
use crate::testkit::postgres::PostgresServer;
use crate::{KindName, OwnerId, SystemClock, WorkflowId};

/// A session on a store with 5,000 apps that each have a workflow running, one waiting and four that have ended, one app
/// with 5,000 that wait, 5,000 apps whose first one is due later, and 5,000 whose first one is of an unknown kind.
async fn crowded(server: &PostgresServer) -> Session {
    let options = PostgresOptions::default().schema(server.new_schema());
    let connector = Connector::new(&server.url(), options).unwrap();
    let session = connector.open().await.unwrap();
    schema::migrate(&connector, &session).await.unwrap();
    let fill = "INSERT INTO workflows (key, parent, rev, body, subject, kind, kind_version, state, place, fence, owner, lease_until)
            SELECT 'w' || n, 'p' || n % 5000, 1, '{}', 'app-' || CASE WHEN n > 30000 THEN 0 ELSE n % 5000 END, 'deploy', 1,
                CASE WHEN n <= 20000 THEN 'ended' WHEN n <= 25000 THEN 'active' ELSE 'queued' END, n, 0,
                CASE WHEN n BETWEEN 20001 AND 25000 THEN 'other' END,
                CASE WHEN n BETWEEN 20001 AND 25000 THEN clock() + 3600000000 END
            FROM generate_series(1, 35000) AS n;
        INSERT INTO workflows (key, parent, rev, body, subject, kind, kind_version, state, not_before, place, fence)
            SELECT 'later-' || n, 'p', 1, '{}', 'later-' || n, 'deploy', 1, 'queued', clock() + 3600000000, 50000 + n, 0
            FROM generate_series(1, 5000) AS n;
        INSERT INTO workflows (key, parent, rev, body, subject, kind, kind_version, state, place, fence)
            SELECT 'newer-' || n, 'p', 1, '{}', 'newer-' || n, 'deploy', 2, 'queued', 60000 + n, 0
            FROM generate_series(1, 5000) AS n;
        INSERT INTO rows SELECT 'releases', 'r' || n, 'p' || n % 5000, 1, '{}' FROM generate_series(1, 20000) AS n;
        INSERT INTO events SELECT n, 'app-' || n % 5000, '{}' FROM generate_series(1, 20000) AS n;
        INSERT INTO leases SELECT 'turn/app-' || n, 'x', clock() + 3600000000 + n FROM generate_series(1, 5000) AS n;
        SELECT line_up(array_agg(DISTINCT subject)) FROM workflows WHERE state = 'queued';";
    session.client.batch_execute(fill).await.unwrap();
    session
}

/// How the database carries a statement out, and how many pages it looks at.
async fn explain(session: &Session, sql: &str) -> (String, u64) {
    let plan = session.client.query(&format!("EXPLAIN (ANALYZE, BUFFERS) {sql}"), &[]).await.unwrap();
    let lines: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    let pages = lines.iter().find_map(|line| line.trim().strip_prefix("Buffers: shared hit="));
    let pages = pages.map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap());
    (lines.join("\n"), pages.unwrap_or(0))
}

#[tokio::test]
async fn a_claim_looks_at_a_few_pages_however_much_runs_waits_or_has_ended() {
    let Some(server) = PostgresServer::shared().await else { return };
    let session = crowded(&server).await;
    let claim = format!("SELECT key FROM claim('{}', 1000000, ARRAY['deploy 1'])", OwnerId::new());
    for statistics in ["SELECT 1", "ANALYZE"] {
        session.client.batch_execute(statistics).await.unwrap();
        // The first call of a session reads the catalogue, too.
        let (_, _) = explain(&session, &claim).await;
        let (plan, pages) = explain(&session, &claim).await;
        assert!(plan.contains("rows=0"), "nothing is claimable: {plan}");
        assert!(pages < 60, "{pages} pages, after {statistics}:\n{plan}");
    }
    let two = "INSERT INTO workflows (key, parent, rev, body, subject, kind, kind_version, state, place, fence)
            SELECT 'last-' || n, 'p', 1, '{}', 'new-' || n, 'deploy', 1, 'queued', 99999 + n, 0 FROM generate_series(1, 2) AS n;
        SELECT line_up(ARRAY['new-1', 'new-2'])";
    session.client.batch_execute(two).await.unwrap();
    // Again the first one reads the catalogue.
    let (_, _) = explain(&session, &claim).await;
    let (plan, pages) = explain(&session, &claim).await;
    assert!(plan.contains("rows=1") && pages < 90, "{pages} pages:\n{plan}");
}

#[tokio::test]
async fn lists_events_and_due_times_are_read_along_indexes() {
    let Some(server) = PostgresServer::shared().await else { return };
    let session = crowded(&server).await;
    let open = [QueueState::Queued, QueueState::Active, QueueState::Parked];
    let mut statements = vec![queue::DUE_SQL.to_owned(), queue::HOLDER_SQL.replace("$1", "'turn/app-7'")];
    statements.extend(
        rows::EVENTS_SQL.map(|sql| sql.replace("$1", "19000").replace("$2", "5").replace("$3", "'app-7'")),
    );
    for query in [
        ListQuery::of("p7").limit(5),
        ListQuery::of("p7").descending().limit(5),
        ListQuery::of("p7").states(open).limit(5),
        ListQuery::all().states(open).limit(5),
        ListQuery::all().after("w7").limit(5),
        ListQuery::all().after("w7").descending().limit(5),
    ] {
        let first = if query.parent.is_some() { "'p7'" } else { "'w7'" };
        for table in [Table::Workflows, Table::Releases] {
            if table != Table::Workflows && !query.states.is_empty() {
                continue;
            }
            let sql = rows::list_sql(table, &query);
            let values = usize::from(query.parent.is_some()) + usize::from(query.after.is_some());
            let limit = format!("${}::bigint", values + 1);
            statements.push(sql.replace(&limit, "5").replace("$1", first));
        }
    }
    for statistics in ["SELECT 1", "ANALYZE"] {
        session.client.batch_execute(statistics).await.unwrap();
        for sql in &statements {
            let (_, _) = explain(&session, sql).await;
            let (plan, pages) = explain(&session, sql).await;
            assert!(
                pages < 60 && !plan.contains("Seq Scan"),
                "{pages} pages, after {statistics}: {sql}\n{plan}"
            );
        }
    }
}

#[tokio::test]
async fn what_an_older_version_queued_is_claimed_in_order_once_its_schema_has_grown() {
    let Some(server) = PostgresServer::shared().await else { return };
    let name = server.new_schema();
    let options = PostgresOptions::default().schema(name.clone());
    let old = Connector::new(&server.url(), options.clone()).unwrap().open().await.unwrap();
    // Left by an engine; behind it; two of a subject; one that is ripe, one that isn't.
    let keys: Vec<String> = (0..6).map(|_| WorkflowId::new().to_string()).collect();
    let fill = format!(
        "CREATE SCHEMA {name}; CREATE TABLE paas_version AS SELECT 1::bigint AS schema; {};
         INSERT INTO workflows (key, parent, rev, body, subject, kind, kind_version, state, not_before, place, fence, lease_until)
         SELECT key, subject, 1, '{{}}', subject, 'deploy', 1, state, due, place, 0, lease FROM (VALUES
            ('{}', 'busy', 'active', NULL, 1, 1), ('{}', 'busy', 'queued', NULL, 2, NULL),
            ('{}', 'free', 'queued', NULL, 3, NULL), ('{}', 'free', 'queued', NULL, 4, NULL),
            ('{}', 'ripe', 'queued', 1::bigint, 5, NULL), ('{}', 'late', 'queued', clock() + 3600000000, 6, NULL)
         ) AS w (key, subject, state, due, place, lease);
         SELECT line_up(ARRAY['busy', 'free', 'ripe', 'late'])",
        schema::MIGRATIONS[0], keys[0], keys[1], keys[2], keys[3], keys[4], keys[5],
    );
    old.client.batch_execute(&fill).await.unwrap();
    let store =
        PostgresStore::connect_with(&server.url(), options, Arc::new(SystemClock::new())).await.unwrap();
    let kinds = vec![(KindName::new("deploy").unwrap(), 1)];
    let request = ClaimRequest::new(OwnerId::new(), Duration::from_secs(600), kinds);
    let mut places = Vec::new();
    while let Some(row) = store.claim(&request).await.unwrap() {
        places.push(row.queue.unwrap().place);
    }
    assert_eq!(places, [1, 3, 5], "one of each subject");
    let grown = "SELECT key FROM claim('of an older version', 1000000, ARRAY['deploy 1'])";
    assert!(old.client.query(grown, &[]).await.unwrap().is_empty(), "an engine of before goes on asking");
}
