//! The daemon's process.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use bollard::{ClientVersion, Docker};
use nix::mount::{MsFlags, mount};
use paas_core::{Error, ErrorCode, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::images::{self, BaseImage};
use super::leftovers;
use super::network::Network;
use crate::DockerConfig;

/// How long a daemon may take to start or to end. A second is usual.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a daemon of a test's own is like.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct DaemonOptions {
    network: bool,
    disk: Option<u64>,
}

impl DaemonOptions {
    /// Without a network for containers, on the disk of temporary files. Any number of these live side by side.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a default bridge and packet filter rules, as on a server. The machine has one such daemon at a time: the
    /// next one waits.
    #[must_use]
    pub fn with_network(mut self) -> Self {
        self.network = true;
        self
    }

    /// With a disk of this many bytes for its data, in memory.
    #[must_use]
    pub fn with_disk(mut self, bytes: u64) -> Self {
        self.disk = Some(bytes);
        self
    }
}

/// A Docker daemon for tests.
#[derive(Debug)]
pub struct TestDaemon {
    host: String,
    own: Option<Own>,
}

/// What belongs to a daemon that lives as long as the [`TestDaemon`].
#[derive(Debug)]
struct Own {
    folder: PathBuf,
    group: String,
    process: Child,
    network: Option<Network>,
}

impl TestDaemon {
    /// The environment variable that names the daemon of the whole run, such as `unix:///tmp/x/docker.sock`.
    pub const HOST: &str = "PAAS_TEST_DOCKER";

    /// The daemon of the whole run, or one of its own with a network. Tests share it, so each uses names of its own.
    /// `None`, said aloud, where there can't be one.
    ///
    /// # Panics
    /// Where there can't be one although the environment has `CI`: there nothing is skipped.
    pub async fn shared() -> Option<Self> {
        match std::env::var(Self::HOST) {
            Ok(host) => Some(Self { host, own: None }),
            Err(_) => Self::own(DaemonOptions::new().with_network()).await,
        }
    }

    /// One that lives as long as this; `None`, said aloud, where there can't be one.
    ///
    /// # Panics
    /// As [`TestDaemon::shared`].
    pub async fn own(options: DaemonOptions) -> Option<Self> {
        match Self::start(options).await {
            Ok(daemon) => Some(daemon),
            Err(e) => {
                assert!(std::env::var_os("CI").is_none(), "{e}");
                eprintln!("SKIPPED, it needs a Docker daemon: {e}");
                None
            }
        }
    }

    /// Starts one that lives as long as this.
    ///
    /// # Errors
    /// `unavailable` where it isn't installed, may not run or doesn't start.
    pub async fn start(options: DaemonOptions) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(unavailable("a Docker daemon for tests needs root"));
        }
        // Not the whole of it: a socket's path must be short.
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("paas-docker-{}", &unique[..12]);
        let network = if options.network { Some(Network::make().await?) } else { None };
        let folder = std::env::temp_dir().join(&name);
        let failed = |e| Error::from_io("can't make a Docker daemon's folder", e);
        fs::DirBuilder::new().mode(0o711).create(&folder).map_err(failed)?;
        if let Some(bytes) = options.disk {
            let size = format!("size={bytes}");
            let data = folder.join("data");
            fs::create_dir(&data).map_err(failed)?;
            mount(Some("tmpfs"), &data, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))
                .map_err(|e| failed(e.into()))?;
        }
        // Without it, the daemon would read the machine's.
        fs::write(folder.join("daemon.json"), "{}").map_err(failed)?;
        let process = spawn(&folder, &name, network.as_ref())?;
        let mut daemon =
            Self { host: host(&folder), own: Some(Own { folder, group: name, process, network }) };
        daemon.answers().await?;
        Ok(daemon)
    }

    /// Where it listens, as `DOCKER_HOST` says it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The way to it, for a platform with the usual name.
    pub fn config(&self) -> DockerConfig {
        DockerConfig::new().host(&self.host)
    }

    /// A connection that belongs to no platform.
    ///
    /// # Panics
    /// When the host is no socket.
    pub fn client(&self) -> Docker {
        connect(&self.host).expect("a socket")
    }

    /// Makes sure that it has this image, and says the image's name.
    ///
    /// # Errors
    /// When it can't be made of what is installed, or not be imported.
    pub async fn image(&self, image: BaseImage) -> Result<&'static str> {
        images::import(&self.client(), image).await?;
        Ok(image.name())
    }

    /// The folder of its data.
    ///
    /// # Panics
    /// When it is the shared one, which is no test's to change.
    pub fn data(&self) -> PathBuf {
        self.own.as_ref().expect("a daemon of one's own").folder.join("data")
    }

    /// Kills it. Its containers go on running.
    ///
    /// # Panics
    /// When it is the shared one.
    pub fn kill(&mut self) {
        let own = self.own.as_mut().expect("a daemon of one's own");
        // It may have ended by itself.
        let _ = own.process.kill();
        let _ = own.process.wait();
        // Its containerd dies with it. Where nobody buries the dead at once, the next daemon would wait for it to answer.
        let file = own.folder.join("exec/containerd/containerd.pid");
        let pid = fs::read_to_string(&file).unwrap_or_default();
        if !leftovers::until(PATIENCE, || leftovers::is_dead(&pid)) || fs::remove_file(&file).is_err() {
            eprintln!("the killed daemon's containerd is still there");
        }
    }

    /// Asks it to end and waits until it has. It stops its containers.
    ///
    /// # Panics
    /// When it is the shared one.
    pub fn stop(&mut self) {
        end(&mut self.own.as_mut().expect("a daemon of one's own").process);
    }

    /// Starts it again on the same data and socket after it was killed or stopped.
    ///
    /// # Errors
    /// `unavailable` when it doesn't start.
    ///
    /// # Panics
    /// When it is the shared one.
    pub async fn start_again(&mut self) -> Result<()> {
        let own = self.own.as_mut().expect("a daemon of one's own");
        own.process = spawn(&own.folder, &own.group, own.network.as_ref())?;
        self.answers().await
    }

    /// Waits until it answers.
    async fn answers(&mut self) -> Result<()> {
        let Some(own) = &mut self.own else { return Ok(()) };
        let waiting = async {
            while !answers(&self.host).await {
                if own.process.try_wait().is_ok_and(|ended| ended.is_some()) {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            true
        };
        if tokio::time::timeout(PATIENCE, waiting).await == Ok(true) {
            return Ok(());
        }
        let log = fs::read_to_string(own.folder.join("log")).unwrap_or_default();
        let last = log.lines().next_back().unwrap_or("its log is empty").to_owned();
        Err(unavailable(&format!("the Docker daemon for tests doesn't start: {last}")))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // A killed daemon comes up once more to remove what it made in the kernel.
        if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
            leftovers::kill(&self.folder, &self.group);
            match spawn(&self.folder, &self.group, self.network.as_ref()) {
                Ok(process) => self.process = process,
                Err(e) => eprintln!("{e}"),
            }
        }
        let host = host(&self.folder);
        // A thread, since a test's runtime may be the one that drops us.
        let tidied = std::thread::spawn(move || tidy(&host)).join();
        if !matches!(tidied, Ok(Some(()))) {
            eprintln!("the Docker daemon in {} could not remove its containers", self.folder.display());
        }
        end(&mut self.process);
        leftovers::clear(&self.folder, &self.group);
    }
}

/// Removes all containers and networks.
fn tidy(host: &str) -> Option<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let tidying = async {
        while !answers(host).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let client = connect(host).ok()?;
        let all = ListContainersOptionsBuilder::new().all(true).build();
        let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        for container in client.list_containers(Some(all)).await.ok()? {
            // What can't be removed is ended with the daemon.
            let _ = client.remove_container(container.id.as_deref()?, Some(force.clone())).await;
        }
        let every = None::<bollard::query_parameters::ListNetworksOptions>;
        for network in client.list_networks(every).await.ok()? {
            let name = network.name.unwrap_or_default();
            if !["none", "host", "bridge"].contains(&name.as_str()) {
                // As above.
                let _ = client.remove_network(&name).await;
            }
        }
        Some(())
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, tidying).await.ok()? })
}

/// The daemon's socket, as `DOCKER_HOST` says it.
fn host(folder: &Path) -> String {
    format!("unix://{}/docker.sock", folder.display())
}

fn connect(host: &str) -> std::result::Result<Docker, bollard::errors::Error> {
    // The oldest daemon that is in use speaks this version, and newer ones do too.
    let version = ClientVersion { major_version: 1, minor_version: 41 };
    Docker::connect_with_unix(host.trim_start_matches("unix://"), 120, &version)
}

async fn answers(host: &str) -> bool {
    let Ok(client) = connect(host) else { return false };
    client.ping().await.is_ok()
}

fn spawn(folder: &Path, group: &str, network: Option<&Network>) -> Result<Child> {
    let place = |name: &str| folder.join(name).into_os_string();
    let mut socket = OsString::from("unix://");
    socket.push(place("docker.sock"));
    let mut command = Command::new("dockerd");
    command
        .args(["--log-level", "warn", "--shutdown-timeout", "1", "--group", "0"])
        .args(["--cgroup-parent", &format!("/{group}")])
        .args(["--config-file".into(), place("daemon.json"), "--data-root".into(), place("data")])
        .args([
            "--exec-root".into(),
            place("exec"),
            "--pidfile".into(),
            place("pid"),
            "--host".into(),
            socket,
        ]);
    match network {
        Some(network) => network.show(&mut command),
        None => {
            command.args(["--bridge", "none", "--iptables=false", "--ip6tables=false"]);
        }
    }
    let log = File::create(folder.join("log"))
        .and_then(|log| Ok((log.try_clone()?, log)))
        .map_err(|e| Error::from_io("can't make a Docker daemon's log", e))?;
    command.stdin(Stdio::null()).stdout(log.0).stderr(log.1).spawn().map_err(|e| {
        unavailable("dockerd can't be started: `cargo xtask test` installs it (Debian's docker.io)")
            .with_source(e)
    })
}

/// Asks a process to end, and kills it when it takes too long.
fn end(process: &mut Child) {
    if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
    if !leftovers::until(PATIENCE, || process.try_wait().is_ok_and(|ended| ended.is_some())) {
        let _ = process.kill();
        let _ = process.wait();
    }
}

pub(super) fn unavailable(message: &str) -> Error {
    Error::new(ErrorCode::Unavailable, message)
}
