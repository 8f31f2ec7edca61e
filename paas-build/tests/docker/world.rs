//! A builder on a real daemon, and apps with Dockerfiles.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::TryStreamExt;
use paas_build::{DockerfileBuilder, DockerfileConfig};
use paas_core::{
    AppId, AppName, Artifact, BuildRequest, Builder, Checkout, ConfigVars, Context, Digest, MemoryLogs,
    Result, Revision, testkit,
};
use paas_docker::Docker;
use paas_docker::testkit::{BaseImage, TestDaemon};
use tempfile::TempDir;

pub(crate) struct World {
    daemon: Arc<TestDaemon>,
    pub(crate) docker: Docker,
    pub(crate) builder: Arc<DockerfileBuilder>,
    pub(crate) logs: Arc<MemoryLogs>,
    dir: TempDir,
}

impl World {
    /// `None` where there is no daemon.
    pub(crate) async fn new() -> Option<Self> {
        Self::with(|config| config).await
    }

    pub(crate) async fn with(change: impl FnOnce(DockerfileConfig) -> DockerfileConfig) -> Option<Self> {
        let daemon = Arc::new(TestDaemon::shared().await?);
        daemon.image(BaseImage::Busybox).await.unwrap();
        Some(Self::on(daemon, change).await)
    }

    /// Another platform on the same daemon.
    pub(crate) async fn another(&self, change: impl FnOnce(DockerfileConfig) -> DockerfileConfig) -> Self {
        Self::on(self.daemon.clone(), change).await
    }

    async fn on(daemon: Arc<TestDaemon>, change: impl FnOnce(DockerfileConfig) -> DockerfileConfig) -> Self {
        // Tests share the daemon, and each is a platform of its own.
        let name = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let docker = Docker::connect(daemon.config().platform(name.parse().unwrap())).await.unwrap();
        let builder = DockerfileBuilder::open(change(DockerfileConfig::new(docker.clone()))).await.unwrap();
        let (builder, logs) = (Arc::new(builder), Arc::new(MemoryLogs::new()));
        Self { daemon, docker, builder, logs, dir: tempfile::tempdir().unwrap() }
    }

    /// An app with these files.
    pub(crate) fn app(&self, files: &[(&str, &str)]) -> App<'_> {
        let tree = self.dir.path().join(uuid::Uuid::new_v4().to_string());
        fs::create_dir(&tree).unwrap();
        let app = App { world: self, id: AppId::new(), tree, config: ConfigVars::new() };
        for (path, text) in files {
            app.write(path, text);
        }
        app
    }

    pub(crate) fn name() -> AppName {
        "sample".parse().unwrap()
    }

    pub(crate) fn context(&self) -> Context {
        testkit::context(&self.logs, &Self::name(), "build")
    }

    pub(crate) async fn log(&self) -> String {
        testkit::texts(&*self.logs, &Self::name()).await.join("\n")
    }

    /// All that is in an image: its facts, its history and the files of every layer, as the daemon exports them.
    pub(crate) async fn all_of(&self, artifact: &Artifact) -> Vec<u8> {
        let id = artifact.reference.as_deref().unwrap();
        let client = self.docker.client();
        let parts: Vec<_> = client.export_image(id).try_collect().await.unwrap();
        let mut all = parts.concat();
        let (facts, history) = (client.inspect_image(id).await, client.image_history(id).await);
        all.extend_from_slice(format!("{:?} {:?}", facts.unwrap(), history.unwrap()).as_bytes());
        all
    }

    /// The text of a file in an image.
    pub(crate) async fn file(&self, artifact: &Artifact, path: &str) -> Option<String> {
        let all = self.all_of(artifact).await;
        let mut found = None;
        let mut export = tar::Archive::new(all.as_slice());
        for layer in export.entries().unwrap().flatten() {
            if layer.path().unwrap().extension().is_none_or(|end| end != "tar") {
                continue;
            }
            for mut entry in tar::Archive::new(layer).entries().unwrap().flatten() {
                if entry.path().unwrap().to_str() == Some(path) {
                    let mut text = String::new();
                    std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
                    found = Some(text);
                }
            }
        }
        found
    }
}

pub(crate) struct App<'a> {
    world: &'a World,
    pub(crate) id: AppId,
    tree: PathBuf,
    config: ConfigVars,
}

impl App<'_> {
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.tree.join(path)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn config(mut self, key: &str, value: &str) -> Self {
        self.config = self.config.with(key, value).unwrap();
        self
    }

    pub(crate) fn request(&self) -> BuildRequest {
        let mut revision = Revision::default();
        revision.id = Some("c0ffee0000000000000000000000000000000000".to_owned());
        let digest = Digest::of(self.tree.display().to_string());
        BuildRequest::new(World::name(), self.id, Checkout::new(&self.tree, digest, revision))
            .with_config(self.config.clone())
    }

    pub(crate) async fn build(&self) -> Result<Artifact> {
        self.world.builder.build(&self.world.context(), &self.request()).await
    }
}
