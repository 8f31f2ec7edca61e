//! Reading and writing rows.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, named_params, params_from_iter};

use super::error::unreadable;
use crate::store::{ListQuery, QueueEntry, QueueState, Queued, Row, Table, rules};
use crate::{KindName, Result};

const PLAIN: &str = "key, parent, rev, body";
const WORKFLOW: &str = "key, parent, rev, body, subject, kind, kind_version, state, not_before, turn, place, owner, \
                        fence, lease_until";

pub(super) fn columns(table: Table) -> &'static str {
    if table == Table::Workflows { WORKFLOW } else { PLAIN }
}

pub(super) fn get(connection: &Connection, table: Table, key: &str) -> Result<Option<Row>> {
    let sql = format!("SELECT {} FROM {} WHERE key = ?1", columns(table), table.as_str());
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_one([key], |row| Ok(read(table, row))).optional()?.transpose()
}

pub(super) fn list(connection: &Connection, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
    if table != Table::Workflows && !query.states.is_empty() {
        return Ok(Vec::new());
    }
    let (sql, values) = list_sql(table, query);
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params_from_iter(values), |row| Ok(read(table, row)))?;
    rows.map(|row| row?).collect()
}

/// The statement of a list and its values. Only our own constants become its text.
pub(super) fn list_sql(table: Table, query: &ListQuery) -> (String, Vec<Value>) {
    let mut values = Vec::new();
    let mut conditions = Vec::new();
    if let Some(parent) = &query.parent {
        values.push(Value::from(parent.clone()));
        conditions.push(format!("parent = ?{}", values.len()));
    }
    if !query.states.is_empty() {
        let states: Vec<_> = query.states.iter().map(|state| format!("'{}'", state.as_str())).collect();
        conditions.push(format!("state IN ({})", states.join(", ")));
        if !query.states.contains(&QueueState::Ended) {
            // Says nothing new, but to the planner: it may use the small indexes of what is open.
            conditions.push("state <> 'ended'".to_owned());
        }
    }
    let (order, beyond) = if query.descending { ("DESC", "<") } else { ("ASC", ">") };
    if let Some(after) = &query.after {
        values.push(Value::from(after.clone()));
        conditions.push(format!("key {beyond} ?{}", values.len()));
    }
    let all = if conditions.is_empty() { "TRUE".to_owned() } else { conditions.join(" AND ") };
    let limit = query.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    values.push(Value::from(limit));
    let sql = format!(
        "SELECT {} FROM {} WHERE {all} ORDER BY key {order} LIMIT ?{}",
        columns(table),
        table.as_str(),
        values.len()
    );
    (sql, values)
}

/// Writes a row, whether it is there or not.
pub(super) fn put(connection: &Connection, table: Table, row: &Row) -> Result<()> {
    let Some(queue) = &row.queue else {
        let sql = format!(
            "INSERT INTO {} ({PLAIN}) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (key) DO UPDATE SET parent = ?2, rev = ?3, body = ?4",
            table.as_str()
        );
        let mut statement = connection.prepare_cached(&sql)?;
        statement.execute((&row.key, &row.parent, integer(row.rev), &row.body))?;
        return Ok(());
    };
    let mut statement = connection.prepare_cached(
        "INSERT INTO workflows (key, parent, rev, body, subject, kind, kind_version, state, not_before, turn, place,
             owner, fence, lease_until, later, first)
         VALUES (:key, :parent, :rev, :body, :subject, :kind, :kind_version, :state, :not_before, :turn, :place,
             :owner, :fence, :lease_until, :later, :state = 'queued'
                 AND NOT EXISTS (SELECT 1 FROM workflows AS other INDEXED BY workflows_running
                     WHERE other.state = 'active' AND other.subject = :subject AND other.key <> :key)
                 AND NOT EXISTS (SELECT 1 FROM workflows AS other INDEXED BY workflows_waiting
                     WHERE other.state = 'queued' AND other.subject = :subject AND other.place < :place))
         ON CONFLICT (key) DO UPDATE SET parent = :parent, rev = :rev, body = :body, subject = :subject, kind = :kind,
             kind_version = :kind_version, state = :state, not_before = :not_before, turn = :turn, place = :place,
             owner = :owner, fence = :fence, lease_until = :lease_until, later = excluded.later, first = excluded.first",
    )?;
    let entry = &queue.entry;
    let due = queue.lease_until.max(entry.not_before);
    let later = due.filter(|_| matches!(entry.state, QueueState::Queued | QueueState::Active));
    statement.execute(named_params! {
        ":key": row.key,
        ":parent": row.parent,
        ":rev": integer(row.rev),
        ":body": row.body,
        ":subject": entry.subject,
        ":kind": entry.kind.as_str(),
        ":kind_version": entry.kind_version,
        ":state": entry.state.as_str(),
        ":not_before": entry.not_before.map(rules::micros),
        ":turn": entry.turn.map(|turn| turn.to_string()),
        ":place": integer(queue.place),
        ":owner": queue.owner.map(|owner| owner.to_string()),
        ":fence": integer(queue.fence),
        ":lease_until": queue.lease_until.map(rules::micros),
        ":later": later.map(rules::micros),
    })?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, table: Table, key: &str) -> Result<()> {
    let mut statement =
        connection.prepare_cached(&format!("DELETE FROM {} WHERE key = ?1", table.as_str()))?;
    statement.execute([key])?;
    Ok(())
}

/// SQLite's integers have a sign; ours never grow so far.
pub(super) fn integer(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn read(table: Table, row: &rusqlite::Row<'_>) -> Result<Row> {
    let key: String = row.get(0)?;
    let queue = if table == Table::Workflows { Some(read_queue(&key, row)?) } else { None };
    Ok(Row::new(key, row.get(1)?, number(row, 2)?, row.get(3)?, queue))
}

fn read_queue(key: &str, row: &rusqlite::Row<'_>) -> Result<Queued> {
    let state = match row.get::<_, String>(7)?.as_str() {
        "queued" => QueueState::Queued,
        "active" => QueueState::Active,
        "parked" => QueueState::Parked,
        "ended" => QueueState::Ended,
        _ => return Err(unreadable("state", key)),
    };
    let kind = KindName::new(row.get::<_, String>(5)?).map_err(|_| unreadable("kind", key))?;
    let mut entry = QueueEntry::queued(row.get::<_, String>(4)?, kind, row.get(6)?);
    entry.state = state;
    entry.not_before = row.get::<_, Option<i64>>(8)?.map(rules::from_micros);
    entry.turn = parsed(row, 9).map_err(|()| unreadable("turn", key))?;
    let mut queue = Queued::new(entry, number(row, 10)?);
    queue.owner = parsed(row, 11).map_err(|()| unreadable("owner", key))?;
    queue.fence = number(row, 12)?;
    queue.lease_until = row.get::<_, Option<i64>>(13)?.map(rules::from_micros);
    Ok(queue)
}

fn parsed<T: std::str::FromStr>(row: &rusqlite::Row<'_>, column: usize) -> Result<Option<T>, ()> {
    let text: Option<String> = row.get(column).map_err(drop)?;
    text.map(|text| text.parse()).transpose().map_err(drop)
}

pub(super) fn number(row: &rusqlite::Row<'_>, column: usize) -> Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| unreadable("number", &column.to_string()))
}
