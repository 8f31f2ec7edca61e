//! The weather around each trait. What can't fail by its signature doesn't.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use tokio::time::Instant;

use super::Chaos;
use crate::blobs::{BlobEntry, BlobReader};
use crate::{
    AddonCapabilities, AddonId, AddonProvider, AddonStatus, AppId, AppName, AppRoutes, Artifact, BindRequest,
    Blobs, BuildRequest, Builder, BuilderCapabilities, BuilderId, Catalog, ConfigVars, Console, Context,
    Detection, Digest, DrainRequest, Exit, Instance, LogLine, LogQuery, Logs, Manifest, NodeName, PlanName,
    ProcessSpec, ProviderName, ProvisionRequest, ReleaseId, Result, Revision, Router, RouterCapabilities,
    RunSpec, Runtime, RuntimeCapabilities, RuntimeEvent, Source, SourceRef, VolumeName, Window,
};

/// A provider in the weather.
#[derive(Debug)]
pub(super) struct Wrapped<T: ?Sized> {
    chaos: Chaos,
    inner: Arc<T>,
}

impl<T: ?Sized + fmt::Debug> Wrapped<T> {
    pub(super) fn new(chaos: &Chaos, inner: Arc<T>) -> Self {
        Self { chaos: chaos.clone(), inner }
    }

    /// A call that can be cancelled.
    async fn call<R>(
        &self,
        name: &'static str,
        ctx: &Context,
        effect: impl Future<Output = Result<R>>,
    ) -> Result<R> {
        self.chaos.pass(name, Some(&ctx.cancel), effect).await
    }

    /// A call that can't.
    async fn ask<R>(&self, name: &'static str, effect: impl Future<Output = Result<R>>) -> Result<R> {
        self.chaos.pass(name, None, effect).await
    }
}

// A method of a trait that were not passed on would be a hole in every test.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Source for Wrapped<dyn Source> {
    fn name(&self) -> ProviderName {
        self.inner.name()
    }

    async fn fetch(&self, ctx: &Context, source: &SourceRef, into: &Path) -> Result<Revision> {
        self.call("fetch", ctx, self.inner.fetch(ctx, source, into)).await
    }

    async fn archived(&self, ctx: &Context, source: &SourceRef) -> Result<Option<Digest>> {
        self.call("archived", ctx, self.inner.archived(ctx, source)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Builder for Wrapped<dyn Builder> {
    fn id(&self) -> BuilderId {
        self.inner.id()
    }

    fn capabilities(&self) -> BuilderCapabilities {
        self.inner.capabilities()
    }

    async fn detect(&self, ctx: &Context, request: &BuildRequest) -> Result<Detection> {
        self.call("detect", ctx, self.inner.detect(ctx, request)).await
    }

    async fn manifest(&self, ctx: &Context, request: &BuildRequest) -> Result<Manifest> {
        self.call("manifest", ctx, self.inner.manifest(ctx, request)).await
    }

    async fn build(&self, ctx: &Context, request: &BuildRequest) -> Result<Artifact> {
        self.call("build", ctx, self.inner.build(ctx, request)).await
    }

    async fn forget(&self, ctx: &Context, app: AppId) -> Result<()> {
        self.call("forget", ctx, self.inner.forget(ctx, app)).await
    }

    async fn discard(&self, ctx: &Context, artifact: &Artifact) -> Result<()> {
        self.call("discard", ctx, self.inner.discard(ctx, artifact)).await
    }

    fn inputs(&self, request: &BuildRequest) -> Digest {
        self.inner.inputs(request)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Runtime for Wrapped<dyn Runtime> {
    fn capabilities(&self) -> RuntimeCapabilities {
        self.inner.capabilities()
    }

    async fn ensure(&self, ctx: &Context, spec: &ProcessSpec) -> Result<()> {
        self.call("ensure", ctx, self.inner.ensure(ctx, spec)).await
    }

    async fn observe(&self, app: &AppName) -> Result<Vec<Instance>> {
        self.ask("observe", self.inner.observe(app)).await
    }

    async fn apps(&self) -> Result<Vec<AppName>> {
        self.ask("apps", self.inner.apps()).await
    }

    fn watch(&self) -> BoxStream<'static, RuntimeEvent> {
        self.inner.watch()
    }

    async fn run_once(&self, ctx: &Context, spec: &RunSpec) -> Result<Exit> {
        self.call("run_once", ctx, self.inner.run_once(ctx, spec)).await
    }

    async fn attach(&self, ctx: &Context, spec: &RunSpec, window: Option<Window>) -> Result<Console> {
        self.call("attach", ctx, self.inner.attach(ctx, spec, window)).await
    }

    async fn retire(&self, ctx: &Context, app: &AppName, release: ReleaseId) -> Result<()> {
        self.call("retire", ctx, self.inner.retire(ctx, app, release)).await
    }

    async fn forget(&self, ctx: &Context, app: &AppName) -> Result<()> {
        self.call("forget", ctx, self.inner.forget(ctx, app)).await
    }

    async fn volumes(&self, app: &AppName) -> Result<Vec<VolumeName>> {
        self.ask("volumes", self.inner.volumes(app)).await
    }

    async fn remove_volume(&self, ctx: &Context, app: &AppName, volume: &VolumeName) -> Result<()> {
        self.call("remove_volume", ctx, self.inner.remove_volume(ctx, app, volume)).await
    }

    fn node(&self) -> Option<&NodeName> {
        self.inner.node()
    }

    fn spec_digest(&self, spec: &ProcessSpec) -> Digest {
        self.inner.spec_digest(spec)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Router for Wrapped<dyn Router> {
    fn capabilities(&self) -> RouterCapabilities {
        self.inner.capabilities()
    }

    async fn apply(&self, ctx: &Context, routes: &AppRoutes) -> Result<()> {
        self.call("apply", ctx, self.inner.apply(ctx, routes)).await
    }

    async fn observe(&self, app: &AppName) -> Result<Option<AppRoutes>> {
        self.ask("routes", self.inner.observe(app)).await
    }

    async fn drain(&self, ctx: &Context, request: &DrainRequest) -> Result<u64> {
        self.call("drain", ctx, self.inner.drain(ctx, request)).await
    }

    fn serve_until(&self, until: Option<Instant>) -> Result<()> {
        self.inner.serve_until(until)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl AddonProvider for Wrapped<dyn AddonProvider> {
    async fn catalog(&self) -> Catalog {
        self.inner.catalog().await
    }

    fn capabilities(&self) -> AddonCapabilities {
        self.inner.capabilities()
    }

    async fn provision(&self, ctx: &Context, request: &ProvisionRequest) -> Result<AddonStatus> {
        self.call("provision", ctx, self.inner.provision(ctx, request)).await
    }

    async fn status(&self, ctx: &Context, addon: AddonId) -> Result<AddonStatus> {
        self.call("status", ctx, self.inner.status(ctx, addon)).await
    }

    async fn bind(&self, ctx: &Context, request: &BindRequest) -> Result<ConfigVars> {
        self.call("bind", ctx, self.inner.bind(ctx, request)).await
    }

    async fn unbind(&self, ctx: &Context, request: &BindRequest) -> Result<()> {
        self.call("unbind", ctx, self.inner.unbind(ctx, request)).await
    }

    async fn rotate(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        self.call("rotate", ctx, self.inner.rotate(ctx, addon)).await
    }

    async fn revoke(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        self.call("revoke", ctx, self.inner.revoke(ctx, addon)).await
    }

    async fn change_plan(&self, ctx: &Context, addon: AddonId, plan: &PlanName) -> Result<AddonStatus> {
        self.call("change_plan", ctx, self.inner.change_plan(ctx, addon, plan)).await
    }

    async fn deprovision(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        self.call("deprovision", ctx, self.inner.deprovision(ctx, addon)).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Blobs for Wrapped<dyn Blobs> {
    async fn claim(&self, store: &str) -> Result<()> {
        self.ask("claim_blobs", self.inner.claim(store)).await
    }

    async fn put(&self, digest: Digest, file: &Path) -> Result<()> {
        self.ask("put", self.inner.put(digest, file)).await
    }

    async fn get(&self, digest: Digest) -> Result<BlobReader> {
        self.ask("get_blob", self.inner.get(digest)).await
    }

    async fn has(&self, digest: Digest) -> Result<bool> {
        self.ask("has", self.inner.has(digest)).await
    }

    async fn renew(&self, digest: Digest) -> Result<bool> {
        self.ask("renew_blob", self.inner.renew(digest)).await
    }

    async fn list(&self, after: Option<Digest>, limit: usize) -> Result<Vec<BlobEntry>> {
        self.ask("list_blobs", self.inner.list(after, limit)).await
    }

    async fn collect(&self, digest: Digest, before: DateTime<Utc>) -> Result<bool> {
        self.ask("collect", self.inner.collect(digest, before)).await
    }

    async fn delete(&self, digest: Digest) -> Result<()> {
        self.ask("delete", self.inner.delete(digest)).await
    }

    fn local_path(&self, digest: Digest) -> Option<PathBuf> {
        self.inner.local_path(digest)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Logs for Wrapped<dyn Logs> {
    fn append(&self, app: &AppName, line: LogLine) {
        self.inner.append(app, line);
    }

    async fn read(&self, app: &AppName, query: LogQuery) -> Result<BoxStream<'static, LogLine>> {
        self.ask("read_log", self.inner.read(app, query)).await
    }

    async fn forget(&self, app: &AppName) -> Result<()> {
        self.ask("forget_log", self.inner.forget(app)).await
    }
}
