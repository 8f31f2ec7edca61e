//! Claims, leases and turns. Every statement walks an index that holds only what is open, so that its cost
//! grows neither with the number of apps nor with history.

use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension};
use serde_json::json;

use super::rows;
use crate::Result;
use crate::store::{ClaimRequest, Fence, QueueState, Row, Table, rules, turn_lease};

type Time = DateTime<Utc>;

/// What was to be claimed later and now can be: each is looked at once.
pub(super) const RIPEN_SQL: &str =
    "UPDATE workflows INDEXED BY workflows_unripe SET later = NULL WHERE later IS NOT NULL AND later <= ?1";

/// What an engine left behind, and what is the first of its subject: of each kind that is known the one with the lowest place,
/// and of those the lowest. The values are the time, the kinds, the beginning of a turn's name.
pub(super) fn claim_sql() -> [String; 2] {
    ["active", "queued"].map(|state| {
        format!(
            "SELECT w.key FROM json_each(?2) AS kinds CROSS JOIN workflows AS w ON w.key = (
                 SELECT r.key FROM workflows AS r INDEXED BY workflows_ready
                 WHERE r.later IS NULL AND (r.state = 'active' OR r.first = 1) AND r.state = '{state}'
                 AND r.kind = kinds.value ->> 0 AND r.kind_version = kinds.value ->> 1
                 -- The clock may have been set back.
                 AND max(coalesce(r.lease_until, 0), coalesce(r.not_before, 0)) <= ?1
                 AND NOT EXISTS (SELECT 1 FROM leases AS turn
                     WHERE turn.name = ?3 || r.subject AND turn.until > ?1 AND turn.owner IS NOT r.turn)
                 ORDER BY r.place LIMIT 1)
             ORDER BY w.place LIMIT 1"
        )
    })
}

/// The first of a subject of which none is active, and the one that was said to be so.
pub(super) const FIRST_SQL: [&str; 2] = [
    "SELECT key FROM workflows INDEXED BY workflows_waiting WHERE state = 'queued' AND subject = ?1
     AND NOT EXISTS (SELECT 1 FROM workflows AS other INDEXED BY workflows_running
         WHERE other.state = 'active' AND other.subject = ?1)
     ORDER BY place LIMIT 1",
    "SELECT key FROM workflows INDEXED BY workflows_first WHERE first = 1 AND subject = ?1",
];

/// Says which of a subject is the first now, after one of it was written or removed.
pub(super) fn settle(connection: &Connection, subject: &str) -> Result<()> {
    let [first, said] = FIRST_SQL;
    let first: Option<String> =
        connection.prepare_cached(first)?.query_one([subject], |row| row.get(0)).optional()?;
    let mut statement = connection.prepare_cached(said)?;
    let said = statement.query_map([subject], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let mut set = connection.prepare_cached("UPDATE workflows SET first = ?2 WHERE key = ?1")?;
    for key in said.iter().filter(|key| Some(*key) != first.as_ref()) {
        set.execute((key, 0))?;
    }
    if let Some(key) = first.filter(|key| !said.contains(key)) {
        set.execute((key, 1))?;
    }
    Ok(())
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
    let kinds: Vec<_> = request.kinds.iter().map(|(kind, version)| json!([kind.as_str(), version])).collect();
    let kinds = serde_json::Value::from(kinds).to_string();
    connection.prepare_cached(RIPEN_SQL)?.execute([rules::micros(now)])?;
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
    if let Some(entry) = &entry {
        settle(connection, &entry.subject)?;
    }
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
        "UPDATE workflows SET lease_until = max(coalesce(lease_until, 0), ?2),
             later = max(coalesce(lease_until, 0), coalesce(not_before, 0), ?2) WHERE key = ?1 RETURNING rev",
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
        "UPDATE workflows SET lease_until = ?1, later = max(?1, coalesce(not_before, 0))
         WHERE state = 'active' AND lease_until > ?1",
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
