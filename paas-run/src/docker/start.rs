//! From a launch to a running container.

use bollard::errors::Error as Client;
use bollard::query_parameters::{CreateContainerOptions, StartContainerOptions};
use paas_core::{ArtifactKind, ConfigKey, Error, ErrorCode, Redactor, Result};
use paas_docker::{bollard, failed};
use paas_sandbox::procfs;

use super::container::{self, Held};
use super::image::Image;
use super::launcher::{Begun, DockerLauncher};
use super::record::{Note, Record};
use super::volume;
use crate::supervisor::{Launch, LaunchId};

/// A container that was made, and is not started yet.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) record: Record,
    pub(super) container: String,
    _starting: Begun,
}

impl DockerLauncher {
    /// Makes and starts its container, and copies what it prints.
    pub(super) async fn start(&self, launch: &Launch) -> Result<Record> {
        let Made { record, container, _starting } = self.make(launch, None).await?;
        self.begin(launch, &container).await?;
        let copy =
            self.output.copy(launch.id, container, &record, Redactor::knowing(&launch.spec.env), None, false);
        self.spawn(copy);
        Ok(record)
    }

    /// Makes its container; `held`: how its input and output are held by whoever sits at it.
    pub(super) async fn make(&self, launch: &Launch, held: Option<Held>) -> Result<Made> {
        let (id, label) = (launch.id, &launch.label);
        if self.notes.get(id).is_some() || self.census.get(id).is_some() {
            return Err(Error::new(ErrorCode::Exists, format!("{id} was launched before")));
        }
        let starting = self.starting.begin(id);
        let (image, network) = tokio::try_join!(self.image(launch), self.docker.network(&label.app))?;
        let mounts = volume::mounts(&self.docker, launch).await?;
        let web = label.name.process.is_web() && label.once.is_none();
        let record = Record {
            label: label.clone(),
            port: web.then_some(image.port),
            boot: procfs::boot_id(),
            started_at: self.clock.now(),
            secrets: launch.spec.env.keys().map(ConfigKey::to_string).collect(),
            check: image.check.clone().filter(|_| web),
        };
        let mut body = container::body(&self.docker, launch, &record, &image, network, &self.walls)?;
        if let Some(host) = &mut body.host_config {
            host.mounts = mounts;
        }
        if let Some(held) = held {
            container::hold(&mut body, held);
        }
        if label.once.is_some() {
            let note = Note { once: Some(record.clone()), ..Note::default() };
            self.notes.change(id, true, |kept| *kept = note).await?;
        }
        self.census.expect(id, record.clone());
        let name = container::name(&self.docker, launch);
        let options =
            CreateContainerOptions { name: Some(name.clone()), ..CreateContainerOptions::default() };
        match self.docker.client().create_container(Some(options), body).await {
            Ok(created) => Ok(Made { record, container: created.id, _starting: starting }),
            Err(e) => {
                let said = matches!(&e, Client::DockerResponseServerError { .. });
                let error = failed(format!("can't make the container of {}", label.name), e);
                // Nothing ran. If Docker didn't answer it may make the container yet: nobody starts that, and it is
                // removed when it is seen.
                self.give_up(id, (!said).then_some(name)).await?;
                Err(error)
            }
        }
    }

    /// Starts its container.
    pub(super) async fn begin(&self, launch: &Launch, container: &str) -> Result<()> {
        let (id, label) = (launch.id, &launch.label);
        if label.once.is_some() {
            self.notes.change(id, true, |note| note.begun = true).await?;
        }
        self.say(label, &format!("Starting process with command `{}`", launch.spec.command));
        let started = self.docker.client().start_container(container, None::<StartContainerOptions>).await;
        if let Err(e) = started {
            return Err(self.not_started(launch, container.to_owned(), e).await);
        }
        self.look(id, container).await;
        Ok(())
    }

    async fn image(&self, launch: &Launch) -> Result<Image> {
        let (label, artifact) = (&launch.label, &launch.spec.artifact);
        match artifact.kind {
            ArtifactKind::Image => Image::find(&self.docker, artifact).await,
            ArtifactKind::Slug => self.slugs.get((&label.app, label.app_id), artifact).await,
            _ => Err(Error::unsupported("running closures in containers")),
        }
    }

    /// Docker's table is asked for what it knows now; if it doesn't answer, it is asked again soon.
    async fn look(&self, id: LaunchId, container: &str) {
        if let Err(e) = self.census.look(id, container).await {
            tracing::debug!(error = %e, launch.id = %id, "a container can't be looked at yet");
        }
    }

    /// A start that Docker refused, such as for a command that isn't in the image, left nothing running. One that it
    /// didn't answer may have worked.
    async fn not_started(&self, launch: &Launch, container: String, error: Client) -> Error {
        let said = matches!(&error, Client::DockerResponseServerError { .. });
        let error = failed(format!("can't start the container of {}", launch.label.name), error);
        if !said && launch.label.once.is_some() {
            // Whoever asks again by its key finds it, and what became of it.
            return error;
        }
        let given_up = self.give_up(launch.id, Some(container)).await;
        given_up.err().unwrap_or(error)
    }

    /// Forgets a launch that came to nothing, and removes its container for as long as it takes.
    pub(super) async fn give_up(&self, id: LaunchId, container: Option<String>) -> Result<()> {
        self.census.drop_row(id);
        self.notes.remove(id).await?;
        if let Some(container) = container {
            let census = self.census.clone();
            self.spawn(Some(async move {
                // What is left after this is found by the census as what nobody knows of.
                if let Err(e) = census.remove(&container, true).await {
                    tracing::debug!(error = %e, launch.id = %id, "a container that came to nothing stays for now");
                }
            }));
        }
        Ok(())
    }
}
