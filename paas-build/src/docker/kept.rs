//! Images that the daemon keeps for us: their names, their processes, and an end of them.

use paas_core::{AppName, Digest, Error, ErrorCode, LogWriter, ProcessTable, Result};
use paas_docker::bollard::query_parameters::{RemoveImageOptions, TagImageOptionsBuilder};
use paas_docker::{Docker, failed, label};

/// An image that the daemon has.
#[derive(Debug)]
pub(crate) struct Image {
    /// `sha256:0123…`: the image's content and config.
    pub(crate) id: String,
    pub(crate) digest: Digest,
    /// Bytes of all layers.
    pub(crate) size: u64,
    /// Whether it says what to run.
    pub(crate) runs: bool,
}

impl Image {
    pub(crate) async fn find(docker: &Docker, reference: &str) -> Result<Self> {
        let found = docker.client().inspect_image(reference).await;
        let found = found.map_err(|e| failed(format!("can't look at the image {reference}"), e))?;
        let id = found.id.unwrap_or_default();
        let digest = id.parse().map_err(|e| {
            Error::new(ErrorCode::Internal, format!("Docker calls an image {id:?}, which is no digest"))
                .with_source(e)
        })?;
        let config = found.config.unwrap_or_default();
        let runs = [config.entrypoint, config.cmd].into_iter().flatten().any(|words| !words.is_empty());
        Ok(Self {
            id,
            digest,
            size: found.size.and_then(|size| size.try_into().ok()).unwrap_or_default(),
            runs,
        })
    }

    /// Gives it a name of the app's, so that it is no nameless image that somebody tidies away, and people can find it.
    pub(crate) async fn name(&self, docker: &Docker, app: &AppName) -> Result<String> {
        let (repository, tag) = (format!("{}/{app}", docker.platform()), &self.digest.hex()[..12]);
        let options = TagImageOptionsBuilder::new().repo(&repository).tag(tag).build();
        let named = docker.client().tag_image(&self.id, Some(options)).await;
        named.map_err(|e| failed(format!("can't name the image {repository}:{tag}"), e))?;
        Ok(format!("{repository}:{tag}"))
    }

    /// Its processes: what the Procfile names, else the image's own command as `web`, which an empty command stands for.
    pub(crate) fn processes(
        &self,
        procfile: impl IntoIterator<Item = (paas_core::ProcessType, String)>,
    ) -> Result<ProcessTable> {
        let mut processes = ProcessTable::new();
        for (process, command) in procfile {
            processes.declare(process, command);
        }
        if processes.is_empty() {
            if !self.runs {
                let text = "the image says nothing to run: give its Dockerfile a CMD, or name processes in a Procfile";
                return Err(Error::new(ErrorCode::BuildFailed, text));
            }
            processes.default_to("web".parse()?, "");
        }
        Ok(processes)
    }
}

/// Says what was found, in Heroku's words.
pub(crate) fn announce(log: &LogWriter, processes: &ProcessTable, name: &str, size: u64) {
    log.line("-----> Discovering process types");
    let names: Vec<_> = processes.iter().map(|(process, _)| process.as_str()).collect();
    if processes.iter().any(|(_, entry)| entry.declared) {
        log.line(format!("       Procfile declares types     -> {}", names.join(", ")));
    } else {
        log.line(format!("       The image's own command     -> {}", names.join(", ")));
    }
    log.line("-----> Image");
    log.line(format!("       {name} ({:.1}M)", megabytes(size)));
}

#[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Takes our names from an image, and removes it where nobody else has a name for it. An image that neither was made nor
/// is named by us stays as it is.
pub(crate) async fn discard(docker: &Docker, image: &str) -> Result<()> {
    let found =
        match docker.client().inspect_image(image).await.map_err(|e| failed("can't look at an image", e)) {
            Ok(found) => found,
            Err(e) if e.code() == ErrorCode::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    let made = labels.get(label::PLATFORM).is_some_and(|platform| platform == docker.platform().as_str());
    let prefix = format!("{}/", docker.platform());
    let names = found.repo_tags.unwrap_or_default();
    let (mut ours, foreign): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| name.starts_with(&prefix));
    // Without a name it is one that a killed engine built, or one that was pulled by its digest.
    if foreign.is_empty() && (made || !ours.is_empty()) {
        ours.extend(found.id);
    }
    for name in ours {
        let gone = docker.client().remove_image(&name, None::<RemoveImageOptions>, None).await;
        match gone.map_err(|e| failed(format!("can't remove the image {name}"), e)) {
            Err(e) if e.code() != ErrorCode::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
