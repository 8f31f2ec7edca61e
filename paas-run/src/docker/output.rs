//! What a container prints, into its app's log: each line once, whoever is restarted meanwhile.
//!
//! Docker keeps what is printed in a bounded file and gives each line its time, to the nanosecond. A line is in the app's
//! log under that very time, so the log itself tells what it has: whoever goes on after a restart of the engine reads
//! from a little before where it is sure to have been, and leaves out what the log has already.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use paas_core::{AppName, ErrorCode, LogLine, LogQuery, LogSource, Logs, Redactor, Result, WorkflowId};
use paas_docker::{Docker, bollard, failed};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::census::{Census, State};
use super::record::{Notes, Record};
use crate::supervisor::LaunchId;

/// How often it is noted how far an output was read.
const NOTED: Duration = Duration::from_secs(5);

/// How far back is read again: Docker takes times before it orders lines, and asks in whole seconds.
const OVERLAP: chrono::TimeDelta = chrono::TimeDelta::seconds(3);

/// How long to rest when an output can't be read.
const REST: Duration = Duration::from_millis(500);

/// A container that says nothing for as long as it lives is fine.
const SILENCE: Duration = Duration::from_secs(365 * 86_400);

/// Copies outputs.
#[derive(Debug)]
pub(super) struct Output {
    docker: Docker,
    logs: Arc<dyn Logs>,
    census: Arc<Census>,
    notes: Notes,
    /// Whose output is being copied; true once all of it is.
    copied: Mutex<HashMap<LaunchId, watch::Receiver<bool>>>,
}

impl Output {
    pub(super) fn new(docker: Docker, logs: Arc<dyn Logs>, census: Arc<Census>, notes: Notes) -> Self {
        Self { docker, logs, census, notes, copied: Mutex::default() }
    }

    fn copied(&self) -> std::sync::MutexGuard<'_, HashMap<LaunchId, watch::Receiver<bool>>> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What copies this output from its start or from `since`, or from where an earlier engine stopped, to its end. `None` if somebody
    /// does already.
    pub(super) fn copy(
        self: &Arc<Self>,
        id: LaunchId,
        container: String,
        record: &Record,
        redactor: Redactor,
        since: Option<DateTime<Utc>>,
        adopted: bool,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let mut copied = self.copied();
        if copied.contains_key(&id) {
            return None;
        }
        let done = watch::Sender::new(false);
        copied.insert(id, done.subscribe());
        let note = self.notes.get(id).unwrap_or_default();
        let speaker = Speaker {
            app: record.label.app.clone(),
            process: record.label.process(),
            workflow: record.label.once.as_ref().map(|once| once.workflow),
            redactor,
        };
        let from = note.read_to.unwrap_or(record.started_at) - OVERLAP;
        let from = since.map_or(from, |since| since.max(from));
        let (output, had, noted) = (Arc::clone(self), BTreeMap::new(), note.read_to);
        let copy = Copy { output, id, container, speaker, adopted, from, had, noted };
        Some(async move {
            copy.run().await;
            done.send_replace(true);
        })
    }

    /// Whether its output is being copied, or was.
    pub(super) fn copies(&self, id: LaunchId) -> bool {
        self.copied().contains_key(&id)
    }

    /// Waits until all that it printed is in the log.
    pub(super) async fn drained(&self, id: LaunchId) {
        let copied = self.copied().get(&id).cloned();
        if let Some(mut copied) = copied {
            // An error says that whoever copied was given up, together with all of this.
            let _ = copied.wait_for(|copied| *copied).await;
        }
    }

    pub(super) fn forget(&self, id: LaunchId) {
        self.copied().remove(&id);
    }

    /// The last lines of an output, without secrets.
    pub(super) async fn last(
        &self,
        container: &str,
        lines: usize,
        redactor: &Redactor,
    ) -> Result<Vec<String>> {
        let options =
            LogsOptions { stdout: true, stderr: true, tail: lines.to_string(), ..LogsOptions::default() };
        let mut read = Box::pin(self.docker.client().logs(container, Some(options)));
        let mut bytes = Vec::new();
        while let Some(piece) = read.next().await {
            let piece = piece.map_err(|e| failed("can't read what a container printed last", e))?;
            bytes.extend_from_slice(&piece.into_bytes());
        }
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<String> =
            text.lines().map(|line| redactor.redact(line.trim_end_matches('\r'))).collect();
        Ok(all[all.len().saturating_sub(lines)..].to_vec())
    }
}

/// As whom a container's lines are in the log.
#[derive(Debug)]
struct Speaker {
    app: AppName,
    process: String,
    workflow: Option<WorkflowId>,
    redactor: Redactor,
}

/// One output on its way.
#[derive(Debug)]
struct Copy {
    output: Arc<Output>,
    id: LaunchId,
    container: String,
    speaker: Speaker,
    /// An earlier engine may have copied some of it.
    adopted: bool,
    /// Everything that was printed before this is in the log.
    from: DateTime<Utc>,
    /// How many lines of each time since then the log has.
    had: BTreeMap<DateTime<Utc>, u32>,
    /// What was noted of how far it is read.
    noted: Option<DateTime<Utc>>,
}

impl Copy {
    async fn run(mut self) {
        if self.adopted
            && let Err(e) = self.learn().await
        {
            tracing::warn!(error = %e, launch.id = %self.id, "lines of the last seconds may be doubled in a log");
        }
        loop {
            let ended = self.has_ended();
            match self.read(!ended).await {
                // Read once more after its end, since the end of a stream may overtake the last lines.
                Ok(()) if ended => break,
                Ok(()) => self.told_of_end().await,
                Err(e) if e.code() == ErrorCode::NotFound => break,
                Err(e) => {
                    tracing::debug!(error = %e, launch.id = %self.id, "an output is read again");
                    sleep(REST).await;
                }
            }
        }
        self.note().await;
    }

    fn has_ended(&self) -> bool {
        self.output.census.get(self.id).is_none_or(|row| row.state() >= State::Ended)
    }

    /// The output closes a moment before the end is told; or Docker closed it for no reason of the container's.
    async fn told_of_end(&self) {
        if timeout(REST, self.output.census.ended(self.id)).await.is_err() {
            tracing::debug!(launch.id = %self.id, "an output was closed, and its container goes on");
        }
    }

    /// What the log has already of the time from which it is read again.
    async fn learn(&mut self) -> Result<()> {
        let Speaker { app, process, workflow, .. } = &self.speaker;
        let query = LogQuery::all().process(process.clone());
        let mut lines = self.output.logs.read(app, query).await?;
        while let Some(line) = lines.next().await {
            if line.source == LogSource::App && line.at >= self.from && line.workflow == *workflow {
                *self.had.entry(line.at).or_default() += 1;
            }
        }
        Ok(())
    }

    /// Reads from a little before where it is, to the end of what there is or of the container.
    async fn read(&mut self, follow: bool) -> Result<()> {
        let options = LogsOptions {
            follow,
            stdout: true,
            stderr: true,
            timestamps: true,
            since: i32::try_from(self.from.timestamp()).unwrap_or(i32::MAX),
            ..LogsOptions::default()
        };
        let client = self.output.docker.patient(SILENCE);
        let mut pieces = Box::pin(client.logs(&self.container, Some(options)));
        let mut lines = [Line::default(), Line::default()];
        let mut again = Again::of(&self.had);
        let mut tick = interval(NOTED);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let piece = tokio::select! {
                biased;
                piece = pieces.next() => piece,
                _ = tick.tick() => {
                    self.note().await;
                    continue;
                }
            };
            let Some(piece) = piece else { break };
            let piece = piece.map_err(|e| failed("can't read what a container prints", e))?;
            let line = &mut lines[usize::from(matches!(piece, LogOutput::StdErr { .. }))];
            line.add(&piece.into_bytes(), &self.speaker.redactor, |at, text| {
                if at >= self.from && !again.had(at) {
                    self.speaker.say(&*self.output.logs, at, text);
                    *self.had.entry(at).or_default() += 1;
                }
            });
            self.go_on(line.at);
        }
        // What it printed last may lack a line end; while it lives, the rest is still to come.
        for line in &mut lines {
            line.finish(|at, text| {
                if !follow && at >= self.from && !again.had(at) {
                    self.speaker.say(&*self.output.logs, at, text);
                }
            });
        }
        Ok(())
    }

    /// What is long past is not asked for again.
    fn go_on(&mut self, at: DateTime<Utc>) {
        let from = at - OVERLAP;
        if from > self.from {
            self.from = from;
            self.had = self.had.split_off(&from);
        }
    }

    async fn note(&mut self) {
        let read_to = self.from + OVERLAP;
        if self.had.is_empty() || self.noted == Some(read_to) {
            return;
        }
        let noted = self.output.notes.change(self.id, false, move |note| note.read_to = Some(read_to)).await;
        match noted {
            Ok(()) => self.noted = Some(read_to),
            // The next engine reads more of it again.
            Err(e) => {
                tracing::debug!(error = %e, launch.id = %self.id, "can't note how far an output was read");
            }
        }
    }
}

/// What is read again at the beginning of a read. The log has the beginning of an output, so from the first line on that
/// it lacks all are new, whatever their times.
struct Again(Option<BTreeMap<DateTime<Utc>, u32>>);

impl Again {
    fn of(had: &BTreeMap<DateTime<Utc>, u32>) -> Self {
        Self(Some(had.clone()))
    }

    fn had(&mut self, at: DateTime<Utc>) -> bool {
        let left = self.0.as_mut().and_then(|had| had.get_mut(&at)).filter(|left| **left > 0);
        match left {
            Some(left) => *left -= 1,
            None => self.0 = None,
        }
        self.0.is_some()
    }
}

/// A line of one stream that is still coming: Docker cuts long ones into pieces.
#[derive(Debug, Default)]
struct Line {
    at: DateTime<Utc>,
    bytes: Vec<u8>,
}

impl Line {
    /// Adds a piece, which begins with its time, and says what is complete.
    fn add(&mut self, piece: &[u8], redactor: &Redactor, mut say: impl FnMut(DateTime<Utc>, &[u8])) {
        let cut = piece.iter().position(|byte| *byte == b' ').unwrap_or(piece.len());
        let (time, rest) = piece.split_at(cut);
        let at = std::str::from_utf8(time).ok().and_then(|time| DateTime::parse_from_rfc3339(time).ok());
        let text = match at {
            Some(at) => {
                self.at = at.to_utc();
                rest.get(1..).unwrap_or_default()
            }
            None => piece,
        };
        self.bytes.extend_from_slice(text);
        if self.bytes.ends_with(b"\n") {
            self.finish(say);
        } else if self.bytes.len() >= LogLine::MAX_BYTES {
            // What may be the beginning of a secret waits for the rest of it.
            let rest = self.bytes.split_off(redactor.cut(&self.bytes));
            let part = std::mem::replace(&mut self.bytes, rest);
            if !part.is_empty() {
                say(self.at, &part);
            }
        }
    }

    fn finish(&mut self, mut say: impl FnMut(DateTime<Utc>, &[u8])) {
        if !self.bytes.is_empty() {
            say(self.at, &std::mem::take(&mut self.bytes));
        }
    }
}

impl Speaker {
    /// What a workflow's readers see is redacted; the app's own log is its own.
    fn say(&self, logs: &dyn Logs, at: DateTime<Utc>, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let text = text.trim_end_matches(['\n', '\r']);
        let redacted = self.workflow.map(|_| self.redactor.redact(text));
        let mut line =
            LogLine::new(at, LogSource::App, self.process.clone(), redacted.as_deref().unwrap_or(text));
        line.workflow = self.workflow;
        logs.append(&self.app, line);
    }
}

#[cfg(test)]
mod tests;
