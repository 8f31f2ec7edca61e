//! A builder with everything it needs in a folder of its own, packs written by the test, and apps.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use paas_build::{BuildpackBuilder, BuildpackConfig};
use paas_core::{
    AppId, Artifact, Blobs, BuildRequest, Builder, Checkout, ConfigVars, Context, DirBlobs, MemoryLogs,
    Result, Revision, archive, testkit,
};
use paas_sandbox::Helper;
use tempfile::TempDir;

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) builder: Arc<BuildpackBuilder>,
    pub(crate) blobs: Arc<DirBlobs>,
    pub(crate) logs: Arc<MemoryLogs>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|config| config).await
    }

    pub(crate) async fn with(change: impl FnOnce(BuildpackConfig) -> BuildpackConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Arc::new(DirBlobs::open(dir.path().join("blobs")).unwrap());
        let config = change(Self::config(dir.path(), blobs.clone()));
        let builder = Arc::new(BuildpackBuilder::open(config).await.unwrap());
        Self { dir, builder, blobs, logs: Arc::new(MemoryLogs::new()) }
    }

    fn config(dir: &Path, blobs: Arc<dyn Blobs>) -> BuildpackConfig {
        let helper = Helper::at(env!("CARGO_BIN_EXE_paas-build-helper"));
        let config = BuildpackConfig::new(dir.join("data"), blobs, helper);
        config.with_pack_folder(dir.join("packs")).allow_any_url()
    }

    /// Another builder on the same data, as at the next start.
    pub(crate) async fn again(&self) -> BuildpackBuilder {
        self.again_with(|config| config).await
    }

    pub(crate) async fn again_with(
        &self,
        change: impl FnOnce(BuildpackConfig) -> BuildpackConfig,
    ) -> BuildpackBuilder {
        let config = change(Self::config(self.dir.path(), self.blobs.clone()));
        BuildpackBuilder::open(config).await.unwrap()
    }

    /// A buildpack of bash scripts, and how an app names it.
    pub(crate) fn pack(&self, name: &str, scripts: &[(&str, &str)]) -> String {
        let home = self.dir.path().join("packs").join(name);
        for (script, text) in scripts {
            let path = home.join(script);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("#!/usr/bin/env bash\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        home.display().to_string()
    }

    /// A pack that recognises everything and compiles so.
    pub(crate) fn compiling(&self, name: &str, compile: &str) -> String {
        self.pack(name, &[("bin/detect", &format!("echo {name}")), ("bin/compile", compile)])
    }

    /// An app of these files, named so.
    pub(crate) fn app(&self, files: &[(&str, &str)]) -> App<'_> {
        let tree = self.dir.path().join("trees").join(uuid::Uuid::new_v4().to_string());
        fs::create_dir_all(&tree).unwrap();
        let app = App { world: self, id: AppId::new(), tree, packs: Vec::new(), config: ConfigVars::new() };
        for (path, text) in files {
            app.write(path, text);
        }
        app
    }

    pub(crate) fn context(&self) -> Context {
        testkit::context(&self.logs, &"sample".parse().unwrap(), "build")
    }

    pub(crate) async fn log(&self) -> String {
        testkit::texts(&*self.logs, &"sample".parse().unwrap()).await.join("\n")
    }

    /// The files of a slug.
    pub(crate) fn unpacked(&self, artifact: &Artifact) -> TempDir {
        let into = tempfile::tempdir().unwrap();
        let slug = fs::File::open(self.blobs.local_path(artifact.digest).unwrap()).unwrap();
        archive::unpack(slug, into.path(), archive::Limits::default().with_links_out()).unwrap();
        into
    }
}

pub(crate) struct App<'a> {
    world: &'a World,
    pub(crate) id: AppId,
    pub(crate) tree: PathBuf,
    packs: Vec<String>,
    config: ConfigVars,
}

impl App<'_> {
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }

    pub(crate) fn packs(mut self, packs: &[&String]) -> Self {
        self.packs = packs.iter().map(|pack| (*pack).clone()).collect();
        self
    }

    pub(crate) fn config(mut self, key: &str, value: &str) -> Self {
        self.config = self.config.with(key, value).unwrap();
        self
    }

    pub(crate) fn request(&self) -> BuildRequest {
        let checkout = self.world.dir.path().join("checkouts").join(uuid::Uuid::new_v4().to_string());
        fs::create_dir_all(checkout.parent().unwrap()).unwrap();
        let packed = self.world.dir.path().join(uuid::Uuid::new_v4().to_string());
        let digest = archive::pack(&self.tree, &packed, &|_, _| true).unwrap().digest;
        fs::create_dir(&checkout).unwrap();
        archive::unpack(fs::File::open(&packed).unwrap(), &checkout, archive::Limits::default()).unwrap();
        let mut revision = Revision::default();
        revision.id = Some("c0ffee0000000000000000000000000000000000".to_owned());
        BuildRequest::new("sample".parse().unwrap(), self.id, Checkout::new(checkout, digest, revision))
            .with_config(self.config.clone())
            .with_buildpacks(self.packs.clone())
    }

    /// Builds a fresh checkout.
    pub(crate) async fn build(&self) -> Result<Artifact> {
        self.world.builder.build(&self.world.context(), &self.request()).await
    }
}

/// A file's text; empty when it isn't there.
pub(crate) fn text(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_default()
}
