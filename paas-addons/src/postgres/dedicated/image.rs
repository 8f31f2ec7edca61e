//! Bringing an image.

use futures_util::TryStreamExt;
use paas_core::{Context, Error, ErrorCode, Result};
use paas_docker::bollard::query_parameters::CreateImageOptionsBuilder;
use paas_docker::{Docker, failed};

/// The id of the image that the daemon has under this name; `None` where it has none.
pub(super) async fn here(docker: &Docker, reference: &str) -> Result<Option<String>> {
    let found = docker.client().inspect_image(reference).await;
    match found.map_err(|e| failed(format!("can't look at the image {reference}"), e)) {
        Ok(found) => Ok(found.id),
        Err(e) if e.code() == ErrorCode::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Asks the registry for what the name means today.
pub(super) async fn pull(docker: &Docker, reference: &str) -> Result<()> {
    let options = CreateImageOptionsBuilder::new().from_image(reference).build();
    let pulling = docker.client().create_image(Some(options), None, None);
    let pulled = pulling.try_for_each(|_| async { Ok(()) }).await;
    pulled.map_err(|e| failed(format!("can't pull the image {reference}"), e))
}

/// The id of this image, which is pulled where the daemon doesn't have it.
pub(super) async fn bring(ctx: &Context, docker: &Docker, reference: &str) -> Result<String> {
    if let Some(id) = here(docker, reference).await? {
        return Ok(id);
    }
    ctx.log.line(format!("       Pulling {reference}"));
    ctx.cancel.guard(pull(docker, reference)).await??;
    here(docker, reference).await?.ok_or_else(|| missing(reference))
}

pub(super) fn missing(reference: &str) -> Error {
    Error::new(ErrorCode::NotFound, format!("the image {reference} was removed while it was needed"))
}
