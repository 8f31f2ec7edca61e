//! The `image` source: what a reference means today.

use std::path::Path;

use async_trait::async_trait;
use paas_core::{
    Context, Digest, Error, ErrorCode, ProviderName, Result, Revision, Source, SourceRef, blocking,
};
use paas_docker::{Docker, failed};

use super::ImageReference;
use crate::docker::registries::Registries;

/// The fact that tells the builder which image it is. It stands beside the code, and not in it, so that no code that came
/// another way can claim to be an image of a private registry.
pub(super) const PINNED: &str = "image";
/// The only file of the tree: so that another image is another tree.
const FILE: &str = "image";

/// Takes an image that is in a registry, pinned to its digest when it is fetched.
///
/// The location is an [`ImageReference`]. The daemon asks the registry, with the login for it where there is one: whoever
/// may deploy by this source gets any image that these logins open.
#[derive(Debug, Clone)]
pub struct ImageSource {
    docker: Docker,
    registries: Registries,
}

impl ImageSource {
    /// Asks by this daemon, as anybody may.
    pub fn new(docker: Docker) -> Self {
        Self { docker, registries: Registries::new() }
    }

    /// With these logins.
    #[must_use]
    pub fn registries(mut self, registries: Registries) -> Self {
        self.registries = registries;
        self
    }

    /// Names an image for a deploy.
    ///
    /// # Errors
    /// `bad_source` when it is no image's name.
    pub fn at(image: &str) -> Result<SourceRef> {
        Ok(SourceRef::new(name(), image.parse::<ImageReference>()?.to_string()))
    }
}

fn name() -> ProviderName {
    ProviderName::new("image").expect("a constant")
}

#[async_trait]
impl Source for ImageSource {
    fn name(&self) -> ProviderName {
        name()
    }

    async fn fetch(&self, ctx: &Context, source: &SourceRef, into: &Path) -> Result<Revision> {
        let image: ImageReference = source.location.parse()?;
        let login = self.registries.credentials(image.registry());
        let asked = image.to_string();
        let asking = self.docker.client().inspect_registry_image(&asked, login);
        let found = ctx.cancel.guard(asking).await?.map_err(|e| {
            let e = failed(format!("can't find the image {asked} in its registry"), e);
            // The daemon's word for it; the platform's is that a source is not there.
            if e.code() == ErrorCode::InvalidParams {
                Error::new(ErrorCode::BadSource, e.message())
            } else {
                e
            }
        })?;
        let digest = found.descriptor.digest.unwrap_or_default();
        let digest: Digest = digest.parse().map_err(|e| {
            Error::new(
                ErrorCode::BadSource,
                format!("the registry calls {asked} {digest:?}, which is no digest"),
            )
            .with_source(e)
        })?;
        let pinned = image.at(digest).to_string();
        let (file, text) = (into.join(FILE), format!("{pinned}\n"));
        blocking(move || {
            std::fs::write(file, text).map_err(|e| Error::from_io("can't write the checkout", e))
        })
        .await?;
        let mut revision = source.revision.clone();
        revision.message.get_or_insert(asked);
        revision.metadata.insert(PINNED.to_owned(), pinned);
        Ok(revision)
    }
}
