//! Reading rows.

use tokio_postgres::types::ToSql;

use super::error::unreadable;
use super::pool::Pool;
use crate::store::{EventRow, ListQuery, QueueEntry, QueueState, Queued, Row, Table, rules};
use crate::{KindName, Result};

/// The columns of a row of this table, its own first.
pub(super) fn columns(table: Table) -> &'static str {
    if table == Table::Workflows {
        "key, parent, rev, body, subject, kind, kind_version, state, not_before, turn, place, owner, fence, lease_until"
    } else {
        "key, parent, rev, body"
    }
}

/// Where a table's rows lie: workflows have a table of their own, all others share one.
fn from(table: Table) -> String {
    match table {
        Table::Workflows => "workflows WHERE TRUE".to_owned(),
        table => format!("rows WHERE kind = '{}'", table.as_str()),
    }
}

pub(super) async fn get(pool: &Pool, table: Table, key: &str) -> Result<Option<Row>> {
    let sql = format!("SELECT {} FROM {} AND key = $1", columns(table), from(table));
    let found = pool.call(&sql, &[&key]).await?;
    found.first().map(|row| read(table, row)).transpose()
}

pub(super) async fn list(pool: &Pool, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
    if table != Table::Workflows && !query.states.is_empty() {
        return Ok(Vec::new());
    }
    let limit = query.limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let texts = query.parent.iter().chain(&query.after);
    let mut values: Vec<&(dyn ToSql + Sync)> = texts.map(|text| text as &(dyn ToSql + Sync)).collect();
    values.push(&limit);
    let rows = pool.call(&list_sql(table, query), &values).await?;
    rows.iter().map(|row| read(table, row)).collect()
}

/// The statement of a list, whose values are parent and after, where the query names them, and the limit. Only our
/// own constants become its text.
pub(super) fn list_sql(table: Table, query: &ListQuery) -> String {
    let mut conditions = vec![from(table)];
    let mut values = 0;
    if query.parent.is_some() {
        values += 1;
        conditions.push(format!("parent = ${values}"));
    }
    if !query.states.is_empty() {
        let states = QueueState::ALL.iter().filter(|state| query.states.contains(state));
        let states: Vec<_> = states.map(|state| format!("'{}'", state.as_str())).collect();
        conditions.push(format!("state IN ({})", states.join(", ")));
        if !query.states.contains(&QueueState::Ended) {
            // Says nothing new, but to the planner: it may use the small indexes of what is open.
            conditions.push("state <> 'ended'".to_owned());
        }
    }
    let (order, beyond) = if query.descending { ("DESC", "<") } else { ("ASC", ">") };
    if query.after.is_some() {
        values += 1;
        conditions.push(format!("key {beyond} ${values}"));
    }
    let (columns, from) = (columns(table), conditions.join(" AND "));
    format!("SELECT {columns} FROM {from} ORDER BY key {order} LIMIT ${}::bigint", values + 1)
}

/// The database's integers have a sign; ours never grow so far.
pub(super) fn integer(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(super) fn number(row: &tokio_postgres::Row, column: usize) -> Result<u64> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|_| unreadable("number", &column.to_string()))
}

pub(super) fn read(table: Table, row: &tokio_postgres::Row) -> Result<Row> {
    let key: String = row.try_get(0)?;
    let queue = if table == Table::Workflows { Some(read_queue(&key, row)?) } else { None };
    Ok(Row::new(key, row.try_get(1)?, number(row, 2)?, row.try_get(3)?, queue))
}

fn read_queue(key: &str, row: &tokio_postgres::Row) -> Result<Queued> {
    let state: &str = row.try_get(7)?;
    let state = QueueState::ALL.iter().find(|known| known.as_str() == state);
    let kind = KindName::new(row.try_get::<_, &str>(5)?).map_err(|_| unreadable("kind", key))?;
    let version = u32::try_from(row.try_get::<_, i64>(6)?).map_err(|_| unreadable("version", key))?;
    let mut entry = QueueEntry::queued(row.try_get::<_, String>(4)?, kind, version);
    entry.state = *state.ok_or_else(|| unreadable("state", key))?;
    entry.not_before = row.try_get::<_, Option<i64>>(8)?.map(rules::from_micros);
    entry.turn = parsed(row, 9).map_err(|()| unreadable("turn", key))?;
    let mut queue = Queued::new(entry, number(row, 10)?);
    queue.owner = parsed(row, 11).map_err(|()| unreadable("owner", key))?;
    queue.fence = number(row, 12)?;
    queue.lease_until = row.try_get::<_, Option<i64>>(13)?.map(rules::from_micros);
    Ok(queue)
}

fn parsed<T: std::str::FromStr>(row: &tokio_postgres::Row, column: usize) -> Result<Option<T>, ()> {
    let text: Option<&str> = row.try_get(column).map_err(drop)?;
    text.map(str::parse).transpose().map_err(drop)
}

/// Of all subjects, and of one.
pub(super) const EVENTS_SQL: [&str; 2] = [
    "SELECT seq, subject, body FROM events WHERE seq > $1 ORDER BY seq LIMIT $2",
    "SELECT seq, subject, body FROM events WHERE seq > $1 AND subject = $3 ORDER BY seq LIMIT $2",
];

pub(super) async fn events(
    pool: &Pool,
    after: u64,
    subject: Option<&str>,
    limit: usize,
) -> Result<Vec<EventRow>> {
    let (after, limit) = (integer(after), i64::try_from(limit).unwrap_or(i64::MAX));
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![&after, &limit];
    values.extend(subject.iter().map(|subject| subject as &(dyn ToSql + Sync)));
    let found = pool.call(EVENTS_SQL[usize::from(subject.is_some())], &values).await?;
    found.iter().map(|row| Ok(EventRow::new(number(row, 0)?, row.try_get(1)?, row.try_get(2)?))).collect()
}
