//! Containers as the supervisor starts, finds and forgets them.

use std::collections::HashSet;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use paas_core::{
    AppId, AppName, Clock, Console, Digest, ErrorCode, LogSource, LogWriter, Logs, Result,
    RuntimeCapabilities, VolumeName, Window,
};
use paas_docker::Docker;
use tokio::sync::{RwLock, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::census::{Census, OutOfMemory, Row, State};
use super::end;
use super::output::Output;
use super::record::{Notes, Record};
use super::slug::Slugs;
use super::{DockerRuntimeConfig, Walls, ready, volume};
use crate::supervisor::{CutOff, End, Found, Kill, Label, Launch, LaunchId, Launcher, Process, Up};

/// Ended one-off commands are remembered for this long: long enough for any retry of their step.
const REMEMBER_DAYS: i64 = 30;

/// Starts containers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DockerLauncher {
    pub(super) docker: Docker,
    pub(super) walls: Arc<Walls>,
    pub(super) slugs: Arc<Slugs>,
    pub(super) census: Arc<Census>,
    pub(super) notes: Notes,
    pub(super) output: Arc<Output>,
    pub(super) starting: Starting,
    pub(super) logs: Arc<dyn Logs>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) capabilities: RuntimeCapabilities,
    missing: Arc<[&'static str]>,
    /// Read while something is launched, written while images are removed.
    launching: Arc<RwLock<()>>,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// Held by everything that may write to logs, so that the next engine begins after the last line of this one; a
    /// console that outlives its engine doesn't hold it.
    lock: Weak<File>,
}

impl DockerLauncher {
    pub(super) async fn open(
        config: DockerRuntimeConfig,
        lock: &Arc<File>,
        closing: CancellationToken,
    ) -> Result<Self> {
        let (capabilities, missing) = abilities(&config.docker).await?;
        let DockerRuntimeConfig { docker, data, blobs, logs, clock, stack, slug_user, walls, .. } = config;
        let oldest = clock.now() - chrono::Duration::days(REMEMBER_DAYS);
        let notes = Notes::open(data.join("launches"), oldest)?;
        let (send, out_of_memory) = mpsc::unbounded_channel();
        let census = Census::open(docker.clone(), Arc::clone(&clock), walls.reach, send).await?;
        let census = Arc::new(census);
        let output = Output::new(docker.clone(), Arc::clone(&logs), Arc::clone(&census), notes.clone());
        let slugs = Slugs::open(docker.clone(), blobs, stack, slug_user).await?;
        let launcher = Self {
            docker,
            walls: Arc::new(walls),
            slugs: Arc::new(slugs),
            census,
            notes,
            output: Arc::new(output),
            starting: Starting::default(),
            logs,
            clock,
            capabilities,
            missing: missing.into(),
            launching: Arc::default(),
            tasks: TaskTracker::new(),
            closing,
            lock: Arc::downgrade(lock),
        };
        launcher.take_over().await?;
        let census = Arc::clone(&launcher.census);
        launcher.spawn(Some(async move { census.follow().await }));
        launcher.spawn(Some(launcher.clone().tell_of_memory(out_of_memory)));
        Ok(launcher)
    }

    /// What this daemon can't do, each in a sentence for people.
    pub(super) fn missing(&self) -> &[&'static str] {
        &self.missing
    }

    /// Goes on with what earlier engines launched, and removes what nobody needs of them.
    async fn take_over(&self) -> Result<()> {
        for id in self.notes.ids() {
            let once = self.notes.get(id).is_some_and(|note| note.once.is_some());
            if !once && self.census.get(id).is_none() {
                self.notes.remove(id).await?;
            }
        }
        for (id, row) in self.census.all() {
            let ended = self.notes.get(id).is_some_and(|note| note.end.is_some());
            let Some(container) = row.container.clone().filter(|_| row.state() >= State::Running && !ended)
            else {
                continue;
            };
            self.copy_on(id, &container, &row.record).await?;
            self.hang_up_if_left(id, &container, &row.record);
        }
        let apps: HashSet<AppName> =
            self.census.all().into_iter().map(|(_, row)| row.record.label.app).collect();
        self.docker.keep_networks(|app| apps.contains(app)).await
    }

    /// Copies what one prints that an earlier engine started, unless that is done already.
    pub(super) async fn copy_on(&self, id: LaunchId, container: &str, record: &Record) -> Result<()> {
        let detached = self.notes.get(id).and_then(|note| note.detached);
        if self.output.copies(id) || (record.is_attached() && detached.is_none()) {
            return Ok(());
        }
        let found = self.census.look(id, container).await?;
        let redactor = found.map(|found| end::secrets(record, &found)).transpose()?;
        let copy =
            self.output.copy(id, container.to_owned(), record, redactor.unwrap_or_default(), detached, true);
        self.spawn(copy);
        Ok(())
    }

    /// Says of each container that ran out of memory that it did, also while it goes on.
    async fn tell_of_memory(self, mut out_of_memory: mpsc::UnboundedReceiver<OutOfMemory>) {
        while let Some(OutOfMemory(id)) = out_of_memory.recv().await {
            if let Some(row) = self.census.get(id) {
                self.say(&row.record.label, "Error R14 (Memory quota exceeded)");
            }
        }
    }

    /// Runs this until it is through or all of this is closed.
    pub(super) fn spawn(&self, task: Option<impl Future<Output = ()> + Send + 'static>) {
        let (Some(task), Some(lock)) = (task, self.lock.upgrade()) else { return };
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => {}
                () = task => {}
            }
            drop(lock);
        });
    }

    /// A line of the platform in the app's log.
    pub(super) fn say(&self, label: &Label, text: &str) {
        let (logs, clock) = (Arc::clone(&self.logs), Arc::clone(&self.clock));
        let writer = LogWriter::new(logs, clock, label.app.clone(), LogSource::Platform, label.process());
        match &label.once {
            Some(once) => writer.during(once.workflow).line(text),
            None => writer.line(text),
        }
    }

    /// What there is of a launch.
    async fn found(&self, id: LaunchId, record: Record, row: Option<Row>) -> Result<Found> {
        let started_at = row.as_ref().and_then(|row| row.started_at).unwrap_or(record.started_at);
        let mut process = Process::new(id, started_at, record.port);
        let container = row.as_ref().and_then(|row| row.container.as_deref());
        process.metadata =
            container.map(|id| ("container".into(), id.chars().take(12).collect())).into_iter().collect();
        let mut found = Found::new(record.label, process);
        let note = self.notes.get(id).unwrap_or_default();
        found.up = note.up;
        found.end = match (note.end, row) {
            (Some(end), _) => Some(end),
            (None, _) if self.starting.contains(id) => None,
            (None, None) => Some(self.without_container(id, note.begun).await?),
            (None, Some(row)) => match row.state() {
                State::Made => Box::pin(self.never_started(id, &row)).await?,
                State::Running => None,
                State::Ended | State::Gone => Some(Box::pin(self.settle(id, &row)).await?),
            },
        };
        Ok(found)
    }

    /// The end of one that has no container: never made, never started, or removed before anybody knew how it ended. Of a
    /// one-off command that is kept, so that whoever asks again is told the same and not of a first time.
    async fn without_container(&self, id: LaunchId, ran: bool) -> Result<End> {
        let mut end = End::new(None, self.clock.now());
        if ran {
            end.reason = Some("its container was removed by somebody else".into());
        } else {
            end.cut_off = Some(CutOff::BeforeStart);
        }
        if self.notes.get(id).is_some_and(|note| note.once.is_some()) {
            let kept = end.clone();
            self.notes.change(id, true, |note| note.end = Some(kept)).await?;
        }
        Ok(end)
    }

    /// One whose engine ended before it was started. The start may be on its way still: only who can remove it without
    /// force knows that it never ran.
    async fn never_started(&self, id: LaunchId, row: &Row) -> Result<Option<End>> {
        if let Some(container) = &row.container {
            match self.census.remove(container, false).await {
                Err(e) if e.code() == ErrorCode::Conflict => {
                    self.copy_on(id, container, &row.record).await?;
                    return Ok(None);
                }
                other => other?,
            }
        }
        self.census.drop_row(id);
        self.without_container(id, false).await.map(Some)
    }
}

/// Which launches are being started right now: what is seen of them is not the whole of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Starting(Arc<Mutex<HashSet<LaunchId>>>);

impl Starting {
    pub(super) fn begin(&self, id: LaunchId) -> Begun {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        Begun(self.clone(), id)
    }

    fn contains(&self, id: LaunchId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }
}

/// Being started for as long as this lives.
#[derive(Debug)]
pub(super) struct Begun(Starting, LaunchId);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

#[async_trait]
impl Launcher for DockerLauncher {
    fn capabilities(&self) -> RuntimeCapabilities {
        self.capabilities
    }

    async fn launch(&self, launch: Launch) -> Result<Process> {
        let _launching = self.launching.read().await;
        let record = self.start(&launch).await?;
        Ok(self.found(launch.id, record, self.census.get(launch.id)).await?.process)
    }

    async fn attach(&self, launch: Launch, window: Option<Window>) -> Result<Console> {
        let _launching = self.launching.read().await;
        self.start_attached(&launch, window).await
    }

    async fn list(&self, app: Option<&AppName>) -> Result<Vec<Found>> {
        let wanted = |record: &Record| app.is_none_or(|app| record.label.app == *app);
        let mut all = Vec::new();
        for (id, row) in self.census.all() {
            if wanted(&row.record) {
                all.push(self.found(id, row.record.clone(), Some(row)).await?);
            }
        }
        for (id, record) in self.notes.commands() {
            if wanted(&record) && self.census.get(id).is_none() {
                all.push(self.found(id, record, None).await?);
            }
        }
        Ok(all)
    }

    async fn find(&self, id: LaunchId) -> Result<Option<Found>> {
        let row = self.census.get(id);
        let record = match &row {
            Some(row) => Some(row.record.clone()),
            None => self.notes.get(id).and_then(|note| note.once),
        };
        match record {
            Some(record) => self.found(id, record, row).await.map(Some),
            None => Ok(None),
        }
    }

    async fn kill(&self, id: LaunchId, how: Kill) -> Result<()> {
        self.begin_end(id, how).await
    }

    async fn wait(&self, id: LaunchId) -> Result<End> {
        if let Some(end) = self.notes.get(id).and_then(|note| note.end) {
            return Ok(end);
        }
        self.census.ended(id).await?;
        match self.census.get(id) {
            Some(row) => self.settle(id, &row).await,
            None => self.notes.get(id).and_then(|note| note.end).ok_or_else(end::lost),
        }
    }

    async fn listening(&self, id: LaunchId, _port: u16) -> Result<Option<SocketAddr>> {
        let Some(row) = self.census.get(id).filter(|row| row.state() == State::Running) else {
            return Ok(None);
        };
        if let (None, Some(container)) = (row.address, &row.container) {
            self.census.look(id, container).await?;
        }
        ready::listening(&self.docker, &row, self.walls.reach).await
    }

    async fn note_up(&self, id: LaunchId, up: Up) {
        if let Err(e) = self.notes.change(id, false, move |note| note.up = Some(up)).await {
            tracing::warn!(error = %e, launch.id = %id, "can't keep that an instance is up");
        }
    }

    async fn forget(&self, id: LaunchId) -> Result<()> {
        if let Some(container) = self.census.get(id).and_then(|row| row.container) {
            self.census.remove(&container, true).await?;
        }
        // Of a command it stays how it ended.
        if self.notes.get(id).is_some_and(|note| note.once.is_none()) {
            self.notes.remove(id).await?;
        }
        self.census.drop_row(id);
        self.output.forget(id);
        Ok(())
    }

    async fn tidy(&self, app: &AppName) -> Result<()> {
        let _alone = self.launching.write().await;
        let rows = self.census.all().into_iter().map(|(_, row)| row.record.label);
        let needed: Vec<(AppId, Digest)> =
            rows.filter(|label| label.app == *app).map(|label| (label.app_id, label.artifact)).collect();
        self.slugs.keep_only(app, &needed).await
    }

    async fn forget_app(&self, app: &AppName) -> Result<()> {
        let _alone = self.launching.write().await;
        for found in self.list(Some(app)).await? {
            let id = found.process.id;
            self.forget(id).await?;
            self.notes.remove(id).await?;
        }
        self.slugs.keep_only(app, &[]).await?;
        volume::remove(&self.docker, app, None).await?;
        match self.docker.remove_network(app).await {
            // Something is on it that isn't ours, such as an add-on's container: whoever ends that removes it, or the
            // next start of the engine.
            Err(e) if e.code() == ErrorCode::Conflict => Ok(()),
            other => other,
        }
    }

    async fn volumes(&self, app: &AppName) -> Result<Vec<VolumeName>> {
        volume::of(&self.docker, app).await
    }

    async fn remove_volume(&self, app: &AppName, volume: &VolumeName) -> Result<()> {
        volume::remove(&self.docker, app, Some(volume)).await
    }

    async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What a machine without them can't do, for people.
async fn abilities(docker: &Docker) -> Result<(RuntimeCapabilities, Vec<&'static str>)> {
    let info = docker.client().info().await;
    let info = info.map_err(|e| paas_docker::failed("can't ask Docker what it is able to do", e))?;
    let able = |what: Option<bool>| what.unwrap_or_default();
    let limits = able(info.memory_limit) && able(info.pids_limit) && able(info.cpu_cfs_quota);
    let mut missing = Vec::new();
    if !limits {
        missing
            .push("Docker can't limit memory, CPU and processes here: one app can take all of the machine");
    }
    if !info
        .security_options
        .iter()
        .flatten()
        .any(|option| option.contains("userns") || option.contains("rootless"))
    {
        missing.push(
            "Docker maps no users: root in a container is the machine's own root behind walls (userns-remap in daemon.json)",
        );
    }
    Ok((RuntimeCapabilities::full().confined(limits, true), missing))
}
