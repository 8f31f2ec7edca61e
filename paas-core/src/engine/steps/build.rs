//! build: the source becomes an artifact. The same input is built once.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::io::SyncIoBridge;

use super::fetch::Fetched;
use super::first_env;
use super::workdir::WorkDir;
use crate::archive::{self, Limits};
use crate::blocking;
use crate::disk::ensure_room;
use crate::engine::Inner;
use crate::engine::kind::{Changes, Moment, Step, StepCall, StepOutput};
use crate::engine::kinds::{DeployInput, Platform};
use crate::engine::ledger::{ArtifactRow, put_artifact};
use crate::engine::rollout::app_name;
use crate::{
    Artifact, ArtifactKind, BuildRequest, Builder, Checkout, ConfigVars, Detection, Digest, Error, ErrorCode,
    Redactor, Result,
};

#[derive(Debug)]
pub(crate) struct Build(pub(crate) Platform);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Built {
    pub(crate) artifact: Artifact,
    /// The digest of all that it was built from.
    pub(crate) key: Digest,
    /// No release of the app was live when it was built.
    pub(crate) first: bool,
}

#[async_trait]
impl Step for Build {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: DeployInput = call.input()?;
        let fetched: Fetched = call.output("fetch")?.ok_or_else(|| {
            Error::new(ErrorCode::Internal, "there is nothing to build: fetch gave no tree")
        })?;
        let app = inner.ledger.app_in_life(&app_name(call)?, input.app_id).await?.value;
        let first = app.live.is_none();
        let config = inner.build_environment(&app).await?;
        let work = WorkDir::make(&inner.options.work_dir).await?;
        if let Some(source) = inner.blobs.local_path(fetched.tree) {
            // Unpacked, as it is built, and as a slug.
            let packed = source.metadata().map_or(0, |source| source.len());
            ensure_room(work.path(), 3 * packed)?;
        }
        let tree = work.path().join("tree");
        unpack(&inner, fetched.tree, &tree).await?;
        let mut ctx = call.ctx.clone();
        ctx.log = ctx.log.redacting(Redactor::knowing(&config));
        let checkout = Checkout::new(&tree, fetched.tree, fetched.revision);
        let mut request = BuildRequest::new(app.name.clone(), app.id, checkout)
            .with_config(config.clone())
            .with_buildpacks(app.buildpacks.clone());
        let mut looked_for = Vec::new();
        for builder in &inner.builders {
            match builder.detect(&ctx, &request).await? {
                Detection::Yes(_) => {}
                Detection::No(what) => {
                    looked_for.extend(what);
                    continue;
                }
            }
            let mut asked = ConfigVars::new();
            if first {
                asked = first_env::wished(&app, &builder.manifest(&ctx, &request).await?, &asked)?;
                request.config = asked.clone();
                request.config.extend(config);
                ctx.log = ctx.log.redacting(Redactor::knowing(&request.config));
            }
            let key = inner.vault.app_key(app.id, &app.key)?.keyed_hash(&request.config);
            let id = builder.id();
            let inputs = builder.inputs(&request).to_string();
            let parts = [fetched.tree.to_string(), id.name.to_string(), id.version, inputs, key.to_string()];
            let key = Digest::of_parts(parts);
            if let Some(artifact) = usable(&inner, key).await? {
                ctx.log.line("-----> Nothing changed since this was built; using that build");
                return Ok(StepOutput::with(&Built { artifact, key, first })?.with_secret(asked));
            }
            let artifact = build(&inner, builder, &ctx, &request).await?;
            return Ok(StepOutput::with(&Built { artifact, key, first })?.with_secret(asked));
        }
        let looked = if looked_for.is_empty() {
            "no builder is set up".to_owned()
        } else {
            format!("looked for {}", looked_for.join(", "))
        };
        Err(Error::new(ErrorCode::NotDetected, format!("can't tell how to build this app: {looked}")))
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Done(_) = moment else { return Ok(Changes::none()) };
        let Some(built) = call.output::<Built>("build")? else { return Ok(Changes::none()) };
        let input: DeployInput = call.input()?;
        let row = ArtifactRow { artifact: built.artifact, used_at: call.ctx.clock.now() };
        Ok(Changes::none().write(put_artifact(built.key, input.app_id, &row)?))
    }
}

async fn build(
    inner: &Inner,
    builder: &Arc<dyn Builder>,
    ctx: &crate::Context,
    request: &BuildRequest,
) -> Result<Artifact> {
    let limit = inner.options.build_timeout;
    let ctx = ctx.clone().until(ctx.clock.now() + limit);
    let mut work = Box::pin(builder.build(&ctx, request));
    if let Ok(result) = tokio::time::timeout(limit, &mut work).await {
        return result;
    }
    ctx.cancel.cancel(crate::CancelReason::Timeout);
    // It gets time to stop what it started, and its answer no longer matters.
    drop(tokio::time::timeout(inner.options.stop_grace, work).await);
    let minutes = limit.as_secs() / 60;
    Err(Error::new(ErrorCode::Timeout, format!("the build took longer than {minutes} minutes")))
}

/// An artifact that was built from the same before, if it is still there.
async fn usable(inner: &Inner, key: Digest) -> Result<Option<Artifact>> {
    let Some(artifact) = inner.ledger.artifact(key).await? else { return Ok(None) };
    let there = artifact.kind != ArtifactKind::Slug || inner.blobs.renew(artifact.digest).await?;
    Ok(there.then_some(artifact))
}

async fn unpack(inner: &Inner, tree: Digest, into: &Path) -> Result<()> {
    let reader = inner.blobs.get(tree).await?;
    let into = into.to_owned();
    blocking(move || {
        std::fs::create_dir(&into).map_err(|e| Error::from_io("can't make a folder for the source", e))?;
        // What is in `Blobs` was checked when it came in.
        archive::unpack(SyncIoBridge::new(reader), &into, Limits::default().with_links_out())
    })
    .await
}
