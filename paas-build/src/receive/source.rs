//! What is pushed, as a source of deploys.

use std::path::Path;

use async_trait::async_trait;
use paas_core::{
    AppId, Context, Digest, Error, ErrorCode, ProviderName, Result, Revision, Source, SourceRef,
};

use super::repos::GitRepos;
use super::updates::{Oid, Update};

/// Where a push keeps its facts in [`Revision::metadata`].
const REPOSITORY: &str = "repository";
const BEFORE: &str = "before";

/// Code that was pushed: its tree is in `Blobs` before its deploy is queued.
///
/// When the deploy's turn has come, the branch is compared with what it was when the push was made: of two pushes
/// at once the second is refused before anything is built.
#[derive(Debug)]
pub(crate) struct PushSource {
    repos: GitRepos,
}

/// `push`, the name of this source.
pub(crate) fn name() -> ProviderName {
    ProviderName::new("push").expect("a constant")
}

/// The tree of this push to this app's branch.
pub(crate) fn reference(app: AppId, update: &Update, tree: Digest, mut revision: Revision) -> SourceRef {
    revision.metadata.insert(REPOSITORY.to_owned(), app.to_string());
    revision.metadata.insert(BEFORE.to_owned(), update.old.to_string());
    let mut reference = SourceRef::new(name(), tree.to_string());
    reference.revision = revision;
    reference
}

impl PushSource {
    pub(crate) fn new(repos: GitRepos) -> Self {
        Self { repos }
    }

    fn check(&self, source: &SourceRef) -> Result<()> {
        let fact = |key| source.revision.metadata.get(key).map(String::as_str);
        let app = fact(REPOSITORY).and_then(|id| id.parse::<AppId>().ok());
        let before = fact(BEFORE).and_then(Oid::parse);
        let (Some(app), Some(before), Some(branch)) = (app, before, source.revision.branch.as_deref()) else {
            return Err(Error::new(ErrorCode::BadSource, "this deploy doesn't say which push it came from"));
        };
        let Some(repo) = self.repos.find(app) else {
            let what = "the repository that this was pushed to is not on this machine; push again";
            return Err(Error::new(ErrorCode::BadSource, what));
        };
        unmoved(repo.branch(branch)?.as_ref(), &before, branch)
    }
}

/// # Errors
/// `branch_moved` unless the branch is where the pusher saw it.
pub(crate) fn unmoved(now: Option<&Oid>, before: &Oid, branch: &str) -> Result<()> {
    let same = now.map_or_else(|| before.is_nothing(), |now| now == before);
    if same {
        return Ok(());
    }
    let what = format!(
        "another push moved {branch} meanwhile; nothing was built. Run git pull --rebase, then push again"
    );
    Err(Error::new(ErrorCode::BranchMoved, what))
}

#[async_trait]
impl Source for PushSource {
    fn name(&self) -> ProviderName {
        name()
    }

    async fn fetch(&self, _: &Context, _: &SourceRef, _: &Path) -> Result<Revision> {
        Err(Error::new(ErrorCode::Unsupported, "what was pushed is archived, never fetched: push again"))
    }

    async fn archived(&self, _: &Context, source: &SourceRef) -> Result<Option<Digest>> {
        self.check(source)?;
        let digest = source.location.parse::<Digest>();
        digest.map(Some).map_err(|e| {
            Error::new(ErrorCode::BadSource, "this deploy doesn't name an archived tree").with_source(e)
        })
    }
}
