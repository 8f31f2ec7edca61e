//! Where the engine keeps what must not be lost: rows with compare-and-set, a queue of workflows with leases
//! and fences, named leases, and a log of events, changed together in one transaction.
//!
//! The engine owns the meaning, the store owns the guarantees; so a store is small, all stores can be
//! compared with each other, and no logic is written twice.

mod changes;
mod memory;
#[cfg(feature = "store-postgres")]
mod postgres;
mod row;
mod rules;
#[cfg(feature = "sqlite")]
mod sqlite;
mod standing;
mod transaction;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

pub use self::memory::MemoryStore;
#[cfg(feature = "store-postgres")]
pub use self::postgres::{PostgresOptions, PostgresStore};
pub use self::row::{Expect, ListQuery, Row, Table};
#[cfg(feature = "sqlite")]
pub use self::sqlite::{SqliteStore, StoreBackup};
pub use self::standing::{ClaimRequest, Fence, QueueEntry, QueueState, Queued, turn_lease};
pub use self::transaction::{EventRow, NewEvent, Transaction, Write};
use crate::Result;

/// Keeps the engine's rows, queue, leases and events.
///
/// Every call is atomic and durable when it returns: on disk, not in a cache. Calls of several engines on one
/// store behave as if they came one after the other.
///
/// Times are kept in whole microseconds. A lease is held until its end and is free at it; what has a
/// `not_before` is due at it. Prolonging a lease never shortens it.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Carries out a transaction and returns the place of the newest event then.
    ///
    /// # Behavior
    /// - All or nothing. A row written first gets revision 1, then one more each time; a deleted and re-made row goes on
    ///   from 1.
    /// - `fence`: refused unless that workflow is `Active`, its owner and fence number are these. That the lease has
    ///   run out does not matter, as long as nobody else claimed.
    /// - `lease`: refused unless that named lease is held, and by this owner.
    /// - Deleting what is expected to be absent changes nothing, and holds against whoever writes that row with an event.
    /// - A workflow's first write must have its standing; a later one without keeps it. No other table has standings.
    /// - A workflow's first write gives it its place; place, owner, fence and lease are the store's and are kept by writes,
    ///   except that a write with a state other than `Active`, or one that `yields`, takes owner and lease away.
    /// - Events get growing places in their order, and are seen by readers only in that order, without holes
    ///   that could be filled later.
    /// - `trim` forgets the events up to that place, never the newest one; the places of those that stay don't change.
    ///
    /// # Errors
    /// `lease_lost` for fence and lease, `conflict` when an expectation doesn't hold (in this order of
    /// precedence); `invalid_params` for a standing in the wrong place; `disk_full`; `unavailable` (retried: it
    /// may have happened).
    async fn commit(&self, transaction: Transaction) -> Result<u64>;

    /// Reads a row.
    ///
    /// # Errors
    /// `unavailable`.
    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>>;

    /// Lists rows in the order of their keys' bytes.
    ///
    /// # Errors
    /// `unavailable`.
    async fn list(&self, table: Table, query: &ListQuery) -> Result<Vec<Row>>;

    /// Claims a workflow: the only way to get work.
    ///
    /// # Behavior
    /// - Of the kinds and versions asked for, one that is due (`not_before` is past or none) and is either `Active` with
    ///   no lease or one that ran out, or `Queued` while no workflow of its subject is `Active` and none that is `Queued`
    ///   has a lower place (of any kind: order holds also for kinds that this engine doesn't know, and for
    ///   those that aren't due yet).
    /// - Never one whose subject's turn is held, [`turn_lease`], unless by its own `turn`.
    /// - `Active` ones come first, then the lowest place.
    /// - The row becomes `Active`, owned by the claimer for `ttl`, with the next fence number and revision; its
    ///   `not_before` is cleared.
    /// - Where the entry names a `turn` and it was `Queued`, the turn's lease is taken for that holder, for
    ///   `ttl`, in the same transaction.
    ///
    /// # Errors
    /// `unavailable`.
    async fn claim(&self, request: &ClaimRequest) -> Result<Option<Row>>;

    /// Prolongs a claim and returns the row's revision, which tells whether somebody asked for a cancel.
    ///
    /// # Errors
    /// `lease_lost` as for [`Store::commit`].
    async fn renew(&self, fence: &Fence, ttl: Duration) -> Result<u64>;

    /// Takes or prolongs a named lease; false when another owner holds it.
    ///
    /// # Errors
    /// `unavailable`.
    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool>;

    /// Gives a named lease back; nothing happens when another owner holds it.
    ///
    /// # Errors
    /// `unavailable`.
    async fn unlease(&self, name: &str, owner: &str) -> Result<()>;

    /// Who holds a named lease now.
    ///
    /// # Errors
    /// `unavailable`.
    async fn leased(&self, name: &str) -> Result<Option<String>>;

    /// The earliest time at which something that can't be claimed now could be, for engines to wake up: the
    /// end of a lease or a `not_before`. May be too early, never too late. Ask before you claim: what gets
    /// due between the two calls is then claimed, and otherwise told of by neither.
    ///
    /// # Errors
    /// `unavailable`.
    async fn next_due(&self) -> Result<Option<DateTime<Utc>>>;

    /// Events after this place, oldest first, at most `limit`, of this subject where one is named.
    ///
    /// # Errors
    /// `unavailable`.
    async fn events(&self, after: u64, subject: Option<&str>, limit: usize) -> Result<Vec<EventRow>>;

    /// Wakes up after commits, leases that were given back and other changes, made here or elsewhere. A hint:
    /// the number means nothing, and readers look for themselves also when nobody calls.
    fn changes(&self) -> tokio::sync::watch::Receiver<u64>;

    /// Wakes up after those changes after which something may be claimable sooner than [`Store::next_due`] said. A hint, as
    /// [`Store::changes`], which it is where a store can't tell one from the other. An engine writes some ten checkpoints
    /// for each workflow that it claims: without this every engine would ask for work after each checkpoint of all.
    fn queue_changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes()
    }
}

const _: fn(&dyn Store) = |_| {};
