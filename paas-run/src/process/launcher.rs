//! Local processes: each with a shim for a parent.

use std::collections::{HashMap, HashSet};
use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use paas_core::{AppId, AppName, Clock, Digest, Error, ErrorCode, Result, RuntimeCapabilities, blocking};
use paas_sandbox::{Abilities, Helper, procfs};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::RwLock;
use tokio::time::sleep;

use super::ProcessConfig;
use super::folder::{Folder, Record, Running};
use super::found::facts;
use super::home::Homes;
use super::ports::{self, Ports};
use super::slugs::Slugs;
use super::start::find_bash;
use super::users::Users;
use crate::keep::{read_file, write_file};
use crate::logs::FileLogs;
use crate::supervisor::{End, Found, Kill, Label, Launch, LaunchId, Launcher, Process, Up};

/// How often a shim that is just starting is looked for.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// Starts local processes.
#[derive(Debug)]
pub struct ProcessLauncher {
    pub(super) data: PathBuf,
    pub(super) helper: Helper,
    pub(super) abilities: Abilities,
    pub(super) homes: Homes,
    pub(super) bash: PathBuf,
    pub(super) read_only: Vec<PathBuf>,
    pub(super) path: String,
    pub(super) logs: Arc<FileLogs>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) users: Users,
    pub(super) slugs: Slugs,
    pub(super) ports: Ports,
    pub(super) known: Mutex<HashMap<LaunchId, Record>>,
    /// Launches whose shims have not spoken yet: they may not hold their locks yet, and live all the same.
    pub(super) starting: Mutex<HashSet<LaunchId>>,
    /// Read while something is launched, written while slugs are put aside.
    pub(super) launching: RwLock<()>,
}

impl ProcessLauncher {
    pub(super) async fn open(config: ProcessConfig) -> Result<Self> {
        let ProcessConfig { data, blobs, logs, clock, helper, toolchains, first_user, ports, .. } = config;
        let read_only = toolchains.folders.into_iter().chain(config.read_only).collect();
        let abilities = helper.abilities().map_err(from_sandbox)?;
        // Without a file tree of its own a program reaches its folder through ours.
        let mode = if abilities.namespaces { 0o700 } else { 0o711 };
        for folder in [data.clone(), data.join("launches")] {
            let made = DirBuilder::new().recursive(true).mode(mode).create(&folder);
            made.map_err(|e| Error::from_io(format!("can't make {}", folder.display()), e))?;
        }
        let boot = data.join("boot.json");
        let same_boot = read_file::<String>(&boot)?.is_some_and(|known| known == procfs::boot_id());
        let slugs = Slugs::open(data.join("slugs"), blobs, same_boot)?;
        write_file(&boot, &procfs::boot_id(), true)?;
        let launcher = Self {
            homes: Homes::find(&helper, &abilities, &data).await?,
            bash: find_bash()?,
            users: Users::open(data.join("users.json"), first_user)?,
            slugs,
            ports: Ports::new(ports),
            known: Mutex::default(),
            starting: Mutex::default(),
            launching: RwLock::default(),
            data,
            helper,
            abilities,
            read_only,
            path: toolchains.path,
            logs,
            clock,
        };
        launcher.learn()?;
        Ok(launcher)
    }

    pub(super) fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    pub(super) fn known(&self) -> MutexGuard<'_, HashMap<LaunchId, Record>> {
        // Each change is one step: a panic elsewhere leaves the table whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn starting(&self) -> MutexGuard<'_, HashSet<LaunchId>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn folder(&self, id: LaunchId) -> Folder {
        Folder::new(self.data.join("launches").join(id.to_string()))
    }

    /// The shim, if it lives. One that has not said who it is yet is waited for.
    async fn shim(&self, folder: &Folder) -> Result<Option<Running>> {
        loop {
            if folder.end()?.is_some() {
                return Ok(None);
            }
            if let Some(running) = folder.running()? {
                return Ok(running.shim.alive().then_some(running));
            }
            if folder.is_free()? {
                return Ok(None);
            }
            sleep(POLL).await;
        }
    }

    fn processes(&self, id: LaunchId) -> Result<Vec<u32>> {
        let Some(running) = self.folder(id).running()? else { return Ok(Vec::new()) };
        let mut found = running.group.processes();
        if found.is_empty() {
            found = procfs::family(running.program).into_iter().collect();
        }
        Ok(found)
    }
}

/// Marks a launch as starting for as long as it lives.
struct Starting<'a>(&'a Mutex<HashSet<LaunchId>>, LaunchId);

impl<'a> Starting<'a> {
    fn new(all: &'a Mutex<HashSet<LaunchId>>, id: LaunchId) -> Self {
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        Self(all, id)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// A pidfd becomes readable when its process has ended.
async fn until_readable(pidfd: OwnedFd) -> io::Result<()> {
    #[allow(deprecated, reason = "the other constructors are unsafe, for types whose descriptor may change")]
    let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
    pidfd.readable().await.map(drop)
}

fn from_sandbox(error: paas_sandbox::Error) -> Error {
    match error {
        paas_sandbox::Error::NotInitialised => Error::new(ErrorCode::NotInitialised, error.to_string()),
        other => Error::new(ErrorCode::Unavailable, "the sandbox can't be used").with_source(other),
    }
}

#[async_trait]
impl Launcher for ProcessLauncher {
    fn capabilities(&self) -> RuntimeCapabilities {
        let able = RuntimeCapabilities::full().without_attach().without_volumes();
        able.confined(self.abilities.limited(), self.abilities.isolated())
    }

    async fn launch(&self, launch: Launch) -> Result<Process> {
        let _launching = self.launching.read().await;
        let (id, folder) = (launch.id, self.folder(launch.id));
        if !folder.create()? && folder.record()?.is_some() {
            return Err(Error::new(ErrorCode::Exists, format!("{id} was launched before")));
        }
        let web = launch.label.name.process.is_web() && launch.label.once.is_none();
        let port = if web { Some(self.ports.free()?) } else { None };
        let (boot, started_at) = (procfs::boot_id(), self.clock.now());
        let record = Record { label: launch.label.clone(), port, boot, started_at };
        let started = async {
            let order = self.order(&launch, &folder, port).await?;
            let (kept, at) = (record.clone(), folder.clone());
            blocking(move || at.keep_record(&kept)).await?;
            let _starting = Starting::new(&self.starting, id);
            self.known().insert(id, record.clone());
            self.start(&order).await
        };
        match started.await {
            // A program that could not be started has an end, and that is told by `wait`.
            Err(e) if folder.end()?.is_none() => {
                let removed = match folder.try_lock()? {
                    Some(_lock) => folder.remove().map(|()| drop(self.known().remove(&id))),
                    // A shim that is slow but lives: it is found by the next engine, and ended.
                    None => self.kill(id, Kill::Now).await,
                };
                removed.and(Err(e))
            }
            _ => {
                let mut process = Process::new(id, record.started_at, port);
                if let Some(running) = folder.running()? {
                    process.metadata = facts(&running);
                }
                Ok(process)
            }
        }
    }

    async fn list(&self, app: Option<&AppName>) -> Result<Vec<Found>> {
        let wanted = |record: &Record| app.is_none_or(|app| record.label.app == *app);
        let known: Vec<(LaunchId, Record)> =
            self.known().iter().filter(|(_, r)| wanted(r)).map(|(id, r)| (*id, r.clone())).collect();
        known.into_iter().filter_map(|(id, record)| self.look(id, record).transpose()).collect()
    }

    async fn find(&self, id: LaunchId) -> Result<Option<Found>> {
        let known = self.known().get(&id).cloned();
        known.map_or(Ok(None), |record| self.look(id, record))
    }

    async fn kill(&self, id: LaunchId, how: Kill) -> Result<()> {
        let Some(running) = self.shim(&self.folder(id)).await? else { return Ok(()) };
        let Some(pid) = Pid::from_raw(running.shim.pid.cast_signed()) else { return Ok(()) };
        // Held before it is looked whether it is still the same process: then the number can't change hands.
        let Ok(shim) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
        if running.shim.alive() {
            let signal = if how == Kill::Term { Signal::TERM } else { Signal::QUIT };
            // It may end right now.
            let _ = pidfd_send_signal(shim.as_fd(), signal);
        }
        Ok(())
    }

    async fn wait(&self, id: LaunchId) -> Result<End> {
        let folder = self.folder(id);
        if folder.record()?.is_none() {
            return Err(Error::new(ErrorCode::NotFound, format!("nothing is kept of the launch {id}")));
        }
        if let Some(running) = self.shim(&folder).await?
            && let Some(pid) = Pid::from_raw(running.shim.pid.cast_signed())
            && let Ok(shim) = pidfd_open(pid, PidfdFlags::empty())
            && running.shim.alive()
        {
            until_readable(shim).await.map_err(|e| Error::from_io("can't wait for a shim", e))?;
        }
        let end = match folder.end()? {
            Some(end) => end,
            None => self.settle(&folder)?,
        };
        Ok(end)
    }

    async fn listening(&self, id: LaunchId, port: u16) -> Result<Option<SocketAddr>> {
        Ok(ports::listening(&self.processes(id)?, port))
    }

    async fn note_up(&self, id: LaunchId, up: Up) {
        if let Err(e) = self.folder(id).keep_up(up) {
            tracing::warn!(error = %e, launch.id = %id, "can't keep that an instance is up");
        }
    }

    async fn forget(&self, id: LaunchId) -> Result<()> {
        let once = self.known().get(&id).is_some_and(|record| record.label.once.is_some());
        let folder = self.folder(id);
        blocking(move || if once { folder.clear() } else { folder.remove() }).await?;
        if !once {
            self.known().remove(&id);
        }
        Ok(())
    }

    async fn tidy(&self, app: &AppName) -> Result<()> {
        {
            let _alone = self.launching.write().await;
            let found = self.list(Some(app)).await?;
            let needs = |found: Found| {
                let Label { once, app_id, artifact, .. } = found.label;
                (once.is_none() || found.end.is_none()).then_some((app_id, artifact))
            };
            let wanted: Vec<(AppId, Digest)> = found.into_iter().filter_map(needs).collect();
            self.slugs.keep_only(app, &wanted)?;
        }
        self.slugs.empty_trash().await
    }

    async fn forget_app(&self, app: &AppName) -> Result<()> {
        for found in self.list(Some(app)).await? {
            let (id, folder) = (found.process.id, self.folder(found.process.id));
            blocking(move || folder.remove()).await?;
            self.known().remove(&id);
        }
        self.tidy(app).await?;
        self.users.forget(app)
    }
}
