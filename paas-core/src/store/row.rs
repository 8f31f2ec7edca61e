//! Rows, and how they are asked for.

use super::{QueueState, Queued};
use serde::{Deserialize, Serialize};

/// What kinds of rows there are. A row's key is unique within its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Table {
    /// Apps by name.
    Apps,
    /// Releases by app and version.
    Releases,
    /// Workflows by id; the only table with a [`QueueEntry`](super::QueueEntry).
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
    /// What [`Store::list`](super::Store::list) selects by: an app's life for its releases, a subject for its workflows.
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
