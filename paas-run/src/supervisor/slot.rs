//! The life of one instance: launched, well, ended, started again, until it is told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use paas_core::{
    Digest, Error, ErrorCode, Instance, InstanceState, LogSource, LogWriter, ProcessSpec, Result, Retry,
};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::board::Place;
use super::health::{self, Verdict};
use super::launcher::{End, Found, Kill, Label, Launch, LaunchId, Launcher, Process, Up};

/// How long to rest when the launcher itself doesn't answer.
const REST: Duration = Duration::from_secs(1);

/// Whether the first launch of a slot worked.
#[derive(Debug, Clone)]
pub(super) enum First {
    Pending,
    Launched,
    Failed(Arc<Error>),
}

/// The handle of one instance's life.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) place: Place,
    pub(super) digest: Digest,
    /// What to start again; an adopted instance gets it with the next `ensure`.
    pub(super) spec: watch::Sender<Option<Arc<ProcessSpec>>>,
    pub(super) first: watch::Sender<First>,
    /// It was told to stop.
    pub(super) stop: CancellationToken,
    /// It has ended and left the board.
    pub(super) gone: CancellationToken,
}

impl Slot {
    pub(super) fn new(place: Place, digest: Digest, spec: Option<Arc<ProcessSpec>>) -> Self {
        Self {
            place,
            digest,
            spec: watch::Sender::new(spec),
            first: watch::Sender::new(First::Pending),
            stop: CancellationToken::new(),
            gone: CancellationToken::new(),
        }
    }

    /// Waits for the first launch.
    pub(super) async fn launched(&self) -> Result<()> {
        let mut first = self.first.subscribe();
        let known = first.wait_for(|first| !matches!(first, First::Pending)).await;
        match known.map(|first| first.clone()) {
            Ok(First::Failed(e)) => Err(Error::new(e.code(), e.to_string()).with_retry(e.retry())),
            _ => Ok(()),
        }
    }
}

/// Where a life begins.
pub(super) enum Begin {
    /// With a launch, once the one before it in this place is gone.
    Launch(Option<CancellationToken>),
    /// With what an earlier engine launched.
    Adopt(Box<Found>),
}

/// What a launched process came to.
enum Outcome {
    Stop,
    Ended { end: End, up: Duration },
}

pub(super) struct Life<L> {
    pub(super) shared: Arc<Shared<L>>,
    pub(super) slot: Arc<Slot>,
    pub(super) restarts: u32,
    pub(super) crashes: u32,
}

impl<L: Launcher> Life<L> {
    pub(super) async fn run(mut self, begin: Begin) {
        let closed = self.shared.closed.clone();
        tokio::select! {
            biased;
            // The supervisor is gone: the processes go on, and the next one adopts them.
            () = closed.cancelled() => return self.give_up_first(),
            () = self.live(begin) => self.give_up_first(),
        }
        self.shared.board.remove(&self.slot.place);
        self.shared.release(&self.slot);
        self.slot.gone.cancel();
    }

    /// Nobody waits for a first launch that doesn't come any more.
    fn give_up_first(&self) {
        self.slot.first.send_if_modified(|first| {
            let pending = matches!(first, First::Pending);
            if pending {
                let name = &self.slot.place.name;
                let why = format!("{name} was told to stop before it was started");
                *first = First::Failed(Arc::new(Error::new(ErrorCode::Cancelled, why)));
            }
            pending
        });
    }

    async fn live(&mut self, begin: Begin) {
        let mut found = match begin {
            Begin::Adopt(found) => {
                self.restarts = found.label.restarts;
                self.crashes = found.label.crashes;
                Some(*found)
            }
            Begin::Launch(before) => {
                if let Some(before) = before {
                    before.cancelled().await;
                }
                None
            }
        };
        // One that was adopted is ended before this life is, however early it is told to stop.
        while found.is_some() || !self.slot.stop.is_cancelled() {
            let running = match found.take() {
                Some(found) => found,
                None => match self.launch().await {
                    Some(Ok(running)) => {
                        self.show(&running);
                        running
                    }
                    Some(Err(e)) => {
                        if self.failed(e).await {
                            continue;
                        }
                        return;
                    }
                    None => return,
                },
            };
            self.slot.first.send_replace(First::Launched);
            let id = running.process.id;
            match self.watch(running).await {
                Outcome::Stop => {
                    self.end(id).await;
                    return;
                }
                Outcome::Ended { end, up } => {
                    self.ended(&end, up);
                    self.forget(id).await;
                    if !self.pause(&end).await {
                        return;
                    }
                }
            }
        }
    }

    /// Starts it. `None` when it was told to stop before it could begin.
    async fn launch(&self) -> Option<Result<Found>> {
        let mut spec = self.slot.spec.subscribe();
        let spec = tokio::select! {
            () = self.slot.stop.cancelled() => return None,
            spec = spec.wait_for(Option::is_some) => spec.ok()?.clone()?,
        };
        let label = Label {
            app: spec.app.clone(),
            app_id: spec.app_id,
            release: spec.release,
            version: spec.version,
            name: self.slot.place.name.clone(),
            artifact: spec.artifact.digest,
            digest: self.slot.digest,
            health: spec.health.clone(),
            grace_ms: u64::try_from(spec.grace.as_millis()).unwrap_or(u64::MAX),
            restarts: self.restarts,
            crashes: self.crashes,
            once: None,
        };
        let launch = Launch { id: LaunchId::new(), label: label.clone(), spec };
        let process = self.shared.launcher.launch(launch).await;
        Some(process.map(|process| Found::new(label, process)))
    }

    /// A launch that failed: the very first is the caller's to hear of, a later one is a crash. Says whether to go on.
    async fn failed(&mut self, error: Error) -> bool {
        if matches!(*self.slot.first.borrow(), First::Pending) {
            self.slot.first.send_replace(First::Failed(Arc::new(error)));
            return false;
        }
        tracing::warn!(error = %error, instance.name = %self.slot.place.name, "an instance can't be started again");
        if error.code() == ErrorCode::Unavailable && error.retry() != Retry::Never {
            // Nobody is there to start it: no crash of its own.
            return tokio::select! {
                () = self.slot.stop.cancelled() => false,
                () = sleep(REST) => true,
            };
        }
        let mut end = End::new(None, self.shared.clock.now());
        end.reason = Some(error.to_string());
        self.ended(&end, Duration::ZERO);
        self.pause(&end).await
    }

    /// Puts it on the board.
    pub(super) fn show(&self, found: &Found) {
        let Found { label, process, .. } = found;
        let last = self.shared.board.get(&self.slot.place);
        let mut row = started(label, process);
        // Whoever looks after the restart still learns of the crash.
        row.last_exit = last.as_ref().and_then(|last| last.last_exit.clone());
        row.reason = last.as_ref().and_then(|last| last.reason.clone());
        if let Some(up) = found.up {
            row.state = InstanceState::Up;
            row.address = up.address;
        }
        if let Some(end) = &found.end {
            let before = row.state;
            mark_ended(&mut row, end);
            self.log().line(changed(before, row.state));
        } else if let Some(last) = last.filter(|last| last.state != row.state) {
            self.log().line(changed(last.state, row.state));
        }
        self.shared.board.put(&self.slot.place, row);
    }

    /// From its start to its end.
    async fn watch(&self, found: Found) -> Outcome {
        let Found { label, process, up, end } = found;
        let (shared, id) = (&self.shared, process.id);
        if let Some(end) = end {
            let up = if up.is_some() {
                (end.at - process.started_at).to_std().unwrap_or_default()
            } else {
                Duration::ZERO
            };
            return Outcome::Ended { end, up };
        }
        let ended = self.wait(id);
        tokio::pin!(ended);
        let (mut reason, mut was_up) = (None, up.is_some());
        if !was_up {
            tokio::select! {
                biased;
                () = self.slot.stop.cancelled() => return Outcome::Stop,
                end = &mut ended => return Outcome::Ended { end, up: self.since_up(was_up, &process) },
                verdict = self.verdict(&label, &process) => match verdict {
                    Verdict::Up(address) => {
                        was_up = true;
                        self.up(&process, address).await;
                    }
                    Verdict::Late(why) => {
                        self.log().line(&why);
                        self.log().line("Stopping process with SIGKILL");
                        reason = Some(why);
                        self.kill(id, Kill::Now).await;
                    }
                },
            }
        }
        tokio::select! {
            biased;
            () = self.slot.stop.cancelled() => Outcome::Stop,
            mut end = ended => {
                end.reason = reason.or(end.reason);
                let up = self.since_up(was_up, &process);
                shared.board.change(&self.slot.place, |row| row.address = None);
                Outcome::Ended { end, up }
            }
        }
    }

    async fn verdict(&self, label: &Label, process: &Process) -> Verdict {
        loop {
            match health::check(&self.shared.launcher, &*self.shared.clock, label, process).await {
                Ok(verdict) => return verdict,
                Err(e) => {
                    tracing::warn!(error = %e, "an instance can't be looked at");
                    sleep(REST).await;
                }
            }
        }
    }

    async fn up(&self, process: &Process, address: Option<SocketAddr>) {
        // Kept before anybody sees it: an engine that dies now leaves no route to an instance that the next one holds for
        // not yet well.
        self.shared.launcher.note_up(process.id, Up::new(address)).await;
        self.shared.board.change(&self.slot.place, |row| {
            row.state = InstanceState::Up;
            row.address = address;
            row.reason = None;
        });
        self.log().line(changed(InstanceState::Starting, InstanceState::Up));
    }

    fn ended(&mut self, end: &End, up: Duration) {
        if end.cut_off.is_none() {
            self.crashes = self.shared.backoff.count(self.crashes, up);
            self.restarts = self.restarts.saturating_add(1);
        }
        let (mut before, mut after) = (None, None);
        self.shared.board.change(&self.slot.place, |row| {
            before = Some(row.state);
            mark_ended(row, end);
            after = Some(row.state);
        });
        if let (Some(before), Some(after)) = (before, after)
            && before != after
        {
            self.log().line(changed(before, after));
        }
    }

    /// Rests after a crash; false when it was told to stop meanwhile.
    async fn pause(&self, end: &End) -> bool {
        if end.cut_off.is_some() {
            return !self.slot.stop.is_cancelled();
        }
        let since = (self.shared.clock.now() - end.at).to_std().unwrap_or_default();
        let pause = self.shared.backoff.pause(self.crashes).saturating_sub(since);
        tokio::select! {
            () = self.slot.stop.cancelled() => false,
            () = sleep(pause) => true,
        }
    }

    /// Ends it because it was told to.
    async fn end(&self, id: LaunchId) {
        let mut before = None;
        self.shared.board.change(&self.slot.place, |row| {
            before = Some(row.state);
            row.state = InstanceState::Stopping;
            row.address = None;
        });
        self.kill(id, Kill::Term).await;
        self.wait(id).await;
        if let Some(state) = before {
            self.log().line(format!("State changed from {} to down", word(state)));
        }
        self.forget(id).await;
    }

    async fn wait(&self, id: LaunchId) -> End {
        loop {
            match self.shared.launcher.wait(id).await {
                Ok(end) => return end,
                Err(e) if e.code() == ErrorCode::NotFound => {
                    return End::new(None, self.shared.clock.now());
                }
                Err(e) => {
                    tracing::warn!(error = %e, launch.id = %id, "a process can't be waited for");
                    sleep(REST).await;
                }
            }
        }
    }

    async fn kill(&self, id: LaunchId, how: Kill) {
        while let Err(e) = self.shared.launcher.kill(id, how).await {
            tracing::warn!(error = %e, launch.id = %id, "a process can't be ended");
            sleep(REST).await;
        }
    }

    async fn forget(&self, id: LaunchId) {
        if let Err(e) = self.shared.launcher.forget(id).await {
            // The next start of the engine finds it ended and tries again.
            tracing::warn!(error = %e, launch.id = %id, "what an ended process left behind can't be removed");
        }
    }

    fn age(&self, process: &Process) -> Duration {
        (self.shared.clock.now() - process.started_at).to_std().unwrap_or_default()
    }

    fn since_up(&self, was_up: bool, process: &Process) -> Duration {
        if was_up { self.age(process) } else { Duration::ZERO }
    }

    fn log(&self) -> LogWriter {
        let (Shared { logs, clock, .. }, place) = (&*self.shared, &self.slot.place);
        let (logs, clock, name) = (Arc::clone(logs), Arc::clone(clock), place.name.to_string());
        LogWriter::new(logs, clock, place.app.clone(), LogSource::Platform, name)
    }
}

/// What an instance looks like right after its launch.
fn started(label: &Label, process: &Process) -> Instance {
    let mut row = Instance::new(
        (label.app.clone(), label.app_id),
        (label.release, label.version),
        label.name.clone(),
        process.started_at,
    );
    row.restarts = label.restarts;
    row.metadata.clone_from(&process.metadata);
    row
}

fn mark_ended(row: &mut Instance, end: &End) {
    row.address = None;
    if let Some(cut_off) = end.cut_off {
        row.state = InstanceState::Starting;
        row.reason = Some(cut_off.words().to_owned());
        return;
    }
    row.state = InstanceState::Crashed;
    row.last_exit.clone_from(&end.exit);
    row.reason = end.reason.clone().or_else(|| Some(words(end)));
}

fn word(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Up => "up",
        InstanceState::Crashed => "crashed",
        InstanceState::Stopping => "stopping",
        InstanceState::Lost => "lost",
        _ => "starting",
    }
}

fn changed(from: InstanceState, to: InstanceState) -> String {
    format!("State changed from {} to {}", word(from), word(to))
}

fn words(end: &End) -> String {
    match &end.exit {
        Some(exit) => format!("Process exited with status {}", exit.status),
        None => "Process is gone, and how it ended is not known".into(),
    }
}
