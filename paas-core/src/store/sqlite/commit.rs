//! Carrying out a transaction, and reading the events that it appended.

use chrono::{DateTime, Utc};
use rusqlite::Connection;

use super::{queue, rows};
use crate::Result;
use crate::store::{EventRow, Row, Table, Transaction, rules};

pub(super) fn commit(connection: &Connection, transaction: Transaction, now: DateTime<Utc>) -> Result<u64> {
    if let Some(fence) = &transaction.fence {
        let row = rows::get(connection, Table::Workflows, &fence.workflow.to_string())?;
        rules::check_fence(row.as_ref(), fence)?;
    }
    if let Some((name, owner)) = &transaction.lease {
        rules::check_lease(queue::holder(connection, name, now)?.as_deref(), name, owner)?;
    }
    for write in transaction.writes {
        let (table, key) = (write.table, write.key.clone());
        let old = rows::get(connection, table, &key)?;
        let new = rules::written(old.as_ref(), write, || next_place(connection))?;
        match &new {
            Some(row) => rows::put(connection, table, row)?,
            None if old.is_some() => rows::delete(connection, table, &key)?,
            None => {}
        }
        let subject =
            |row: &Option<Row>| row.as_ref()?.queue.as_ref().map(|queue| queue.entry.subject.clone());
        let (before, after) = (subject(&old), subject(&new));
        if let Some(subject) = before.filter(|before| after.as_ref() != Some(before)) {
            queue::settle(connection, &subject)?;
        }
        if let Some(subject) = after {
            queue::settle(connection, &subject)?;
        }
    }
    let mut append = connection.prepare_cached("INSERT INTO events (subject, body) VALUES (?1, ?2)")?;
    for event in transaction.events {
        append.execute((event.subject, event.body))?;
    }
    if let Some(place) = transaction.trim {
        let sql = "DELETE FROM events WHERE seq <= ?1 AND seq < (SELECT max(seq) FROM events)";
        connection.prepare_cached(sql)?.execute([rows::integer(place)])?;
    }
    let mut newest = connection.prepare_cached("SELECT coalesce(max(seq), 0) FROM events")?;
    newest.query_one([], |row| Ok(rows::number(row, 0)))?
}

fn next_place(connection: &Connection) -> Result<u64> {
    let sql = "UPDATE counters SET value = value + 1 WHERE name = 'place' RETURNING value";
    connection.prepare_cached(sql)?.query_one([], |row| Ok(rows::number(row, 0)))?
}

/// Of all subjects, and of one.
pub(super) const EVENTS_SQL: [&str; 2] = [
    "SELECT seq, subject, body FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    "SELECT seq, subject, body FROM events WHERE subject = ?3 AND seq > ?1 ORDER BY seq LIMIT ?2",
];

pub(super) fn events(
    connection: &Connection,
    after: u64,
    subject: Option<&str>,
    limit: usize,
) -> Result<Vec<EventRow>> {
    let mut statement = connection.prepare_cached(EVENTS_SQL[usize::from(subject.is_some())])?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let read = |row: &rusqlite::Row<'_>| Ok((rows::number(row, 0), row.get(1)?, row.get(2)?));
    let found = match subject {
        Some(subject) => statement.query_map((rows::integer(after), limit, subject), read)?,
        None => statement.query_map((rows::integer(after), limit), read)?,
    };
    found
        .map(|row| {
            let (seq, subject, body) = row?;
            Ok(EventRow::new(seq?, subject, body))
        })
        .collect()
}
