//! What all stores decide alike: what a write makes of a row, who may write, and when a lease ends.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{ClaimRequest, Expect, Fence, QueueState, Queued, Row, Table, Write};
use crate::{Error, ErrorCode, Result};

/// Stores keep whole microseconds, as databases do.
pub(super) fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

/// The time of these microseconds, or the last or first one there is.
pub(super) fn from_micros(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(if micros < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    })
}

/// The time in whole microseconds.
pub(super) fn rounded(time: DateTime<Utc>) -> DateTime<Utc> {
    from_micros(micros(time))
}

/// The end of a lease that is taken now.
pub(super) fn lease_end(now: DateTime<Utc>, ttl: Duration) -> DateTime<Utc> {
    let ttl = i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX);
    from_micros(micros(now).saturating_add(ttl))
}

/// What `write` makes of the row `old`: `None` where it deletes it. `place` is asked for a place at a
/// workflow's first write.
pub(super) fn written(
    old: Option<&Row>,
    write: Write,
    place: impl FnOnce() -> Result<u64>,
) -> Result<Option<Row>> {
    let holds = match write.expect {
        Expect::Absent => old.is_none(),
        Expect::Rev(rev) => old.is_some_and(|row| row.rev == rev),
        Expect::Any => true,
    };
    if !holds {
        return Err(conflict(old, &write));
    }
    let Some(body) = write.body else { return Ok(None) };
    let before = old.and_then(|row| row.queue.as_ref());
    let queue = match (write.queue, before) {
        (Some(_), _) if write.table != Table::Workflows => {
            return Err(misused(
                write.table,
                &write.key,
                "has a standing in the queue, which only workflows have",
            ));
        }
        (None, None) if write.table == Table::Workflows => {
            return Err(misused(write.table, &write.key, "is new and has no standing in the queue"));
        }
        (None, None) => None,
        (None, Some(before)) => Some(before.clone()),
        (Some(mut entry), before) => {
            entry.not_before = entry.not_before.map(rounded);
            Some(match before {
                Some(before) => Queued { entry, ..before.clone() },
                None => Queued::new(entry, place()?),
            })
        }
    };
    let queue = queue.map(|mut queue| {
        if queue.entry.state != QueueState::Active || write.yields {
            queue.owner = None;
            queue.lease_until = None;
        }
        queue
    });
    let rev = old.map_or(1, |row| row.rev + 1);
    Ok(Some(Row::new(write.key, write.parent, rev, body, queue)))
}

/// The row as the claimer gets it.
pub(super) fn claimed(mut row: Row, request: &ClaimRequest, now: DateTime<Utc>) -> Row {
    row.rev += 1;
    if let Some(queue) = &mut row.queue {
        queue.entry.state = QueueState::Active;
        queue.entry.not_before = None;
        queue.owner = Some(request.owner);
        queue.fence += 1;
        queue.lease_until = Some(lease_end(now, request.ttl));
    }
    row
}

/// Whether the claim is still the newest of an active workflow.
pub(super) fn check_fence(row: Option<&Row>, fence: &Fence) -> Result<()> {
    let held = row.and_then(|row| row.queue.as_ref()).is_some_and(|queue| {
        queue.entry.state == QueueState::Active
            && queue.owner == Some(fence.owner)
            && queue.fence == fence.number
    });
    if held {
        return Ok(());
    }
    let message = format!("workflow {} belongs to another engine now", fence.workflow);
    Err(Error::new(ErrorCode::LeaseLost, message).with("fence", fence.number))
}

/// That the named lease is held by this owner.
pub(super) fn check_lease(holder: Option<&str>, name: &str, owner: &str) -> Result<()> {
    if holder == Some(owner) {
        return Ok(());
    }
    Err(Error::new(ErrorCode::LeaseLost, format!("the lease {name} is not held by {owner} any more")))
}

fn conflict(old: Option<&Row>, write: &Write) -> Error {
    let (table, key) = (write.table.as_str(), &write.key);
    let found = match old {
        None => "it is not there".to_owned(),
        Some(row) => format!("it is at revision {}", row.rev),
    };
    let message = format!("{table} {key:?} was changed meanwhile: {found}; read it again and try once more");
    Error::new(ErrorCode::Conflict, message)
}

fn misused(table: Table, key: &str, why: &str) -> Error {
    Error::new(ErrorCode::InvalidParams, format!("the row {key:?} of {} {why}", table.as_str()))
}
