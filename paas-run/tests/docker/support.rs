//! A platform of a test's own on a daemon.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use paas_core::testkit::runtime::RuntimeWorld;
use paas_core::{
    AppId, Artifact, ArtifactKind, Cancel, Clock, Context, Digest, DirBlobs, HealthCheck, IdempotencyKey,
    Instance, InstanceState, LogQuery, LogSource, LogWriter, Logs, ProcessSpec, ReleaseId, Runtime,
    SystemClock, Version, WorkflowId,
};
use paas_docker::bollard::models::{ContainerConfig, ContainerCreateBody};
use paas_docker::bollard::query_parameters::{
    CommitContainerOptions, ListContainersOptions, ListImagesOptions, ListNetworksOptions,
    ListVolumesOptions, RemoveContainerOptions, RemoveImageOptions, RemoveVolumeOptions,
    UploadToContainerOptions, WaitContainerOptions,
};
use paas_docker::testkit::{BaseImage, DaemonOptions, TestDaemon};
use paas_docker::{Docker, Subnets, bollard};
use paas_run::docker::{DockerRuntime, DockerRuntimeConfig};
use paas_run::logs::{FileLogs, LogBounds};
use paas_run::supervisor::Backoff;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::world::{Place, slug};

/// Nothing waits for it when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What artifacts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Image,
    Slug,
}

/// A platform of a test's own; dropping it removes all that it made.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) docker: Docker,
    pub(crate) logs: Arc<FileLogs>,
    pub(crate) blobs: Arc<DirBlobs>,
    pub(crate) kind: Kind,
    stack: &'static str,
    busybox: &'static str,
    dir: Place,
    /// The last to end.
    pub(crate) daemon: TestDaemon,
}

/// What another process needs to be in the same world.
const PLATFORM: &str = "PAAS_TEST_WORLD_PLATFORM";
const FOLDER: &str = "PAAS_TEST_WORLD_FOLDER";

impl World {
    /// On the daemon of the whole run; `None` where there can't be one.
    pub(crate) async fn shared(kind: Kind) -> Option<Self> {
        Some(Self::on(TestDaemon::shared().await?, kind).await)
    }

    /// On a daemon of its own, which may be stopped and killed, for images.
    pub(crate) async fn own(options: DaemonOptions) -> Option<Self> {
        Self::own_of(options, Kind::Image).await
    }

    pub(crate) async fn own_of(options: DaemonOptions, kind: Kind) -> Option<Self> {
        Some(Self::on(TestDaemon::own(options).await?, kind).await)
    }

    async fn on(daemon: TestDaemon, kind: Kind) -> Self {
        // Daemons know each other's subnets not, and the kernel under them is one.
        let [part, ..] = *uuid::Uuid::new_v4().as_bytes();
        let subnets = Subnets::new(&format!("10.222.{part}.0/24"), 28).unwrap();
        let busybox = daemon.image(BaseImage::Busybox).await.unwrap();
        let stack = if kind == Kind::Slug { daemon.image(BaseImage::Stack).await.unwrap() } else { busybox };
        let name = format!("t-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let docker =
            Docker::connect(daemon.config().platform(name.parse().unwrap()).subnets(subnets)).await.unwrap();
        Self::at(Place::Own(TempDir::new().unwrap()), docker, daemon, kind, (stack, busybox))
    }

    /// The world of the process that started this one as an engine to be killed, if one did.
    pub(crate) async fn others() -> Option<Self> {
        let folder = std::env::var_os(FOLDER)?;
        let daemon = TestDaemon::shared().await?;
        let config = daemon.config().platform(std::env::var(PLATFORM).unwrap().parse().unwrap());
        let docker = Docker::connect(config).await.unwrap();
        let images = (BaseImage::Stack.name(), BaseImage::Busybox.name());
        Some(Self::at(Place::Others(folder.into()), docker, daemon, Kind::Image, images))
    }

    /// Tells another process to be in this world.
    pub(crate) fn share(&self, process: &mut std::process::Command) {
        process
            .env(TestDaemon::HOST, self.daemon.host())
            .env(PLATFORM, self.docker.platform().as_str())
            .env(FOLDER, self.dir.path());
    }

    fn at(
        dir: Place,
        docker: Docker,
        daemon: TestDaemon,
        kind: Kind,
        (stack, busybox): (&'static str, &'static str),
    ) -> Self {
        let logs = Arc::new(FileLogs::open(dir.path().join("logs"), LogBounds::default()).unwrap());
        let blobs = Arc::new(DirBlobs::open(dir.path().join("blobs")).unwrap());
        Self { docker, logs, blobs, kind, stack, busybox, dir, daemon }
    }

    pub(crate) fn config(&self) -> DockerRuntimeConfig {
        let (blobs, logs) = (Arc::clone(&self.blobs), Arc::clone(&self.logs));
        let data = self.dir.path().join("containers");
        DockerRuntimeConfig::new(self.docker.clone(), data, blobs, logs, Arc::new(SystemClock::new()))
            .stack(self.stack)
            .backoff(Backoff::new(Duration::from_secs(600), Duration::from_secs(3600)))
    }

    pub(crate) async fn runtime(&self) -> DockerRuntime {
        DockerRuntime::open(self.config()).await.unwrap()
    }

    /// Busybox with these files in `/app`, and what this changes of the image.
    pub(crate) async fn image(
        &self,
        files: &[(&str, &str)],
        change: impl FnOnce(&mut ContainerConfig),
    ) -> Artifact {
        let client = self.docker.client();
        let labels = Some(self.docker.labels([]));
        let body = ContainerCreateBody {
            image: Some(self.busybox.into()),
            cmd: Some(vec!["true".into()]),
            labels: labels.clone(),
            ..ContainerCreateBody::default()
        };
        let container = client.create_container(None, body).await.unwrap().id;
        let mut tar = tar::Builder::new(Vec::new());
        let bash = [
            ("bin/bash".to_owned(), "#!/bin/sh\nexec sh \"$@\"\n"),
            ("app/www/index.html".to_owned(), "hello"),
        ];
        let files = files.iter().map(|(name, text)| (format!("app/{name}"), *text));
        for (name, text) in bash.into_iter().chain(files) {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        let options = UploadToContainerOptions { path: "/".into(), ..Default::default() };
        let body = bollard::body_full(tar.into_inner().unwrap().into());
        client.upload_to_container(&container, Some(options), body).await.unwrap();
        let mut config =
            ContainerConfig { working_dir: Some("/app".into()), labels, ..ContainerConfig::default() };
        change(&mut config);
        let options = CommitContainerOptions { container: Some(container.clone()), ..Default::default() };
        let id = client.commit_container(options, config).await.unwrap().id;
        client.remove_container(&container, Some(forced())).await.unwrap();
        self.image_again(&id)
    }

    /// The artifact of an image that is there.
    #[allow(clippy::unused_self, reason = "it is there on this daemon only")]
    pub(crate) fn image_again(&self, id: &str) -> Artifact {
        let (digest, now): (Digest, _) = (id.parse().unwrap(), SystemClock::new().now());
        let mut artifact = Artifact::new(ArtifactKind::Image, digest, 0, "test".parse().unwrap(), now);
        artifact.reference = Some(id.to_owned());
        artifact
    }

    /// Fills the disk that this file is on.
    #[allow(clippy::unused_self, reason = "only a daemon's own disk is to be filled")]
    pub(crate) fn fill(&self, path: &std::path::Path) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(path).unwrap();
        for piece in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; piece]).is_ok() {}
        }
    }

    pub(crate) fn scratch(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Runs this in a container, to its end.
    pub(crate) async fn exec(&self, container: &str, options: bollard::exec::CreateExecOptions<String>) {
        let client = self.docker.client();
        let exec = client.create_exec(container, options).await.unwrap().id;
        let started = client.start_exec(&exec, None::<bollard::exec::StartExecOptions>).await.unwrap();
        if let bollard::exec::StartExecResults::Attached { mut output, .. } = started {
            while output.next().await.is_some() {}
        }
    }

    /// Waits until this container has ended.
    pub(crate) async fn until_ended(&self, id: &str) {
        let waiting = self.docker.client().wait_container(id, None::<WaitContainerOptions>);
        // A status other than 0 is an error of the client's.
        let _ = timeout(PATIENCE, waiting.collect::<Vec<_>>()).await.expect("it ends");
    }

    /// The ids of this platform's containers, running or not.
    pub(crate) async fn containers(&self) -> Vec<String> {
        containers(&self.docker).await
    }

    /// Those of its containers that are instances, with what they do.
    pub(crate) async fn instances(&self) -> Vec<String> {
        let filters = Some(self.docker.ours(&[(paas_docker::label::KIND, "instance")]));
        let options = ListContainersOptions { all: true, filters, ..Default::default() };
        let listed = self.docker.client().list_containers(Some(options)).await.unwrap();
        listed.into_iter().map(|one| format!("{:?} {:?} {:?}", one.names, one.state, one.created)).collect()
    }

    pub(crate) async fn lines(&self, app: &str) -> Vec<String> {
        let read = self.logs.read(&app.parse().unwrap(), LogQuery::all()).await.unwrap();
        read.map(|line| line.text).collect().await
    }

    pub(crate) async fn line(&self, app: &str, wanted: &str) -> String {
        let found = async {
            loop {
                let mut said =
                    self.lines(app).await.into_iter().filter(|line| !line.starts_with("Starting process"));
                if let Some(found) = said.find(|line| line.contains(wanted)) {
                    return found;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        match timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => panic!("no line says {wanted:?}: {:#?}", self.lines(app).await),
        }
    }

    pub(crate) fn ctx(&self) -> Context {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let logs: Arc<dyn Logs> = Arc::clone(&self.logs) as _;
        let log =
            LogWriter::new(logs, Arc::clone(&clock), "test".parse().unwrap(), LogSource::Platform, "test");
        Context::new(
            IdempotencyKey::new(WorkflowId::new(), "start".parse().unwrap()),
            Cancel::new(),
            clock,
            log,
        )
    }
}

/// An empty slug.
pub(crate) async fn slug_of(world: &World) -> Artifact {
    slug(&*world.blobs, world.scratch(), &[]).await
}

/// What waits until it is told to end.
pub(crate) const IDLE: &str = "while :; do sleep 0.1; done";

/// Answers `hello` on `$PORT`, with what busybox has.
pub(crate) const LISTEN: &str = "exec httpd -f -p $PORT -h /app/www";

pub(crate) fn spec(app: &str, process: &str, command: &str, artifact: &Artifact) -> ProcessSpec {
    let mut health = HealthCheck::default();
    health.settle = Duration::from_millis(20);
    ProcessSpec::new(
        (app.parse().unwrap(), AppId::new()),
        (ReleaseId::new(), Version::FIRST),
        process.parse().unwrap(),
        command,
        artifact.clone(),
    )
    .with_health(health)
    .with_grace(Duration::from_secs(20))
}

pub(crate) async fn until(
    runtime: &dyn Runtime,
    app: &str,
    so: impl Fn(&[Instance]) -> bool,
) -> Vec<Instance> {
    let app = app.parse().unwrap();
    let reached = async {
        loop {
            let seen = runtime.observe(&app).await.unwrap();
            if so(&seen) {
                return seen;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    match timeout(PATIENCE, reached).await {
        Ok(seen) => seen,
        Err(_) => panic!("not so: {:#?}", runtime.observe(&app).await.unwrap()),
    }
}

pub(crate) async fn up(runtime: &dyn Runtime, app: &str, count: usize) -> Vec<Instance> {
    let up = |all: &[Instance]| all.len() == count && all.iter().all(|one| one.state == InstanceState::Up);
    until(runtime, app, up).await
}

pub(crate) fn forced() -> RemoveContainerOptions {
    RemoveContainerOptions { force: true, v: true, ..Default::default() }
}

async fn containers(docker: &Docker) -> Vec<String> {
    let options = ListContainersOptions { all: true, filters: Some(docker.ours(&[])), ..Default::default() };
    let listed = docker.client().list_containers(Some(options)).await.unwrap();
    listed.into_iter().filter_map(|one| one.id).collect()
}

impl Drop for World {
    /// A test that panics leaves its containers running, as an engine does.
    fn drop(&mut self) {
        if matches!(self.dir, Place::Others(_)) {
            return;
        }
        let docker = self.docker.clone();
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                if docker.client().ping().await.is_ok() {
                    remove_all(&docker).await;
                }
            });
        });
        assert!(removed.join().is_ok() || std::thread::panicking(), "what the test made can't be removed");
    }
}

async fn remove_all(docker: &Docker) {
    let client = docker.client();
    for id in containers(docker).await {
        // It may be on its way out already.
        let _ = client.remove_container(&id, Some(forced())).await;
    }
    let filters = Some(docker.ours(&[]));
    for network in client.list_networks(Some(ListNetworksOptions { filters: filters.clone() })).await.unwrap()
    {
        client.remove_network(&network.id.unwrap()).await.unwrap();
    }
    let volumes = ListVolumesOptions { filters: filters.clone() };
    for volume in client.list_volumes(Some(volumes)).await.unwrap().volumes.unwrap_or_default() {
        client.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await.unwrap();
    }
    let images = ListImagesOptions { filters, ..Default::default() };
    for image in client.list_images(Some(images)).await.unwrap() {
        let forced = RemoveImageOptions { force: true, ..Default::default() };
        client.remove_image(&image.id, Some(forced), None).await.unwrap();
    }
}

#[async_trait]
impl RuntimeWorld for World {
    async fn open(&self) -> Arc<dyn Runtime> {
        Arc::new(self.runtime().await)
    }

    async fn artifact(&self, files: &[(&str, &str)]) -> Artifact {
        match self.kind {
            Kind::Image => self.image(files, |_| {}).await,
            Kind::Slug => slug(&*self.blobs, self.dir.path(), files).await,
        }
    }

    fn listen(&self) -> String {
        match self.kind {
            Kind::Image => LISTEN.into(),
            Kind::Slug => {
                // Its own program: `-m http.server` asks DNS for its name before it listens.
                "mkdir www; echo -n hello > www/index.html; cd www; exec python3 -c 'import http.server, os, socketserver\n\
                 at = \"\", int(os.environ[\"PORT\"])\n\
                 socketserver.ThreadingTCPServer(at, http.server.SimpleHTTPRequestHandler).serve_forever()'"
                    .into()
            }
        }
    }

    fn logs(&self) -> Arc<dyn Logs> {
        Arc::clone(&self.logs) as _
    }
}
