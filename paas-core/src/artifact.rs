//! What a builder made.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AddonWish, Digest, Manifest, ProcessType, ProviderName};

/// In which form the artifact is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ArtifactKind {
    /// A `tar.zst` of the app's folder in `Blobs`, under the artifact's digest.
    Slug,
    /// A container image; `reference` names it.
    Image,
    /// A Nix closure; `reference` is its store path.
    Closure,
}

/// What a builder made: immutable, named by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Artifact {
    /// The content's digest.
    pub digest: Digest,
    /// In which form it is kept.
    pub kind: ArtifactKind,
    /// Where it is kept, for kinds that are not in `Blobs`.
    #[serde(default)]
    pub reference: Option<String>,
    /// The processes it can run.
    pub processes: ProcessTable,
    /// What the app asks of the platform.
    #[serde(default)]
    pub manifest: Manifest,
    /// Add-ons that the builder proposes for a first deploy.
    #[serde(default)]
    pub addons: Vec<AddonWish>,
    /// Which builder made it.
    pub builder: ProviderName,
    /// What was recognised, for people: `Node.js`, `Python + Node.js`.
    pub description: String,
    /// Bytes as kept.
    pub size: u64,
    /// When it was made.
    pub built_at: DateTime<Utc>,
    /// Facts about the build: pinned buildpack commits, versions.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

impl Artifact {
    /// An artifact without processes.
    pub fn new(
        kind: ArtifactKind,
        digest: Digest,
        size: u64,
        builder: ProviderName,
        built_at: DateTime<Utc>,
    ) -> Self {
        Self {
            digest,
            kind,
            reference: None,
            processes: ProcessTable::new(),
            manifest: Manifest::default(),
            addons: Vec::new(),
            description: builder.to_string(),
            builder,
            size,
            built_at,
            metadata: BTreeMap::new(),
        }
    }
}

/// The processes of an artifact by type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessTable(BTreeMap<ProcessType, ProcessEntry>);

/// How one process type is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessEntry {
    /// The command line as the app's author wrote it: run by `bash -c` inside the app's own sandbox.
    pub command: String,
    /// Whether the app names it itself (Procfile); a type that only a builder names starts at quantity 0,
    /// unless it is `web`.
    pub declared: bool,
}

impl ProcessTable {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a type that the app itself names.
    pub fn declare(&mut self, process: ProcessType, command: impl Into<String>) {
        self.0.insert(process, ProcessEntry { command: command.into(), declared: true });
    }

    /// Adds a builder's default; a declared type stays as it is.
    pub fn default_to(&mut self, process: ProcessType, command: impl Into<String>) {
        self.0.entry(process).or_insert_with(|| ProcessEntry { command: command.into(), declared: false });
    }

    /// One type.
    pub fn get(&self, process: &ProcessType) -> Option<&ProcessEntry> {
        self.0.get(process)
    }

    /// All types in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&ProcessType, &ProcessEntry)> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
