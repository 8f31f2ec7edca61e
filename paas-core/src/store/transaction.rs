//! What happens together or not at all.

use super::{Expect, Fence, QueueEntry, Table};

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
