//! Claims, leases and turns, each a single statement by the database's own clock. The schema's functions do the work
//! that needs more than one look; each looks only at what is open, so that its cost grows neither with the number of
//! apps nor with history.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::pool::Pool;
use super::rows;
use crate::store::{ClaimRequest, Fence, Row, Table, rules};
use crate::{Clock, Result};

pub(super) const HOLDER_SQL: &str = "SELECT owner FROM leases WHERE name = $1 AND until > (SELECT clock())";

/// The next time at which something is due, and the time now.
pub(super) const DUE_SQL: &str = "WITH now AS MATERIALIZED (SELECT clock() AS at)
    SELECT least(
        (SELECT min(greatest(lease_until, not_before, 0)) FROM workflows
            WHERE state = 'active' AND greatest(lease_until, not_before, 0) > (SELECT at FROM now)),
        (SELECT min(not_before) FROM workflows
            WHERE state = 'queued' AND not_before IS NOT NULL AND not_before > (SELECT at FROM now)),
        (SELECT min(until) FROM leases
            WHERE name >= 'turn/' AND name < 'turn0' AND until > (SELECT at FROM now))
    ), (SELECT at FROM now)";

pub(super) async fn claim(pool: &Pool, request: &ClaimRequest) -> Result<Option<Row>> {
    let sql = format!("SELECT {} FROM claim($1, $2, $3)", rows::columns(Table::Workflows));
    let kinds: Vec<String> =
        request.kinds.iter().map(|(kind, version)| format!("{kind} {version}")).collect();
    let found = pool.call_once(&sql, &[&request.owner.to_string(), &micros(request.ttl), &kinds]).await?;
    found.first().map(|row| rows::read(Table::Workflows, row)).transpose()
}

pub(super) async fn renew(pool: &Pool, fence: &Fence, ttl: Duration) -> Result<u64> {
    let sql = "UPDATE workflows SET lease_until = greatest(lease_until, lease_end(clock(), $4))
        WHERE key = $1 AND state = 'active' AND owner = $2 AND fence = $3 RETURNING rev";
    let (key, owner, number) =
        (fence.workflow.to_string(), fence.owner.to_string(), rows::integer(fence.number));
    let renewed = pool.call(sql, &[&key, &owner, &number, &micros(ttl)]).await?;
    match renewed.first() {
        Some(row) => rows::number(row, 0),
        None => rules::check_fence(None, fence).map(|()| 0),
    }
}

pub(super) async fn lease(pool: &Pool, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
    let taken = pool.call("SELECT take_lease($1, $2, $3)", &[&name, &owner, &micros(ttl)]).await?;
    Ok(taken.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default())
}

/// Gives the lease back and tells whoever listens on this channel. False where it was another one's.
pub(super) async fn unlease(pool: &Pool, name: &str, owner: &str, channel: &str, note: &str) -> Result<bool> {
    let sql = "WITH gone AS (DELETE FROM leases WHERE name = $1 AND owner = $2 RETURNING 1)
        SELECT pg_notify($3, $4)::text FROM gone";
    Ok(!pool.call(sql, &[&name, &owner, &channel, &note]).await?.is_empty())
}

pub(super) async fn holder(pool: &Pool, name: &str) -> Result<Option<String>> {
    let found = pool.call(HOLDER_SQL, &[&name]).await?;
    Ok(found.first().map(|row| row.try_get(0)).transpose()?)
}

/// The next due time by the caller's clock, which may differ from the database's.
pub(super) async fn next_due(pool: &Pool, clock: &dyn Clock) -> Result<Option<DateTime<Utc>>> {
    let found = pool.call(DUE_SQL, &[]).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let (due, now): (Option<i64>, i64) = (row.try_get(0)?, row.try_get(1)?);
    let ours = rules::micros(clock.now());
    Ok(due.map(|due| rules::from_micros(ours.saturating_add(due.saturating_sub(now)))))
}

fn micros(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX)
}
