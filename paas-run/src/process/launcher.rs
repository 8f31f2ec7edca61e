//! Local processes: each with a shim for a parent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use paas_core::{
    AppId, AppName, Clock, ConfigKey, Digest, Error, ErrorCode, Result, Retry, RuntimeCapabilities,
};
use paas_sandbox::{Abilities, Confined, Helper, Limits, Profile, User, procfs};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt, BufReader, Interest};
use tokio::process::Command;
use tokio::sync::RwLock;
use tokio::time::{sleep, timeout};

use super::ProcessConfig;
use super::folder::{Folder, REMOVED, Record, Running, read_file, write_file};
use super::ports::{self, Ports};
use super::shim::{self, Order};
use super::slugs::{Slugs, blocking};
use super::tree;
use super::users::Users;
use crate::logs::FileLogs;
use crate::supervisor::{End, Found, Kill, Label, Launch, LaunchId, Launcher, Process, Up};

/// How long a shim may take to start its program.
const START: Duration = Duration::from_secs(60);
/// How often a shim that is just starting is looked for.
const POLL: Duration = Duration::from_millis(5);
/// Ended one-off commands are remembered for this long: long enough for any retry of their step.
const REMEMBER_DAYS: i64 = 30;

/// Where a program finds its app.
const HOME: &str = "/app";

/// Sources what the app and its buildpacks prepared, as Heroku does: with config vars set, without `set -e`, in the
/// order of names; then becomes the command, so that signals and the exit status are its own.
const BOOT: &str = "for file in .profile.d/*.sh .profile; do [ ! -f \"$file\" ] || . \"./$file\"; done; unset file; \
                    exec \"$BASH\" -c \"$1\"";

/// How an instance gets a folder of its own to write in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Homes {
    /// The slug seen through an overlay: nothing is copied.
    Overlay,
    /// A copy of the slug, seen as `/app`.
    Bound,
    /// A copy of the slug, where it is.
    Plain,
}

/// Starts local processes.
#[derive(Debug)]
pub struct ProcessLauncher {
    data: PathBuf,
    helper: Helper,
    abilities: Abilities,
    homes: Homes,
    bash: PathBuf,
    read_only: Vec<PathBuf>,
    path: String,
    logs: Arc<FileLogs>,
    clock: Arc<dyn Clock>,
    users: Users,
    slugs: Slugs,
    ports: Ports,
    known: Mutex<HashMap<LaunchId, Record>>,
    /// Launches whose shims have not spoken yet: they may not hold their locks yet, and live all the same.
    starting: Mutex<HashSet<LaunchId>>,
    /// Read while something is launched, written while slugs are put aside.
    launching: RwLock<()>,
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
            homes: homes(&helper, &abilities, &data).await?,
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

    fn known(&self) -> MutexGuard<'_, HashMap<LaunchId, Record>> {
        // Each change is one step: a panic elsewhere leaves the table whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn starting(&self) -> MutexGuard<'_, HashSet<LaunchId>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, id: LaunchId) -> Folder {
        Folder::new(self.data.join("launches").join(id.to_string()))
    }

    /// Reads what earlier engines launched.
    fn learn(&self) -> Result<()> {
        let all = self.data.join("launches");
        let read =
            fs::read_dir(&all).map_err(|e| Error::from_io(format!("can't read {}", all.display()), e))?;
        let oldest = self.clock.now() - chrono::Duration::days(REMEMBER_DAYS);
        for entry in read.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(REMOVED) {
                let removed = tree::remove(&entry.path());
                removed.map_err(|e| Error::from_io(format!("can't remove {}", entry.path().display()), e))?;
            }
            let Ok(id) = name.parse::<LaunchId>() else { continue };
            let folder = self.folder(id);
            let record = folder.record().unwrap_or_else(|e| {
                // Cut short together with the machine, so nothing runs.
                tracing::warn!(error = %e, launch.id = %id, "what was kept of a launch can't be read");
                None
            });
            match record {
                Some(record)
                    if record.label.once.is_some() && record.started_at < oldest && folder.is_free()? =>
                {
                    folder.remove()?;
                }
                Some(record) => drop(self.known().insert(id, record)),
                // The engine ended before it could start anything here.
                None => folder.remove()?,
            }
        }
        Ok(())
    }

    /// What is there of a launch, if it is not being forgotten right now.
    fn look(&self, id: LaunchId, record: Record) -> Result<Option<Found>> {
        match self.look_into(&self.folder(id), id, record) {
            Err(_) if !self.folder(id).path().exists() => Ok(None),
            looked => looked.map(Some),
        }
    }

    /// One of which nobody holds the lock and nobody wrote the end is given up.
    fn look_into(&self, folder: &Folder, id: LaunchId, record: Record) -> Result<Found> {
        let end = match folder.end()? {
            Some(end) => Some(end),
            None if self.starting().contains(&id) => None,
            None => folder.try_lock()?.map(|lock| self.give_up(folder, &lock)).transpose()?,
        };
        let mut process = Process::new(id, record.started_at, record.port);
        if let Some(running) = folder.running()? {
            process.metadata = facts(&running);
        }
        let mut found = Found::new(record.label, process);
        found.up = folder.up()?;
        found.end = end;
        Ok(found)
    }

    /// Waits for the end of the shim, if there is one, and then for how it went.
    fn settle(&self, folder: &Folder) -> Result<End> {
        let lock = folder.lock()?;
        self.give_up(folder, &lock)
    }

    /// The end, once the shim is gone; if it could not write one, then that it is not known.
    fn give_up(&self, folder: &Folder, lock: &super::folder::Lock) -> Result<End> {
        if let Some(end) = folder.end()? {
            return Ok(end);
        }
        if let Some(running) = folder.running()?.filter(|running| running.shim.boot == procfs::boot_id()) {
            kill_rest(&running);
        }
        let end = End::new(None, self.clock.now());
        folder.keep_end(lock, &end)?;
        Ok(end)
    }

    /// Everything that the shim needs; the folders are made here.
    async fn order(&self, launch: &Launch, folder: &Folder, port: Option<u16>) -> Result<Order> {
        let Launch { id, label, spec } = launch;
        let user = if self.abilities.users { Some(self.users.of(&label.app, label.app_id)?) } else { None };
        let slug = self.slugs.get((&label.app, label.app_id), &spec.artifact, user).await?;
        let (home, tmp) = (folder.path().join("home"), folder.path().join("tmp"));
        {
            let (homes, slug, home, tmp) = (self.homes, slug.clone(), home.clone(), tmp.clone());
            let open = !self.abilities.namespaces;
            blocking(move || {
                folders(homes, &slug, &home, &tmp, user, open)
                    .map_err(|e| Error::from_io("can't make an instance's folders", e))
            })
            .await?;
        }
        let size = &spec.size;
        let limits = Limits::new().memory(size.memory).tasks(size.tasks).cpu(size.cpu);
        let mut profile = Profile::new().user(user).limits(limits).group(id.to_string()).tmp(tmp);
        let dir = match self.homes {
            Homes::Overlay => {
                profile = profile.overlay(slug, home, HOME);
                PathBuf::from(HOME)
            }
            Homes::Bound => {
                profile = profile.bind(home, HOME);
                PathBuf::from(HOME)
            }
            Homes::Plain => {
                profile = profile.read_write(home.clone());
                home
            }
        };
        for path in self.read_only.iter().filter(|path| path.exists()) {
            profile = profile.read_only(path);
        }
        let mut env: BTreeMap<String, String> = [("PATH", self.path.as_str()), ("LANG", "C.UTF-8")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        env.extend(spec.env.iter().map(|(key, value)| (key.to_string(), value.expose().to_owned())));
        env.insert("HOME".into(), dir.display().to_string());
        env.insert("DYNO".into(), label.process());
        if let Some(port) = port {
            env.insert("PORT".into(), port.to_string());
        }
        let bounds = self.logs.bounds();
        Ok(Order {
            folder: folder.path().to_owned(),
            log: self.logs.folder(&label.app),
            log_segments: bounds.segments,
            log_segment_bytes: bounds.segment_bytes,
            name: label.process(),
            workflow: label.once.as_ref().map(|once| once.workflow),
            command: spec.command.clone(),
            abilities: self.abilities.clone(),
            profile,
            program: vec![
                self.bash.display().to_string(),
                "-c".into(),
                BOOT.into(),
                "paas".into(),
                spec.command.clone(),
            ],
            env,
            secrets: spec.env.keys().map(ConfigKey::to_string).collect(),
            dir,
            grace: label.grace(),
            timeout: label.once.as_ref().map(|once| Duration::from_millis(once.timeout_ms)),
        })
    }

    /// Starts the shim and waits for its word that the program was started.
    async fn start(&self, order: &Order) -> Result<()> {
        let failed = |e| Error::from_io("can't start a shim", e);
        let memory = rustix::fs::memfd_create("paas-order", MemfdFlags::CLOEXEC);
        let mut file = File::from(memory.map_err(io::Error::from).map_err(failed)?);
        file.write_all(&serde_json::to_vec(order).map_err(io::Error::from).map_err(failed)?)
            .map_err(failed)?;
        let mut shim = Command::new(self.helper.path())
            .arg(shim::SHIM)
            .arg(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let said = shim.stdout.take();
        // Somebody must take leave of it when it ends.
        let reaped = tokio::spawn(async move { shim.wait().await });
        let mut line = String::new();
        if let Some(said) = said {
            let read = timeout(START, BufReader::new(said).read_line(&mut line)).await;
            read.map_err(|_| Error::new(ErrorCode::Unavailable, "a shim did not start in time"))?
                .map_err(failed)?;
        }
        if line.trim() == shim::STARTED {
            return Ok(());
        }
        // It has said why, and ends.
        reaped.await.map_err(io::Error::other).and_then(|status| status).map_err(failed)?;
        let why = if line.is_empty() { "it said nothing".into() } else { line.trim().to_owned() };
        Err(Error::new(ErrorCode::Unavailable, format!("a shim could not start: {why}"))
            .with_retry(Retry::Backoff))
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

/// Kills what a shim left that was itself killed.
fn kill_rest(running: &Running) {
    // The kernel takes a moment; a hundred are enough for anything but a stuck disk.
    for _ in 0..100 {
        running.group.kill();
        for pid in procfs::family(running.program).into_iter().filter(|_| running.group.is_void()) {
            // It may have ended meanwhile.
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.cast_signed()),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        if running.group.remove() {
            return;
        }
        std::thread::sleep(POLL);
    }
}

/// A pidfd becomes readable when its process has ended.
async fn until_readable(pidfd: OwnedFd) -> io::Result<()> {
    #[allow(deprecated, reason = "the other constructors are unsafe, for types whose descriptor may change")]
    let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
    pidfd.readable().await.map(drop)
}

fn facts(running: &Running) -> BTreeMap<String, String> {
    [("pid", running.program), ("shim", running.shim.pid)]
        .map(|(key, pid)| (key.to_owned(), pid.to_string()))
        .into()
}

fn folders(
    homes: Homes,
    slug: &Path,
    home: &Path,
    tmp: &Path,
    user: Option<User>,
    open: bool,
) -> io::Result<()> {
    for folder in [home, tmp] {
        fs::create_dir_all(folder)?;
        if let Some(user) = user {
            lchown(folder, Some(user.uid), Some(user.gid))?;
        }
    }
    if let (true, Some(launch)) = (open, home.parent()) {
        fs::set_permissions(launch, fs::Permissions::from_mode(0o711))?;
    }
    if homes != Homes::Overlay {
        tree::copy(slug, home)?;
        if let Some(user) = user {
            tree::give(home, user)?;
        }
    }
    Ok(())
}

/// Tries which kind of home works in this data folder.
async fn homes(helper: &Helper, abilities: &Abilities, data: &Path) -> Result<Homes> {
    if !abilities.namespaces {
        return Ok(Homes::Plain);
    }
    let trial = data.join("trial");
    let works = async {
        fs::create_dir_all(trial.join("lower")).ok()?;
        fs::create_dir_all(trial.join("changes")).ok()?;
        let profile = Profile::new().overlay(trial.join("lower"), trial.join("changes"), HOME);
        let tried = Confined::new(helper, profile, "/bin/sh").args(["-c", "echo > /app/file"]).output().await;
        tried.ok().filter(|output| output.status.success())
    };
    let works = works.await.is_some();
    tree::remove(&trial).map_err(|e| Error::from_io(format!("can't remove {}", trial.display()), e))?;
    Ok(if works { Homes::Overlay } else { Homes::Bound })
}

fn find_bash() -> Result<PathBuf> {
    let places = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash", "/run/current-system/sw/bin/bash"];
    let found = places.into_iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| {
        Error::new(ErrorCode::Unavailable, "bash is not installed; apps are started by it: install it")
    })
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
        RuntimeCapabilities::full().confined(self.abilities.limited(), self.abilities.isolated())
    }

    async fn launch(&self, launch: Launch) -> Result<Process> {
        let _launching = self.launching.read().await;
        let (id, folder) = (launch.id, self.folder(launch.id));
        if !folder.create()? && folder.record()?.is_some() {
            return Err(Error::new(ErrorCode::Exists, format!("{id} was launched before")));
        }
        let web = launch.label.name.process.is_web() && launch.label.once.is_none();
        let port = if web { Some(self.ports.free()?) } else { None };
        let record = Record { label: launch.label.clone(), port, started_at: self.clock.now() };
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
