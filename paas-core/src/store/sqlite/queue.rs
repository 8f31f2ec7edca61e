//! Claims, leases and turns. Every statement walks an index that holds only what is open, so that its cost
//! grows neither with the number of apps nor with history.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension};

use super::rows;
use crate::Result;
use crate::store::{ClaimRequest, Fence, QueueState, Row, Table, rules, turn_lease};

type Time = DateTime<Utc>;

/// What the values of both claims are: the time, the kinds, the beginning of a turn's name.
const WANTED: &str = "
    AND w.kind || ' ' || w.kind_version IN (SELECT value FROM json_each(?2))
    AND NOT EXISTS (SELECT 1 FROM leases AS turn
        WHERE turn.name = ?3 || w.subject AND turn.until > ?1 AND turn.owner IS NOT w.turn)
    ORDER BY w.place LIMIT 1";

/// What an engine left behind.
const LEFT: &str = "SELECT w.key FROM workflows AS w INDEXED BY workflows_active
    WHERE w.state = 'active' AND max(coalesce(w.lease_until, 0), coalesce(w.not_before, 0)) <= ?1";

/// What is the next of its subject.
const NEXT: &str = "SELECT w.key FROM workflows AS w INDEXED BY workflows_queued
    WHERE w.state = 'queued' AND coalesce(w.not_before, 0) <= ?1
    AND NOT EXISTS (SELECT 1 FROM workflows AS other INDEXED BY workflows_running
        WHERE other.state = 'active' AND other.subject = w.subject)
    AND NOT EXISTS (SELECT 1 FROM workflows AS other INDEXED BY workflows_waiting
        WHERE other.state = 'queued' AND other.subject = w.subject AND other.place < w.place)";

pub(super) fn claim_sql() -> [String; 2] {
    [format!("{LEFT}{WANTED}"), format!("{NEXT}{WANTED}")]
}

pub(super) const DUE_SQL: [&str; 3] = [
    "SELECT min(max(coalesce(lease_until, 0), coalesce(not_before, 0))) FROM workflows INDEXED BY workflows_active
     WHERE state = 'active' AND max(coalesce(lease_until, 0), coalesce(not_before, 0)) > ?1",
    "SELECT min(not_before) FROM workflows INDEXED BY workflows_later
     WHERE state = 'queued' AND not_before IS NOT NULL AND not_before > ?1",
    "SELECT min(until) FROM leases INDEXED BY turns_by_end
     WHERE name >= 'turn/' AND name < 'turn0' AND until > ?1",
];

pub(super) fn claim(connection: &Connection, request: &ClaimRequest, now: Time) -> Result<Option<Row>> {
    let kinds: Vec<String> =
        request.kinds.iter().map(|(kind, version)| format!("{kind} {version}")).collect();
    let kinds = serde_json::Value::from(kinds).to_string();
    for sql in claim_sql() {
        let mut statement = connection.prepare_cached(&sql)?;
        let values = (rules::micros(now), &kinds, turn_lease(""));
        let key: Option<String> = statement.query_one(values, |row| row.get(0)).optional()?;
        if let Some(row) = key.and_then(|key| rows::get(connection, Table::Workflows, &key).transpose()) {
            return take_over(connection, row?, request, now).map(Some);
        }
    }
    Ok(None)
}

fn take_over(connection: &Connection, row: Row, request: &ClaimRequest, now: Time) -> Result<Row> {
    let entry = row.queue.as_ref().map(|queue| queue.entry.clone());
    let row = rules::claimed(row, request, now);
    rows::put(connection, Table::Workflows, &row)?;
    if let Some(entry) = entry
        && let (QueueState::Queued, Some(turn)) = (entry.state, entry.turn)
    {
        lease(connection, &turn_lease(&entry.subject), &turn.to_string(), request.ttl, now)?;
    }
    Ok(row)
}

pub(super) fn renew(connection: &Connection, fence: &Fence, ttl: Duration, now: Time) -> Result<u64> {
    let key = fence.workflow.to_string();
    let row = rows::get(connection, Table::Workflows, &key)?;
    rules::check_fence(row.as_ref(), fence)?;
    let mut statement = connection.prepare_cached(
        "UPDATE workflows SET lease_until = max(coalesce(lease_until, 0), ?2) WHERE key = ?1 RETURNING rev",
    )?;
    let until = rules::micros(rules::lease_end(now, ttl));
    statement.query_one((key, until), |row| Ok(rows::number(row, 0)))?
}

/// Takes or prolongs a lease; false when another owner holds it.
pub(super) fn lease(
    connection: &Connection,
    name: &str,
    owner: &str,
    ttl: Duration,
    now: Time,
) -> Result<bool> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO leases (name, owner, until) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET owner = ?2,
             until = CASE WHEN owner = ?2 THEN max(until, ?3) ELSE ?3 END
         WHERE owner = ?2 OR until <= ?4",
    )?;
    let until = rules::micros(rules::lease_end(now, ttl));
    Ok(statement.execute((name, owner, until, rules::micros(now)))? == 1)
}

pub(super) fn unlease(connection: &Connection, name: &str, owner: &str) -> Result<()> {
    let mut statement = connection.prepare_cached("DELETE FROM leases WHERE name = ?1 AND owner = ?2")?;
    statement.execute((name, owner))?;
    Ok(())
}

pub(super) fn end_leases(connection: &Connection, now: Time) -> Result<()> {
    let now = rules::micros(now);
    connection.execute(
        "UPDATE workflows SET lease_until = ?1 WHERE state = 'active' AND lease_until > ?1",
        [now],
    )?;
    connection.execute("UPDATE leases SET until = ?1 WHERE until > ?1", [now])?;
    Ok(())
}

pub(super) fn holder(connection: &Connection, name: &str, now: Time) -> Result<Option<String>> {
    let mut statement =
        connection.prepare_cached("SELECT owner FROM leases WHERE name = ?1 AND until > ?2")?;
    Ok(statement.query_one((name, rules::micros(now)), |row| row.get(0)).optional()?)
}

pub(super) fn next_due(connection: &Connection, now: Time) -> Result<Option<Time>> {
    let mut due: Option<i64> = None;
    for sql in DUE_SQL {
        let found: Option<i64> =
            connection.prepare_cached(sql)?.query_one([rules::micros(now)], |row| row.get(0))?;
        due = due.into_iter().chain(found).min();
    }
    Ok(due.map(rules::from_micros))
}
