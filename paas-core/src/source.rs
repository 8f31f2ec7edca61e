//! Where code comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Context, Digest, ProviderName, Result};

/// Names a version of some code: which source, and where. Stored with the release.
///
/// The location is shown to people, so it holds no credentials: those are the source's own configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SourceRef {
    /// Which source: `git`, `directory`, `tarball`; [`SourceRef::ARCHIVED`] is the engine's own.
    pub source: ProviderName,
    /// A path, a URL, a digest: what that source understands.
    pub location: String,
    /// What is already known of the code.
    #[serde(default)]
    pub revision: Revision,
}

impl SourceRef {
    /// The name of the engine's own source: a tree that is in `Blobs` already.
    pub const ARCHIVED: &'static str = "archived";

    /// A version of some code.
    pub fn new(source: ProviderName, location: impl Into<String>) -> Self {
        Self { source, location: location.into(), revision: Revision::default() }
    }

    /// A tree that is in `Blobs` already, as [`archive::pack`](crate::archive::pack) makes it.
    ///
    /// # Panics
    /// Never: the name is a constant.
    pub fn archived(tree: Digest, revision: Revision) -> Self {
        let source = ProviderName::new(Self::ARCHIVED).expect("a constant");
        Self { source, location: tree.to_string(), revision }
    }
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.location)
    }
}

/// What is known of a version of code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Revision {
    /// The commit, or what else names it for people.
    pub id: Option<String>,
    /// Who wrote it.
    pub author: Option<String>,
    /// Its message's first line.
    pub message: Option<String>,
    /// The branch or tag.
    pub branch: Option<String>,
    /// Facts that only this source knows.
    pub metadata: BTreeMap<String, String>,
}

/// A tree of code on this machine's disk, for a builder to read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Checkout {
    /// The folder: absolute, the caller's own, without `.git`. It may be written to; nobody else uses it.
    pub dir: PathBuf,
    /// The digest of the tree's archive in `Blobs`.
    pub digest: Digest,
    /// What is known of the code.
    pub revision: Revision,
}

impl Checkout {
    /// A tree in this folder.
    pub fn new(dir: impl Into<PathBuf>, digest: Digest, revision: Revision) -> Self {
        Self { dir: dir.into(), digest, revision }
    }
}

/// Brings code here.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// The name by which a [`SourceRef`] chooses this source.
    fn name(&self) -> ProviderName;

    /// Fills the empty folder `into` with the tree, and says what it is.
    ///
    /// The engine archives the folder into `Blobs`; from then on the digest is the source, so a tree is
    /// fetched once, and any engine can go on with it.
    ///
    /// # Behavior
    /// - The tree is what the app's author sees: no `.git`, ignored files left out.
    /// - Nothing is written outside `into`, whatever the tree says: no `..`, no absolute path, no link that leads out,
    ///   no device.
    /// - Stops soon after `ctx.cancel`, and before the tree is larger than the source's limit.
    /// - Called again with the same key and a new empty folder, it gives the same tree where the location names a fixed
    ///   version.
    ///
    /// # Errors
    /// `bad_source` for a tree or a location that is refused, `unavailable` (retried) for a network that fails.
    async fn fetch(&self, ctx: &Context, source: &SourceRef, into: &Path) -> Result<Revision>;

    /// The digest of the tree, where it is in `Blobs` already, so that nothing needs fetching.
    ///
    /// # Behavior
    /// - Called when the deploy's turn has come, before anything else: the place to refuse one that has become
    ///   pointless meanwhile, such as a push to a branch that another push has moved.
    ///
    /// # Errors
    /// As [`Source::fetch`], and `branch_moved`.
    async fn archived(&self, ctx: &Context, source: &SourceRef) -> Result<Option<Digest>> {
        let _ = (ctx, source);
        Ok(None)
    }
}

const _: fn(&dyn Source) = |_| {};
