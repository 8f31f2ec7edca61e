//! Providers that do nothing, and an engine of them: what remains is what the engine itself costs.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use paas::vault::MasterKey;
use paas::{
    AppId, AppName, AppRoutes, Artifact, ArtifactKind, BuildRequest, Builder, BuilderCapabilities, BuilderId,
    Context, Detection, Digest, DirBlobs, DrainRequest, Engine, EngineOptions, Instance, InstanceState,
    ProcessSpec, ProcessType, ProviderName, ReleaseId, Result, Revision, Router, RouterCapabilities, Runtime,
    RuntimeCapabilities, RuntimeEvent, SourceRef, Store, Vault,
};

/// Entries in a map.
#[derive(Debug, Default)]
pub(crate) struct Nothing(Mutex<HashMap<AppName, Vec<Instance>>>);

#[async_trait]
impl Runtime for Nothing {
    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::none()
    }

    async fn ensure(&self, ctx: &Context, spec: &ProcessSpec) -> Result<()> {
        let mut all = self.0.lock().unwrap();
        let ours = all.entry(spec.app.clone()).or_default();
        if !ours.iter().any(|i| i.release == spec.release) {
            let mut instance = Instance::starting(spec, 1, ctx.clock.now());
            instance.state = InstanceState::Up;
            instance.address = Some(([127, 0, 0, 1], 9).into());
            ours.push(instance);
        }
        Ok(())
    }

    async fn observe(&self, app: &AppName) -> Result<Vec<Instance>> {
        Ok(self.0.lock().unwrap().get(app).cloned().unwrap_or_default())
    }

    async fn apps(&self) -> Result<Vec<AppName>> {
        Ok(Vec::new())
    }

    fn watch(&self) -> BoxStream<'static, RuntimeEvent> {
        stream::pending().boxed()
    }

    async fn retire(&self, _: &Context, app: &AppName, release: ReleaseId) -> Result<()> {
        self.0.lock().unwrap().entry(app.clone()).or_default().retain(|i| i.release != release);
        Ok(())
    }

    async fn forget(&self, _: &Context, _: &AppName) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Router for Nothing {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::default()
    }

    async fn apply(&self, _: &Context, _: &AppRoutes) -> Result<()> {
        Ok(())
    }

    async fn observe(&self, _: &AppName) -> Result<Option<AppRoutes>> {
        Ok(None)
    }

    async fn drain(&self, _: &Context, _: &DrainRequest) -> Result<u64> {
        Ok(0)
    }
}

#[async_trait]
impl Builder for Nothing {
    fn id(&self) -> BuilderId {
        BuilderId::new(ProviderName::new("nothing").unwrap(), "1")
    }

    fn capabilities(&self) -> BuilderCapabilities {
        BuilderCapabilities::full()
    }

    async fn detect(&self, _: &Context, _: &BuildRequest) -> Result<Detection> {
        Ok(Detection::Yes("nothing".into()))
    }

    async fn build(&self, ctx: &Context, request: &BuildRequest) -> Result<Artifact> {
        let name = ProviderName::new("nothing").unwrap();
        let digest = request.checkout.digest;
        let mut artifact = Artifact::new(ArtifactKind::Image, digest, 0, name, ctx.clock.now());
        artifact.processes.declare(ProcessType::web(), "serve");
        Ok(artifact)
    }

    async fn forget(&self, _: &Context, _: AppId) -> Result<()> {
        Ok(())
    }
}

/// An engine whose instances are entries of `nothing`, and code to deploy with it.
pub(crate) async fn engine(
    store: Arc<dyn Store>,
    nothing: &Arc<Nothing>,
    dir: &Path,
    change: impl FnOnce(&mut EngineOptions),
) -> (Engine, SourceRef) {
    let blobs = Arc::new(DirBlobs::open(dir.join("blobs")).unwrap());
    let mut options = EngineOptions::default();
    options.work_dir = dir.join("work");
    change(&mut options);
    let engine = Engine::builder(store, nothing.clone(), nothing.clone())
        .with_options(options)
        .with_vault(Vault::new(MasterKey::from_bytes(&[7; 32]).unwrap()))
        .with_blobs(blobs)
        .with_builder(nothing.clone())
        .build()
        .unwrap();
    let (tree, archive) = (dir.join("tree"), dir.join("tree.tar.zst"));
    if !archive.exists() {
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("Procfile"), "web: serve\n").unwrap();
        paas::archive::pack(&tree, &archive, &|_, _| true).unwrap();
    }
    let digest = Digest::of(std::fs::read(&archive).unwrap());
    engine.blobs().put(digest, &archive).await.unwrap();
    (engine, SourceRef::archived(digest, Revision::default()))
}
