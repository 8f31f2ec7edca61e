//! How a workflow stands in the queue of its subject, and what a claim of it is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{KindName, OwnerId, TurnId, WorkflowId};

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

/// The name of the lease that holds a subject's turn: while somebody holds it, [`Store::claim`](super::Store::claim) gives no
/// workflow of that subject to anybody, but one whose [`QueueEntry::turn`] is the holder.
///
/// A client that must act after its workflow's end and before the next one's start (git moves its branch
/// after the release went live) takes it, and its death frees it.
pub fn turn_lease(subject: &str) -> String {
    format!("turn/{subject}")
}
