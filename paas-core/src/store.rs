//! Where the engine keeps what must not be lost: rows with compare-and-set, a queue of workflows with leases
//! and fences, named leases, and a log of events, changed together in one transaction.
//!
//! The engine owns the meaning, the store owns the guarantees; so a store is small, all stores can be
//! compared with each other, and no logic is written twice.

mod memory;
#[cfg(feature = "store-postgres")]
mod postgres;
mod rules;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use self::memory::MemoryStore;
#[cfg(feature = "store-postgres")]
pub use self::postgres::{PostgresOptions, PostgresStore};
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteStore;
use crate::{KindName, OwnerId, Result, TurnId, WorkflowId};

/// What kinds of rows there are. A row's key is unique within its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Table {
    /// Apps by name.
    Apps,
    /// Releases by app and version.
    Releases,
    /// Workflows by id; the only table with a [`QueueEntry`].
    Workflows,
    /// Add-ons by id.
    Addons,
    /// Routes by app.
    Routes,
    /// Artifacts by the key of what they were built from.
    Artifacts,
    /// Who owns a host name.
    Domains,
    /// What belongs to the platform itself, such as wrapped keys and token hashes.
    Platform,
}

impl Table {
    /// Every table.
    pub const ALL: &'static [Self] = &[
        Self::Apps,
        Self::Releases,
        Self::Workflows,
        Self::Addons,
        Self::Routes,
        Self::Artifacts,
        Self::Domains,
        Self::Platform,
    ];

    /// The stable name, for stores that name things.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apps => "apps",
            Self::Releases => "releases",
            Self::Workflows => "workflows",
            Self::Addons => "addons",
            Self::Routes => "routes",
            Self::Artifacts => "artifacts",
            Self::Domains => "domains",
            Self::Platform => "platform",
        }
    }
}

/// A row as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row {
    /// Unique within the table.
    pub key: String,
    /// What [`Store::list`] selects by: an app's life for its releases, a subject for its workflows.
    pub parent: String,
    /// Grows with every write of the row, from 1; what [`Expect::Rev`] compares.
    pub rev: u64,
    /// JSON, which only the engine reads.
    pub body: String,
    /// For workflows, how they stand in the queue.
    pub queue: Option<Queued>,
}

impl Row {
    /// A row, for stores.
    pub fn new(key: String, parent: String, rev: u64, body: String, queue: Option<Queued>) -> Self {
        Self { key, parent, rev, body, queue }
    }
}

/// How a workflow stands in the queue of its subject: written by the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueEntry {
    /// Whose turn it needs: of all workflows of a subject one runs at a time.
    pub subject: String,
    /// What kind it is; an engine claims only kinds and versions that it knows.
    pub kind: KindName,
    /// The kind's version.
    pub kind_version: u32,
    /// Whether it waits, runs, is parked or has ended.
    pub state: QueueState,
    /// It isn't claimed before this time.
    pub not_before: Option<DateTime<Utc>>,
    /// Who holds the subject's turn beyond the workflow's end; see [`turn_lease`].
    pub turn: Option<TurnId>,
}

impl QueueEntry {
    /// Waiting, claimable at once.
    pub fn queued(subject: impl Into<String>, kind: KindName, kind_version: u32) -> Self {
        let subject = subject.into();
        Self { subject, kind, kind_version, state: QueueState::Queued, not_before: None, turn: None }
    }
}

/// A queue entry with what the store adds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Queued {
    /// What the engine wrote.
    pub entry: QueueEntry,
    /// Its place: given at its first write, growing over the whole store.
    pub place: u64,
    /// Who works on it; `None` when nobody holds the lease. It may have run out: `lease_until` tells.
    pub owner: Option<OwnerId>,
    /// Grows by one with every claim, from 0.
    pub fence: u64,
    /// Until when the owner's lease lasts, by the store's clock.
    pub lease_until: Option<DateTime<Utc>>,
}

impl Queued {
    /// An entry in its place, which nobody owns.
    pub fn new(entry: QueueEntry, place: u64) -> Self {
        Self { entry, place, owner: None, fence: 0, lease_until: None }
    }
}

/// Whether a workflow waits, runs, is parked or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QueueState {
    /// It waits for its subject's turn.
    Queued,
    /// It has the turn: an engine works on it, will try again, or died and will be followed.
    Active,
    /// It waits for somebody outside, and yields its turn meanwhile.
    Parked,
    /// It is over.
    Ended,
}

impl QueueState {
    /// Every state.
    pub const ALL: &'static [Self] = &[Self::Queued, Self::Active, Self::Parked, Self::Ended];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Active => "active",
            Self::Parked => "parked",
            Self::Ended => "ended",
        }
    }
}

/// What the row must be like for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expect {
    /// Not there.
    Absent,
    /// There, at this revision.
    Rev(u64),
    /// Either.
    Any,
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Write {
    /// Which table.
    pub table: Table,
    /// Which row.
    pub key: String,
    /// The row's parent.
    pub parent: String,
    /// What must be there now.
    pub expect: Expect,
    /// The new body; `None` deletes the row.
    pub body: Option<String>,
    /// For workflows, their new standing. Any state but `Active` ends the owner's lease with the write.
    pub queue: Option<QueueEntry>,
    /// Ends the owner's lease although the state stays `Active`: somebody may claim it from `not_before` on.
    pub yields: bool,
}

impl Write {
    /// Writes a row.
    pub fn put(
        table: Table,
        key: impl Into<String>,
        parent: impl Into<String>,
        expect: Expect,
        body: String,
    ) -> Self {
        let (key, parent) = (key.into(), parent.into());
        Self { table, key, parent, expect, body: Some(body), queue: None, yields: false }
    }

    /// Deletes a row.
    pub fn delete(table: Table, key: impl Into<String>, expect: Expect) -> Self {
        let key = key.into();
        Self { table, key, parent: String::new(), expect, body: None, queue: None, yields: false }
    }

    /// With a workflow's standing.
    #[must_use]
    pub fn standing(mut self, queue: QueueEntry) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Ending the lease.
    #[must_use]
    pub fn yielding(mut self) -> Self {
        self.yields = true;
        self
    }
}

/// Proof of a claim: who claimed which workflow, the how-manieth claim it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fence {
    /// The workflow.
    pub workflow: WorkflowId,
    /// The owner.
    pub owner: OwnerId,
    /// The claim's number.
    pub number: u64,
}

impl Fence {
    /// The proof of this claim.
    pub fn new(workflow: WorkflowId, owner: OwnerId, number: u64) -> Self {
        Self { workflow, owner, number }
    }
}

/// An event to append.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewEvent {
    /// What it is about, as in [`QueueEntry::subject`].
    pub subject: String,
    /// JSON, which only the engine reads.
    pub body: String,
}

impl NewEvent {
    /// An event about this subject.
    pub fn new(subject: impl Into<String>, body: String) -> Self {
        Self { subject: subject.into(), body }
    }
}

/// An event as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventRow {
    /// Its place: dense enough to order, never reused.
    pub seq: u64,
    /// What it is about.
    pub subject: String,
    /// JSON.
    pub body: String,
}

impl EventRow {
    /// An event, for stores.
    pub fn new(seq: u64, subject: String, body: String) -> Self {
        Self { seq, subject, body }
    }
}

/// Writes and events that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transaction {
    /// Only while this claim is the newest of its workflow, and the workflow is active.
    pub fence: Option<Fence>,
    /// Only while the lease of this name is held by this owner.
    pub lease: Option<(String, String)>,
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// The events, in order.
    pub events: Vec<NewEvent>,
    /// Forgets the events up to this place.
    pub trim: Option<u64>,
}

impl Transaction {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only under this claim.
    #[must_use]
    pub fn fenced(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    /// With this write.
    #[must_use]
    pub fn write(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    /// Forgetting the events up to this place.
    #[must_use]
    pub fn trim(mut self, place: u64) -> Self {
        self.trim = Some(place);
        self
    }

    /// With this event.
    #[must_use]
    pub fn event(mut self, event: NewEvent) -> Self {
        self.events.push(event);
        self
    }
}

/// Which rows to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListQuery {
    /// Only rows of this parent.
    pub parent: Option<String>,
    /// Only workflows in one of these states; every row where empty.
    pub states: Vec<QueueState>,
    /// Only keys after this one, in the order of the list.
    pub after: Option<String>,
    /// From the highest key down.
    pub descending: bool,
    /// At most this many; all where `None`.
    pub limit: Option<usize>,
}

impl ListQuery {
    /// All rows.
    pub fn all() -> Self {
        Self::default()
    }

    /// All rows of this parent.
    pub fn of(parent: impl Into<String>) -> Self {
        Self { parent: Some(parent.into()), ..Self::default() }
    }

    /// Only workflows in these states.
    #[must_use]
    pub fn states(mut self, states: impl IntoIterator<Item = QueueState>) -> Self {
        self.states = states.into_iter().collect();
        self
    }

    /// Only keys after this one.
    #[must_use]
    pub fn after(mut self, key: impl Into<String>) -> Self {
        self.after = Some(key.into());
        self
    }

    /// From the highest key down.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.descending = true;
        self
    }

    /// At most this many.
    #[must_use]
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = Some(rows);
        self
    }
}

/// Which workflows an engine wants to work on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClaimRequest {
    /// Who claims.
    pub owner: OwnerId,
    /// For how long at first.
    pub ttl: Duration,
    /// The kinds and versions that it knows.
    pub kinds: Vec<(KindName, u32)>,
}

impl ClaimRequest {
    /// Any workflow of these kinds.
    pub fn new(owner: OwnerId, ttl: Duration, kinds: Vec<(KindName, u32)>) -> Self {
        Self { owner, ttl, kinds }
    }
}

/// The name of the lease that holds a subject's turn: while somebody holds it, [`Store::claim`] gives no
/// workflow of that subject to anybody, but one whose [`QueueEntry::turn`] is the holder.
///
/// A client that must act after its workflow's end and before the next one's start (git moves its branch
/// after the release went live) takes it, and its death frees it.
pub fn turn_lease(subject: &str) -> String {
    format!("turn/{subject}")
}

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
}

const _: fn(&dyn Store) = |_| {};
