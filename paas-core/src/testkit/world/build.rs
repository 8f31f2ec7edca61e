//! Code and artifacts made of text.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use super::World;
use crate::{
    AppId, Artifact, ArtifactKind, Blobs, BuildRequest, Builder, BuilderCapabilities, BuilderId, Context,
    Detection, Digest, Error, ErrorCode, Manifest, ProcessTable, ProcessType, ProviderName, Result, Revision,
    Source, SourceRef,
};

/// A source whose location is the text of a `Procfile`; `app.json` follows a line with `---`.
#[derive(Debug, Clone)]
pub struct FakeSource(World);

impl FakeSource {
    /// Its name.
    pub const NAME: &'static str = "text";

    /// Fetches in this world.
    pub fn new(world: &World) -> Self {
        Self(world.clone())
    }

    /// Code of this text.
    pub fn code(text: impl Into<String>) -> SourceRef {
        SourceRef::new(ProviderName::new(Self::NAME).expect("a constant"), text)
    }
}

#[async_trait]
impl Source for FakeSource {
    fn name(&self) -> ProviderName {
        ProviderName::new(Self::NAME).expect("a constant")
    }

    async fn fetch(&self, ctx: &Context, source: &SourceRef, into: &Path) -> Result<Revision> {
        let (procfile, manifest) = source.location.split_once("---\n").unwrap_or((&source.location, "{}"));
        self.0
            .act(ctx, "fetch", |world| {
                for (name, text) in [("Procfile", procfile), ("manifest.json", manifest)] {
                    std::fs::write(into.join(name), text)
                        .map_err(|e| Error::from_io("can't write code", e))?;
                }
                world.effect("fetch");
                Ok(Revision { id: Some(Digest::of(&source.location).hex()), ..Revision::default() })
            })
            .await
    }
}

/// A builder that makes an artifact of a `Procfile` and a [`Manifest`] as JSON.
#[derive(Debug, Clone)]
pub struct FakeBuilder(World, Option<Arc<dyn Blobs>>);

impl FakeBuilder {
    /// Builds in this world. What it makes is called an image and is nowhere: the fake runtime unpacks nothing.
    pub fn new(world: &World) -> Self {
        Self(world.clone(), None)
    }

    /// Makes slugs instead, with content that is kept here.
    #[must_use]
    pub fn making_slugs(mut self, blobs: Arc<dyn Blobs>) -> Self {
        self.1 = Some(blobs);
        self
    }
}

#[async_trait]
impl Builder for FakeBuilder {
    fn id(&self) -> BuilderId {
        BuilderId::new(ProviderName::new("fake").expect("a constant"), "1")
    }

    fn capabilities(&self) -> BuilderCapabilities {
        BuilderCapabilities::full()
    }

    async fn detect(&self, ctx: &Context, request: &BuildRequest) -> Result<Detection> {
        let there = request.checkout.dir.join("Procfile").exists();
        let found =
            if there { Detection::Yes("Fake".into()) } else { Detection::No(vec!["Procfile".into()]) };
        self.0.act(ctx, "detect", |_| Ok(found)).await
    }

    async fn manifest(&self, _: &Context, request: &BuildRequest) -> Result<Manifest> {
        manifest(&read(request, "manifest.json")?)
    }

    async fn build(&self, ctx: &Context, request: &BuildRequest) -> Result<Artifact> {
        let procfile = read(request, "Procfile")?;
        let manifest = manifest(&read(request, "manifest.json")?)?;
        ctx.log.line("-----> Fake app detected");
        for (key, value) in request.config.iter() {
            // A careless buildpack.
            ctx.log.line(format!("       building with {key}={}", value.expose()));
        }
        let mut made = (ArtifactKind::Image, request.checkout.digest);
        if let Some(blobs) = &self.1 {
            let content = format!("slug of {}", request.checkout.digest);
            made = (ArtifactKind::Slug, Digest::of(&content));
            let file = tempfile::NamedTempFile::new()
                .and_then(|file| std::fs::write(&file, &content).map(|()| file))
                .map_err(|e| Error::from_io("can't write a slug", e))?;
            blobs.put(made.1, file.path()).await?;
        }
        self.0
            .act(ctx, "build", |world| {
                let name = ProviderName::new("fake").expect("a constant");
                let mut artifact = Artifact::new(made.0, made.1, 0, name, ctx.clock.now());
                artifact.processes = parse(&procfile)?;
                artifact.manifest = manifest;
                world.effect(format!("build {}", request.app));
                Ok(artifact)
            })
            .await
    }

    async fn forget(&self, _: &Context, _: AppId) -> Result<()> {
        Ok(())
    }

    async fn discard(&self, _: &Context, artifact: &Artifact) -> Result<()> {
        self.0.effect(format!("discard {}", artifact.digest));
        Ok(())
    }
}

fn read(request: &BuildRequest, name: &str) -> Result<String> {
    let path = request.checkout.dir.join(name);
    std::fs::read_to_string(path).map_err(|e| Error::from_io("can't read code", e))
}

fn manifest(text: &str) -> Result<Manifest> {
    serde_json::from_str(text)
        .map_err(|e| Error::new(ErrorCode::BuildFailed, "the manifest can't be read").with_source(e))
}

fn parse(procfile: &str) -> Result<ProcessTable> {
    let mut table = ProcessTable::new();
    for (name, command) in procfile.lines().filter_map(|line| line.split_once(": ")) {
        table.declare(ProcessType::new(name)?, command);
    }
    Ok(table)
}
