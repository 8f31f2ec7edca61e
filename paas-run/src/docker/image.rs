//! The image that a release's processes run from, and what it says of itself.

use bollard::models::ImageInspect;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt;
use paas_core::{Artifact, Error, ErrorCode, Result};
use paas_docker::{Docker, bollard, failed};

/// Where a web process is told to listen if its image names no port.
pub(super) const PORT: u16 = 5000;

/// By this label an image says that it can bear a root that nobody writes to.
const READ_ONLY: &str = "paas.read-only";

/// An image on the daemon.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// Its id: nobody moves that.
    pub(super) id: String,
    /// The one port that it exposes, or [`PORT`].
    pub(super) port: u16,
    /// Its root may be mounted read-only.
    pub(super) read_only: bool,
    /// Its own check of whether it is well, as a command.
    pub(super) check: Option<Vec<String>>,
}

impl Image {
    fn of(found: ImageInspect) -> Self {
        let config = found.config.unwrap_or_default();
        let ports: Vec<u16> = config.exposed_ports.iter().flatten().filter_map(|port| tcp(port)).collect();
        let port = if let [port] = ports[..] { port } else { PORT };
        let says = |label: &str| config.labels.as_ref().and_then(|labels| labels.get(label)).cloned();
        let check = config.healthcheck.and_then(|check| command(&check.test?));
        let read_only = says(READ_ONLY).is_some_and(|value| value == "true");
        Self { id: found.id.unwrap_or_default(), port, read_only, check }
    }

    /// The image of this artifact. One that was removed is pulled again if its reference says from where and by its digest.
    pub(super) async fn find(docker: &Docker, artifact: &Artifact) -> Result<Self> {
        let Some(reference) = artifact.reference.as_deref() else {
            return Err(Error::new(
                ErrorCode::InvalidParams,
                "this image has no reference: build the app again",
            ));
        };
        if let Some(image) = Self::look(docker, reference).await? {
            return Ok(image);
        }
        let gone = || format!("the image {reference} is not on this Docker any more");
        if !reference.contains("@sha256:") {
            let text = format!("{}: deploy the app again, so that it is built anew", gone());
            return Err(Error::new(ErrorCode::NotFound, text));
        }
        let options =
            CreateImageOptions { from_image: Some(reference.into()), ..CreateImageOptions::default() };
        let pulled = docker.client().create_image(Some(options), None, None);
        tokio::pin!(pulled);
        while let Some(step) = pulled.next().await {
            step.map_err(|e| failed(format!("{} and can't be pulled", gone()), e))?;
        }
        let image = Self::look(docker, reference).await?;
        image.ok_or_else(|| Error::new(ErrorCode::NotFound, format!("{}, though it was pulled", gone())))
    }

    /// The image of this reference, if it is there.
    pub(super) async fn look(docker: &Docker, reference: &str) -> Result<Option<Self>> {
        match docker.client().inspect_image(reference).await {
            Ok(found) => Ok(Some(Self::of(found))),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(e) => Err(failed(format!("can't look at the image {reference}"), e)),
        }
    }
}

/// The command of a HEALTHCHECK: none where it is switched off.
fn command(test: &[String]) -> Option<Vec<String>> {
    match test.split_first() {
        Some((kind, words)) if kind == "CMD" => Some(words.to_vec()),
        Some((kind, words)) if kind == "CMD-SHELL" => {
            Some(["/bin/sh", "-c"].into_iter().map(str::to_owned).chain(words.iter().cloned()).collect())
        }
        _ => None,
    }
}

/// The number of `8080/tcp` or `8080`.
fn tcp(port: &str) -> Option<u16> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    number.parse().ok().filter(|_| protocol == "tcp")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ImageConfig;

    fn port(exposed: &[&str]) -> u16 {
        let exposed_ports = Some(exposed.iter().map(|port| (*port).to_owned()).collect());
        let config = Some(ImageConfig { exposed_ports, ..ImageConfig::default() });
        Image::of(ImageInspect { config, ..ImageInspect::default() }).port
    }

    #[test]
    fn the_one_port_that_an_image_exposes_is_where_its_web_process_listens() {
        assert_eq!(port(&["8080/tcp"]), 8080);
        assert_eq!(port(&["8080/tcp", "53/udp"]), 8080);
        assert_eq!([port(&[]), port(&["53/udp"]), port(&["80/tcp", "443/tcp"])], [PORT; 3]);
    }
}
