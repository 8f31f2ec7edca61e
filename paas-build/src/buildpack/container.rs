//! The build's shell in a container of the stack's image.
//!
//! It sees the same folders in the same places as in the sandbox, runs as the same user, and may do less: no capability, no
//! new privileges, the network of its own app. Config vars come on its standard input, so that neither the container nor
//! an image ever holds one. Its end, whichever that is, is the end of all that it started.

use std::collections::{HashMap, VecDeque};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use bollard::errors::Error as Refusal;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, ResourcesUlimits,
};
use bollard::query_parameters::{
    InspectContainerOptions, ListContainersOptions, RemoveContainerOptions, StartContainerOptions,
    WaitContainerOptions,
};
use futures_util::StreamExt;
use paas_core::{BuildRequest, Context, Error, ErrorCode, LogWriter, Result};
use paas_docker::{Docker, bollard, failed, label, nothing, unframed};
use paas_sandbox::Profile;
use tokio::io::AsyncWriteExt;

use super::run::{self, Ended};
use super::work::seen;

/// How [`label::KIND`] calls them.
const KIND: &str = "build";

const DOING: &str = "can't run a build in a container";

/// Where builds run.
#[derive(Debug, Clone)]
pub(super) struct Containers {
    docker: Docker,
    /// The image's id: nobody moves that.
    image: String,
}

/// What runs.
#[derive(Debug)]
pub(super) struct Shell {
    /// Of bash.
    pub(super) arguments: Vec<String>,
    /// It holds no secret.
    pub(super) environment: Vec<(String, String)>,
    pub(super) profile: Profile,
}

impl Containers {
    /// Containers of this image; ends the builds of a killed engine whose folders were in `work`.
    pub(super) async fn open(docker: &Docker, image: &str, work: &Path) -> Result<Self> {
        let found = docker.client().inspect_image(image).await;
        let found = found.map_err(|e| failed(format!("can't build on the stack's image {image}"), e))?;
        let this = Self { docker: docker.clone(), image: found.id.unwrap_or_default() };
        this.end_orphans(work).await?;
        Ok(this)
    }

    pub(super) fn image(&self) -> &str {
        &self.image
    }

    /// Those of another engine that lives stay: it holds the locks of their folders.
    async fn end_orphans(&self, work: &Path) -> Result<()> {
        let filters = Some(self.docker.ours(&[(label::KIND, KIND)]));
        let options = ListContainersOptions { all: true, filters, ..ListContainersOptions::default() };
        let left = self.docker.client().list_containers(Some(options)).await;
        for left in left.map_err(|e| failed(DOING, e))? {
            let folder = left.labels.as_ref().and_then(|labels| labels.get(label::BUILD));
            let name = folder.and_then(|folder| Path::new(folder).file_name());
            let lock = name.and_then(|name| std::fs::File::open(work.join(name).join("lock")).ok());
            if lock.is_none_or(|lock| lock.try_lock().is_ok()) {
                self.remove(&left.id.unwrap_or_default()).await?;
            }
        }
        Ok(())
    }

    /// Runs the shell to its end. When it is cancelled or takes too long, it and everything it started is gone before
    /// this returns.
    pub(super) async fn run(
        &self,
        ctx: &Context,
        log: &LogWriter,
        shell: Shell,
        request: &BuildRequest,
        timeout: Duration,
    ) -> Result<Ended> {
        let network = self.docker.network(&request.app).await?;
        let made = self.docker.client().create_container(None, self.body(&shell, request, network)).await;
        let container = made.map_err(|e| failed(DOING, e))?.id;
        let mut tail = VecDeque::new();
        let ended = {
            let running = self.sit_through(&container, log, request, &mut tail);
            ctx.cancel.guard(tokio::time::timeout(timeout, running)).await
        };
        // With all that runs in it.
        let removed = self.remove(&container).await;
        let tail = Vec::from(tail);
        let ended = match ended {
            Ok(Ok(ended)) => ended?,
            Ok(Err(_)) => return removed.and(Err(run::late(timeout, tail))),
            Err(cancelled) => return removed.and(Err(cancelled)),
        };
        removed?;
        let (status, out_of_memory) = ended;
        Ok(Ended { status, tail, out_of_memory })
    }

    /// From its start to its end: how it ended, and whether for want of memory.
    async fn sit_through(
        &self,
        container: &str,
        log: &LogWriter,
        request: &BuildRequest,
        tail: &mut VecDeque<String>,
    ) -> Result<(ExitStatus, bool)> {
        let client = self.docker.client();
        // Before it starts, so that nothing it prints is missed.
        let path = format!("/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let headers = [("connection", "Upgrade"), ("upgrade", "tcp")];
        let (io, _connection) =
            self.docker.ask(DOING, &path, &headers, nothing()).await?.upgraded(DOING).await?;
        let started = client.start_container(container, None::<StartContainerOptions>).await;
        started.map_err(|e| failed(DOING, e))?;
        let (output, mut input) = tokio::io::split(io);
        let vars = run::vars(&request.config);
        let writing = async {
            // A shell that ended before it read them says why by its end.
            if input.write_all(&vars).await.is_ok() {
                let _ = input.shutdown().await;
            }
        };
        let ((), read) = tokio::join!(writing, run::copy(unframed(output), log, tail));
        read.map_err(|e| paas_docker::away(DOING, e))?;
        let client = self.docker.patient(Duration::from_secs(60));
        let mut waiting = client.wait_container(container, None::<WaitContainerOptions>);
        if let Some(Err(e)) = waiting.next().await
            && !matches!(e, Refusal::DockerContainerWaitError { .. })
        {
            return Err(failed(DOING, e));
        }
        let found = client.inspect_container(container, None::<InspectContainerOptions>).await;
        let state = found.map_err(|e| failed(DOING, e))?.state.unwrap_or_default();
        let Some(code) = state.exit_code.and_then(|code| i32::try_from(code).ok()) else {
            return Err(Error::new(ErrorCode::Unavailable, "Docker doesn't say how a build ended"));
        };
        // As the kernel writes down the end of a process.
        Ok((ExitStatus::from_raw(code << 8), state.oom_killed.unwrap_or_default()))
    }

    fn body(&self, shell: &Shell, request: &BuildRequest, network: String) -> ContainerCreateBody {
        let profile = &shell.profile;
        let user = profile.user.map_or_else(
            || (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            |user| (user.uid, user.gid),
        );
        let labels = self.docker.labels([
            (label::KIND, KIND.to_owned()),
            (label::APP, request.app.to_string()),
            (label::APP_ID, request.app_id.to_string()),
            (label::BUILD, folder(profile)),
        ]);
        let environment = shell.environment.iter().map(|(key, value)| format!("{key}={value}"));
        ContainerCreateBody {
            image: Some(self.image.clone()),
            entrypoint: Some(vec!["bash".to_owned()]),
            cmd: Some(shell.arguments.clone()),
            env: Some(environment.collect()),
            user: Some(format!("{}:{}", user.0, user.1)),
            working_dir: Some(seen::HOME.to_owned()),
            labels: Some(labels),
            open_stdin: Some(true),
            stdin_once: Some(true),
            attach_stdin: Some(true),
            host_config: Some(host(profile, network)),
            ..ContainerCreateBody::default()
        }
    }

    async fn remove(&self, container: &str) -> Result<()> {
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        match self.docker.client().remove_container(container, Some(options)).await {
            Ok(()) | Err(Refusal::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(e) => Err(failed("can't remove the container of a build", e)),
        }
    }
}

/// The build's folder, whose lock says that it is no orphan.
fn folder(profile: &Profile) -> String {
    let folder = profile.tmp.as_deref().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
    folder.display().to_string()
}

fn host(profile: &Profile, network: String) -> HostConfig {
    let limits = profile.limits;
    let limit = |value: u64| i64::try_from(value).ok().filter(|value| *value > 0);
    // How many files it may open is Docker's to say: more than the daemon itself may, nobody can be given.
    let file_size = limit(limits.file_size).map(|bytes| {
        vec![ResourcesUlimits { name: Some("fsize".to_owned()), soft: Some(bytes), hard: Some(bytes) }]
    });
    let bind = |from: &PathBuf, to: &Path, writable: bool| Mount {
        typ: Some(MountType::BIND),
        source: Some(from.display().to_string()),
        target: Some(to.display().to_string()),
        read_only: Some(!writable),
        ..Mount::default()
    };
    let tmp = profile.tmp.iter().map(|tmp| bind(tmp, Path::new("/tmp"), true));
    let binds = profile.binds.iter().map(|folder| bind(&folder.from, &folder.to, folder.writable));
    HostConfig {
        network_mode: Some(network),
        mounts: Some(tmp.chain(binds).collect()),
        memory: limit(limits.memory),
        memory_swap: limit(limits.memory),
        nano_cpus: limit(u64::from(limits.cpu) * 1_000_000),
        pids_limit: limit(u64::from(limits.tasks)),
        ulimits: file_size,
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        // The folders belong to the build's user, who is nobody's root, by its number on this machine.
        userns_mode: Some("host".to_owned()),
        // It takes leave of orphans.
        init: Some(true),
        // What it prints goes to whoever listens, and nowhere else.
        log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: Some(HashMap::new()) }),
        ..HostConfig::default()
    }
}
