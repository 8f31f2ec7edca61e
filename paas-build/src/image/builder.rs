//! The `image` builder: brings an image that the `image` source has pinned.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use paas_core::{
    AppId, Artifact, ArtifactKind, BuildRequest, Builder, BuilderCapabilities, BuilderId, Context, Detection,
    Digest, Error, ErrorCode, ProviderName, Result,
};
use paas_docker::bollard::query_parameters::CreateImageOptionsBuilder;
use paas_docker::{Docker, failed};

use super::ImageReference;
use super::source::PINNED;
use crate::docker::kept::{self, Image};
use crate::docker::registries::Registries;

/// Makes an artifact of an image that the source [`ImageSource`](crate::ImageSource) has pinned; its process is the
/// image's own command, as `web`.
#[derive(Debug, Clone)]
pub struct ImageBuilder {
    docker: Docker,
    registries: Registries,
}

impl ImageBuilder {
    /// Pulls by this daemon, as anybody may.
    pub fn new(docker: Docker) -> Self {
        Self { docker, registries: Registries::new() }
    }

    /// With these logins.
    #[must_use]
    pub fn registries(mut self, registries: Registries) -> Self {
        self.registries = registries;
        self
    }

    async fn pull(&self, image: &ImageReference, pinned: &str) -> Result<()> {
        let options = CreateImageOptionsBuilder::new().from_image(pinned).build();
        let login = self.registries.credentials(image.registry());
        let pulling = self.docker.client().create_image(Some(options), None, login);
        let pulled = pulling.try_for_each(|_| async { Ok(()) }).await;
        pulled.map_err(|e| failed(format!("can't pull the image {pinned}"), e))
    }
}

/// What the source has pinned, where it was the source `image`.
fn pinned(request: &BuildRequest) -> Option<&String> {
    request.checkout.revision.metadata.get(PINNED)
}

#[async_trait]
impl Builder for ImageBuilder {
    fn id(&self) -> BuilderId {
        BuilderId::new(ProviderName::new("image").expect("a constant"), env!("CARGO_PKG_VERSION"))
    }

    fn capabilities(&self) -> BuilderCapabilities {
        BuilderCapabilities::full()
    }

    async fn detect(&self, _ctx: &Context, request: &BuildRequest) -> Result<Detection> {
        Ok(match pinned(request) {
            Some(pinned) => Detection::Yes(pinned.clone()),
            None => Detection::No(vec!["an image of the source `image`".to_owned()]),
        })
    }

    async fn build(&self, ctx: &Context, request: &BuildRequest) -> Result<Artifact> {
        let pinned = pinned(request).ok_or_else(|| {
            Error::new(
                ErrorCode::NotDetected,
                "this is code, not an image: deploy images by the source `image`",
            )
        })?;
        let reference: ImageReference = pinned.parse()?;
        if !reference.is_pinned() {
            return Err(Error::new(
                ErrorCode::BadSource,
                format!("{pinned} may mean another image tomorrow"),
            ));
        }
        let image = match Image::find(&self.docker, pinned).await {
            Ok(image) => {
                ctx.log.line(format!("-----> {pinned} is here already"));
                image
            }
            Err(e) if e.code() == ErrorCode::NotFound => {
                ctx.log.line(format!("-----> Pulling {pinned}"));
                ctx.cancel.guard(self.pull(&reference, pinned)).await??;
                let image = Image::find(&self.docker, pinned).await?;
                // What was here before is somebody else's, and stays when nobody here needs it any more.
                image.name(&self.docker, &request.app).await?;
                image
            }
            Err(e) => return Err(e),
        };
        let processes = image.processes([])?;
        kept::announce(&ctx.log, &processes, pinned, image.size);
        let mut artifact =
            Artifact::new(ArtifactKind::Image, image.digest, image.size, self.id().name, ctx.clock.now());
        artifact.reference = Some(pinned.clone());
        artifact.processes = processes;
        "an image".clone_into(&mut artifact.description);
        artifact.metadata.insert("image".to_owned(), pinned.clone());
        Ok(artifact)
    }

    /// Nothing is kept.
    async fn forget(&self, _ctx: &Context, _app: AppId) -> Result<()> {
        Ok(())
    }

    async fn discard(&self, _ctx: &Context, artifact: &Artifact) -> Result<()> {
        match &artifact.reference {
            Some(reference) => kept::discard(&self.docker, reference).await,
            None => Ok(()),
        }
    }

    fn inputs(&self, request: &BuildRequest) -> Digest {
        Digest::of_parts(pinned(request))
    }
}
