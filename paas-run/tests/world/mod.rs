//! A runtime of local processes in a folder of its own.

#![allow(clippy::unwrap_used, dead_code, reason = "a test ends by panicking; not each test needs all of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use paas_core::testkit::runtime::RuntimeWorld;
use paas_core::{Artifact, ArtifactKind, Blobs, DirBlobs, Logs, Runtime, SystemClock, archive};
use paas_run::logs::{FileLogs, LogBounds};
use paas_run::process::{ProcessConfig, ProcessRuntime};
use paas_run::supervisor::Backoff;
use paas_sandbox::Helper;
use paas_sandbox::procfs::ProcessId;
use tempfile::TempDir;

/// Listens on `$PORT` with what every Debian has.
pub(crate) const LISTEN: &str = r#"exec perl -MIO::Socket::INET -e '$| = 1;
    my $s = IO::Socket::INET->new(LocalPort => $ENV{PORT}, Listen => 64, ReuseAddr => 1) or die "no port: $!";
    print "listening\n";
    while (my $c = $s->accept) {
        while (<$c>) { last if /^\r?\n$/ }
        print $c "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"; close $c }'"#;

/// Where a world is.
#[derive(Debug)]
pub(crate) enum Place {
    Own(TempDir),
    Others(PathBuf),
}

impl Place {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Own(dir) => dir.path(),
            Self::Others(path) => path,
        }
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) dir: Place,
    pub(crate) logs: Arc<FileLogs>,
    pub(crate) blobs: Arc<DirBlobs>,
    pub(crate) helper: Helper,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::in_place(Place::Own(TempDir::new().unwrap()))
    }

    /// The world of another process.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self::in_place(Place::Others(path))
    }

    fn in_place(dir: Place) -> Self {
        let logs = Arc::new(FileLogs::open(dir.path().join("logs"), LogBounds::default()).unwrap());
        let blobs = Arc::new(DirBlobs::open(dir.path().join("blobs")).unwrap());
        let helper = Helper::at(env!("CARGO_BIN_EXE_paas-run-helper"));
        Self { dir, logs, blobs, helper }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("processes")
    }

    pub(crate) fn config(&self) -> ProcessConfig {
        let (blobs, logs) = (Arc::clone(&self.blobs), Arc::clone(&self.logs));
        ProcessConfig::new(self.data(), blobs, logs, Arc::new(SystemClock::new()), self.helper.clone())
            .backoff(Backoff::new(Duration::from_secs(600), Duration::from_secs(3600)))
    }

    pub(crate) async fn runtime(&self) -> ProcessRuntime {
        ProcessRuntime::open(self.config()).await.unwrap()
    }
}

impl Drop for World {
    /// A test that panics leaves its instances running, as an engine does.
    fn drop(&mut self) {
        if matches!(self.dir, Place::Others(_)) {
            return;
        }
        for entry in std::fs::read_dir(self.data().join("launches")).into_iter().flatten().flatten() {
            let Ok(text) = std::fs::read(entry.path().join("shim.json")) else { continue };
            let running: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let shim: ProcessId = serde_json::from_value(running["shim"].clone()).unwrap();
            if shim.alive() {
                // It kills its program and ends.
                let _ = kill(Pid::from_raw(shim.pid.cast_signed()), Signal::SIGQUIT);
            }
        }
    }
}

/// Packs these files as a slug.
pub(crate) async fn slug(blobs: &dyn Blobs, scratch: &Path, files: &[(&str, &str)]) -> Artifact {
    let folder = TempDir::new_in(scratch).unwrap();
    for (name, text) in files {
        let path = folder.path().join("tree").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    std::fs::create_dir_all(folder.path().join("tree")).unwrap();
    let packed = folder.path().join("slug");
    let made = archive::pack(&folder.path().join("tree"), &packed, &|_, _| true).unwrap();
    blobs.put(made.digest, &packed).await.unwrap();
    let now = paas_core::Clock::now(&SystemClock::new());
    Artifact::new(ArtifactKind::Slug, made.digest, made.size, "test".parse().unwrap(), now)
}

#[async_trait]
impl RuntimeWorld for World {
    async fn open(&self) -> Arc<dyn Runtime> {
        Arc::new(self.runtime().await)
    }

    async fn artifact(&self, files: &[(&str, &str)]) -> Artifact {
        slug(&*self.blobs, self.dir.path(), files).await
    }

    fn listen(&self) -> String {
        LISTEN.into()
    }

    fn logs(&self) -> Arc<dyn Logs> {
        Arc::clone(&self.logs) as _
    }
}
