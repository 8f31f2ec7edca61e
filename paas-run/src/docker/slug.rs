//! Slugs as images: the stack's image and, on top of it, the slug as `/app`, made once per app and artifact. All instances
//! share it, and each writes to a layer of its own that is gone when it ends, as on Heroku.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bollard::models::{ContainerConfig, ContainerCreateBody};
use bollard::query_parameters::{
    CommitContainerOptions, ListContainersOptions, ListImagesOptions, RemoveContainerOptions,
    RemoveImageOptions, UploadToContainerOptions,
};
use bytes::Bytes;
use futures_util::stream;
use paas_core::{AppId, AppName, Artifact, Blobs, Digest, Error, ErrorCode, MountPath, Result, blocking};
use paas_docker::{Docker, bollard, failed, label};
use tokio::sync::{OnceCell, mpsc};
use tokio_util::io::SyncIoBridge;

use super::image::Image;

/// What a slug may hold unpacked, in bytes: 4 GiB.
const LARGEST: u64 = 4 << 30;

/// How [`label::KIND`] calls the images, and the containers in which they are made.
const KIND: &str = "slug";

/// The images of slugs.
#[derive(Debug)]
pub(super) struct Slugs {
    docker: Docker,
    blobs: Arc<dyn Blobs>,
    stack: Option<String>,
    /// Number of the user and of the group to which the files belong.
    user: (u64, u64),
    made: Mutex<HashMap<String, Arc<OnceCell<Image>>>>,
}

impl Slugs {
    /// Removes what an engine that was killed while it made an image left behind.
    pub(super) async fn open(
        docker: Docker,
        blobs: Arc<dyn Blobs>,
        stack: Option<String>,
        user: (u64, u64),
    ) -> Result<Self> {
        let filters = Some(docker.ours(&[(label::KIND, KIND)]));
        let options = ListContainersOptions { all: true, filters, ..ListContainersOptions::default() };
        let left = docker.client().list_containers(Some(options)).await;
        for left in left.map_err(|e| failed("can't list containers", e))? {
            remove(&docker, &left.id.unwrap_or_default()).await?;
        }
        Ok(Self { docker, blobs, stack, user, made: Mutex::default() })
    }

    fn repository(&self, app: &AppName) -> String {
        format!("paas-slug/{}/{app}", self.docker.platform())
    }

    fn name(&self, app: &AppName, life: AppId, digest: Digest) -> String {
        format!("{}:{life}.{}", self.repository(app), digest.hex())
    }

    /// The image of this slug.
    pub(super) async fn get(&self, (app, life): (&AppName, AppId), artifact: &Artifact) -> Result<Image> {
        let name = self.name(app, life, artifact.digest);
        let cell = {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(made.entry(name.clone()).or_default())
        };
        let image = cell.get_or_try_init(|| async {
            match Image::look(&self.docker, &name).await? {
                Some(image) => Ok(image),
                None => self.make((app, life), artifact).await,
            }
        });
        let image = image.await?.clone();
        if Image::look(&self.docker, &image.id).await?.is_some() {
            return Ok(image);
        }
        // Somebody removed it.
        self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        self.make((app, life), artifact).await
    }

    async fn make(&self, (app, life): (&AppName, AppId), artifact: &Artifact) -> Result<Image> {
        let Some(stack) = &self.stack else {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "no stack image is configured, and slugs run on one: name it in the runtime's config",
            ));
        };
        let labels = self.docker.labels([(label::KIND, KIND.into()), (label::APP, app.to_string())]);
        let body = ContainerCreateBody {
            image: Some(stack.clone()),
            cmd: Some(vec!["true".into()]),
            labels: Some(labels),
            network_disabled: Some(true),
            ..ContainerCreateBody::default()
        };
        let made = self.docker.client().create_container(None, body).await;
        let container = made.map_err(|e| failed(format!("can't begin a slug's image on {stack}"), e))?.id;
        let image = self.fill(&container, (app, life), artifact).await;
        let removed = remove(&self.docker, &container).await;
        let image = image?;
        removed?;
        Ok(image)
    }

    async fn fill(
        &self,
        container: &str,
        (app, life): (&AppName, AppId),
        artifact: &Artifact,
    ) -> Result<Image> {
        let digest = artifact.digest;
        let archive: Box<dyn Read + Send> = match self.blobs.local_path(digest).map(std::fs::File::open) {
            Some(Ok(file)) => Box::new(file),
            _ => Box::new(SyncIoBridge::new(self.blobs.get(digest).await?)),
        };
        // A few pieces wait for a daemon that is slower than the disk.
        let (send, mut pieces) = mpsc::channel(4);
        let (user, failing) = (self.user, send.clone());
        let wishes = artifact.manifest.formation.values();
        let volumes: Vec<MountPath> =
            wishes.flat_map(|wish| wish.volumes.iter().map(|mount| mount.path.clone())).collect();
        let writing = tokio::spawn(blocking(move || {
            let written = rewrite(archive, user, &volumes, Pieces { send, piece: Vec::new() });
            if let Err(e) = &written {
                // The daemon sees a body that breaks off, and keeps nothing of it.
                let _ = failing.blocking_send(Err(io::Error::other(e.to_string())));
            }
            Ok(written)
        }));
        let body = bollard::body_try_stream(stream::poll_fn(move |cx| pieces.poll_recv(cx)));
        let options = UploadToContainerOptions { path: "/".into(), ..UploadToContainerOptions::default() };
        let client = self.docker.patient(std::time::Duration::from_secs(600));
        let uploaded = client.upload_to_container(container, Some(options), body).await;
        let written =
            writing.await.map_err(io::Error::other).and_then(|done| done.map_err(io::Error::other)?);
        match (written, uploaded) {
            // The daemon stopped listening, and says why.
            (Err(e), Err(said)) if e.kind() == io::ErrorKind::BrokenPipe => {
                return Err(failed("can't put a slug into an image", said));
            }
            (Err(e), _) => return Err(Error::from_io("can't unpack a slug", e)),
            (Ok(()), uploaded) => uploaded.map_err(|e| failed("can't put a slug into an image", e))?,
        }
        let name = self.name(app, life, digest);
        let (repo, tag) = name.rsplit_once(':').unwrap_or((&name, "latest"));
        let options = CommitContainerOptions {
            container: Some(container.into()),
            repo: Some(repo.into()),
            tag: Some(tag.into()),
            ..CommitContainerOptions::default()
        };
        let labels = self.docker.labels([
            (label::KIND, KIND.into()),
            (label::APP, app.to_string()),
            (label::APP_ID, life.to_string()),
            (label::ARTIFACT, digest.to_string()),
        ]);
        let config = ContainerConfig {
            labels: Some(labels),
            working_dir: Some("/app".into()),
            user: Some(format!("{}:{}", self.user.0, self.user.1)),
            ..ContainerConfig::default()
        };
        let id = client.commit_container(options, config).await;
        let id = id.map_err(|e| failed("can't keep a slug's image", e))?.id;
        let image = Image::look(&self.docker, &id).await?;
        image.ok_or_else(|| Error::new(ErrorCode::NotFound, "a slug's image was removed while it was made"))
    }

    /// Removes the images of this app's slugs but those of these artifacts.
    pub(super) async fn keep_only(&self, app: &AppName, wanted: &[(AppId, Digest)]) -> Result<()> {
        let wanted: Vec<String> =
            wanted.iter().map(|(life, digest)| self.name(app, *life, *digest)).collect();
        let filters = Some(self.docker.ours(&[(label::KIND, KIND), (label::APP, app.as_str())]));
        let options = ListImagesOptions { filters, ..ListImagesOptions::default() };
        let listed = self.docker.client().list_images(Some(options)).await;
        for image in listed.map_err(|e| failed("can't list images", e))? {
            if image.repo_tags.iter().any(|tag| wanted.contains(tag)) {
                continue;
            }
            self.made
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|_, cell| cell.get().is_none_or(|made| made.id != image.id));
            match self.docker.client().remove_image(&image.id, None::<RemoveImageOptions>, None).await {
                // Gone already; or somebody runs something of their own from it, and the next time is soon enough.
                Ok(_)
                | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. }) => {}
                Err(e) => return Err(failed("can't remove a slug's image", e)),
            }
        }
        Ok(())
    }
}

async fn remove(docker: &Docker, container: &str) -> Result<()> {
    let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
    match docker.client().remove_container(container, Some(options)).await {
        Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        Err(e) => Err(failed("can't remove the container in which a slug's image was made", e)),
    }
}

/// Writes the slug's tree as the folder `app` of this user, and the places of its volumes: Docker gives a new volume the
/// owner of the folder that it covers.
fn rewrite(
    slug: impl Read,
    (user, group): (u64, u64),
    volumes: &[MountPath],
    to: impl Write,
) -> io::Result<()> {
    let mut bounded = zstd::Decoder::new(slug)?.take(LARGEST);
    let mut slug = tar::Archive::new(&mut bounded);
    let mut image = tar::Builder::new(to);
    let own = |header: &mut tar::Header| {
        header.set_uid(user);
        header.set_gid(group);
    };
    let mut folder = tar::Header::new_gnu();
    folder.set_entry_type(tar::EntryType::Directory);
    folder.set_mode(0o755);
    folder.set_size(0);
    own(&mut folder);
    image.append_data(&mut folder.clone(), "app/", io::empty())?;
    for entry in slug.entries()? {
        let mut entry = entry?;
        let path = Path::new("app").join(entry.path()?);
        let mut header = entry.header().clone();
        own(&mut header);
        match entry.link_name()?.map(std::borrow::Cow::into_owned) {
            Some(to) => image.append_link(&mut header, path, to)?,
            None => image.append_data(&mut header, path, &mut entry)?,
        }
    }
    for volume in volumes {
        let path = format!("{}/", volume.as_str().trim_start_matches('/'));
        image.append_data(&mut folder.clone(), path, io::empty())?;
    }
    if bounded.limit() == 0 {
        return Err(io::Error::other(format!("it has more than {} GiB", LARGEST >> 30)));
    }
    image.into_inner()?.flush()
}

/// What is written, in pieces for a request's body.
struct Pieces {
    send: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= 64 << 10 {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        self.send.blocking_send(Ok(piece.into())).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}
