//! How a container is told to end, and how it ended.

use std::time::Duration;

use bollard::errors::Error as Client;
use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{KillContainerOptions, StopContainerOptions};
use paas_core::{ConfigValue, Error, Exit, Redactor, Result};
use paas_docker::{bollard, failed};
use paas_sandbox::procfs;
use tokio::time::sleep;

use super::census::{Row, State, time};
use super::launcher::DockerLauncher;
use super::record::Record;
use crate::supervisor::{CutOff, End, Kill, LaunchId};

/// How many of the last lines are kept with the end.
const LAST: usize = 50;

/// How long to rest when Docker can't end a container.
const REST: Duration = Duration::from_millis(500);

impl DockerLauncher {
    /// Begins to end it.
    pub(super) async fn begin_end(&self, id: LaunchId, how: Kill) -> Result<()> {
        let Some(row) = self.census.get(id).filter(|row| row.state() < State::Ended) else { return Ok(()) };
        let Some(container) = row.container.clone() else { return Ok(()) };
        let grace = row.record.label.grace();
        if how == Kill::Term {
            self.notes.change(id, false, |note| note.stopping = true).await?;
            self.say(&row.record.label, "Stopping all processes with SIGTERM");
        }
        let (launcher, record) = (self.clone(), row.record);
        self.spawn(Some(async move {
            let ended = launcher.census.ended(id);
            let asked = async {
                match how {
                    Kill::Now => launcher.ask_to_die(&container).await,
                    Kill::Term => launcher.ask_to_end(&container, &record, grace).await,
                }
            };
            tokio::select! {
                _ = ended => {}
                () = asked => {}
            }
        }));
        Ok(())
    }

    /// Docker itself kills it after its grace, also if we are gone by then.
    async fn ask_to_end(&self, container: &str, record: &Record, grace: Duration) {
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let options = StopContainerOptions { t: i32::try_from(seconds).ok(), signal: None };
        let client = self.docker.patient(grace);
        let stop = async {
            while let Err(e) = client.stop_container(container, Some(options.clone())).await {
                if is_over(&e) {
                    return;
                }
                tracing::warn!(error = %failed("can't stop a container", e), "it is tried again");
                sleep(REST).await;
            }
        };
        tokio::pin!(stop);
        tokio::select! {
            () = &mut stop => return,
            () = sleep(grace) => {}
        }
        let seconds = grace.as_secs_f32();
        self.say(
            &record.label,
            &format!(
                "Error R12 (Exit timeout) -> At least one process failed to exit within {seconds} seconds of SIGTERM"
            ),
        );
        self.say(&record.label, "Stopping remaining processes with SIGKILL");
        stop.await;
    }

    async fn ask_to_die(&self, container: &str) {
        let options = KillContainerOptions { signal: "SIGKILL".into() };
        while let Err(e) = self.docker.client().kill_container(container, Some(options.clone())).await {
            if is_over(&e) {
                return;
            }
            tracing::warn!(error = %failed("can't kill a container", e), "it is tried again");
            sleep(REST).await;
        }
    }

    /// How one that has ended did, found out and said once.
    pub(super) async fn settle(&self, id: LaunchId, row: &Row) -> Result<End> {
        let _alone = row.settling.lock().await;
        let note = self.notes.get(id).unwrap_or_default();
        if let Some(end) = note.end {
            return Ok(end);
        }
        let found = match &row.container {
            Some(container) => self.census.look(id, container).await?,
            None => None,
        };
        let record = &row.record;
        let mut end = End::new(None, self.clock.now());
        end.stopped = note.stopping;
        match found {
            Some(found) => {
                let container = found.id.clone().unwrap_or_default();
                self.copy_on(id, &container, &row.record).await?;
                self.output.drained(id).await;
                Box::pin(self.read_end(&mut end, record, found)).await?;
            }
            None => end.reason = Some("The container was removed by somebody else".into()),
        }
        for line in words(&end) {
            self.say(&record.label, &line);
        }
        let durable = record.label.once.is_some();
        let kept = end.clone();
        self.notes.change(id, durable, |note| note.end = Some(kept)).await?;
        Ok(end)
    }

    async fn read_end(&self, end: &mut End, record: &Record, found: ContainerInspectResponse) -> Result<()> {
        let redactor = secrets(record, &found)?;
        let state = found.state.unwrap_or_default();
        end.at = state.finished_at.as_deref().and_then(time).unwrap_or(end.at);
        if state.started_at.as_deref().and_then(time).is_none() {
            end.cut_off = Some(CutOff::BeforeStart);
            end.reason = state.error.filter(|error| !error.is_empty());
            return Ok(());
        }
        if !end.stopped && record.boot != procfs::boot_id() {
            end.cut_off = Some(CutOff::WithMachine);
        } else if !end.stopped && self.census.was_away(end.at) {
            end.cut_off = Some(CutOff::WithDaemon);
        }
        let status = state.exit_code.and_then(|code| i32::try_from(code).ok());
        if state.oom_killed == Some(true) && status == Some(137) {
            end.reason = Some("Error R15 (Memory quota vastly exceeded)".into());
        }
        // What somebody saw who sat at it is nobody else's.
        let last = if record.is_attached() { Vec::new() } else { self.last(found.id, &redactor).await };
        end.exit = status.map(|status| Exit::new(status, last));
        Ok(())
    }

    async fn last(&self, container: Option<String>, redactor: &Redactor) -> Vec<String> {
        let last = self.output.last(&container.unwrap_or_default(), LAST, redactor).await;
        last.unwrap_or_else(|e| {
            tracing::warn!(error = %e, "what a container printed last can't be read");
            Vec::new()
        })
    }
}

/// What the log says of an end.
fn words(end: &End) -> Vec<String> {
    let mut lines: Vec<String> = end.reason.iter().cloned().collect();
    if end.reason.as_deref().is_some_and(|reason| reason.contains("R15")) {
        lines.push("Stopping process with SIGKILL".into());
    }
    lines.extend(end.exit.as_ref().map(|exit| format!("Process exited with status {}", exit.status)));
    lines
}

/// The secrets of a container, as it was given them.
pub(super) fn secrets(record: &Record, found: &ContainerInspectResponse) -> Result<Redactor> {
    let mut redactor = Redactor::new();
    let env = found.config.as_ref().and_then(|config| config.env.as_deref()).unwrap_or_default();
    for (key, value) in env.iter().filter_map(|pair| pair.split_once('=')) {
        if record.secrets.iter().any(|secret| secret == key) {
            redactor.learn_value(ConfigValue::new(value)?.expose());
        }
    }
    Ok(redactor)
}

/// Whether there is nothing to end any more.
fn is_over(error: &Client) -> bool {
    matches!(error, Client::DockerResponseServerError { status_code: 304 | 404 | 409, .. })
}

/// One that lacks what would tell its end.
pub(super) fn lost() -> Error {
    Error::new(paas_core::ErrorCode::NotFound, "nothing is kept of this launch")
}
