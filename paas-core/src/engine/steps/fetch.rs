//! fetch: the source becomes a digest in `Blobs`, so that any engine can go on from here.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::workdir::WorkDir;
use crate::archive;
use crate::blocking;
use crate::engine::kind::{Step, StepCall, StepOutput};
use crate::engine::kinds::{DeployInput, Platform};
use crate::{Digest, Error, ErrorCode, Result, Revision, SourceRef};

#[derive(Debug)]
pub(crate) struct Fetch(pub(crate) Platform);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Fetched {
    pub(crate) tree: Digest,
    pub(crate) revision: Revision,
}

#[async_trait]
impl Step for Fetch {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: DeployInput = call.input()?;
        let source = &input.source;
        if source.source.as_str() == SourceRef::ARCHIVED {
            let tree: Digest = source
                .location
                .parse()
                .map_err(|e| Error::new(ErrorCode::BadSource, "this is no archived tree").with_source(e))?;
            return kept(&inner.blobs, tree, source.revision.clone()).await;
        }
        let Some(provider) = inner.sources.get(&source.source) else {
            let known: Vec<_> = inner.sources.keys().map(crate::ProviderName::as_str).collect();
            let what = format!("there is no source {}; there are: {}", source.source, known.join(", "));
            return Err(Error::new(ErrorCode::BadSource, what));
        };
        if let Some(tree) = provider.archived(&call.ctx, source).await? {
            return kept(&inner.blobs, tree, source.revision.clone()).await;
        }
        let work = WorkDir::make(&inner.options.work_dir).await?;
        let into = work.path().join("tree");
        std::fs::create_dir(&into).map_err(|e| Error::from_io("can't make a folder for the source", e))?;
        let revision = provider.fetch(&call.ctx, source, &into).await?;
        let archive = work.path().join("tree.tar.zst");
        let packed = {
            let archive = archive.clone();
            blocking(move || archive::pack(&into, &archive, &|_, _| true)).await?
        };
        inner.blobs.put(packed.digest, &archive).await?;
        StepOutput::with(&Fetched { tree: packed.digest, revision })
    }
}

async fn kept(
    blobs: &std::sync::Arc<dyn crate::Blobs>,
    tree: Digest,
    revision: Revision,
) -> Result<StepOutput> {
    if blobs.renew(tree).await? {
        StepOutput::with(&Fetched { tree, revision })
    } else {
        Err(Error::new(ErrorCode::BadSource, format!("the archived source {tree} is gone; deploy it again")))
    }
}
