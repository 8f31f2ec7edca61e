//! An app's log: one ordered stream of lines from builds, releases, the router and its instances.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{AppName, Clock, Redactor, Result, WorkflowId};

/// Who speaks: Heroku's two sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogSource {
    /// The app's own processes, and what its build and release phase print.
    App,
    /// The platform: router, state changes, releases.
    Platform,
}

impl fmt::Display for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::App => "app",
            Self::Platform => "paas",
        })
    }
}

/// One line. Display is `2026-01-02T03:04:05.678901+00:00 app[web.1]: text`, as `heroku logs` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogLine {
    /// When it was printed.
    pub at: DateTime<Utc>,
    /// Who speaks.
    pub source: LogSource,
    /// Which process: `web.1`, `router`, `build`, `release`, `run.42`.
    pub process: String,
    /// The workflow during which it was printed, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowId>,
    /// The text without its line end; no control characters but tab and escape.
    pub text: String,
}

impl LogLine {
    /// A longer line is split (Heroku's limit), in bytes.
    pub const MAX_BYTES: usize = 10_000;

    /// A line.
    pub fn new(
        at: DateTime<Utc>,
        source: LogSource,
        process: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self { at, source, process: process.into(), workflow: None, text: text.into() }
    }

    /// A line printed during this workflow.
    #[must_use]
    pub fn during(mut self, workflow: WorkflowId) -> Self {
        self.workflow = Some(workflow);
        self
    }
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.to_rfc3339_opts(chrono::SecondsFormat::Micros, false);
        write!(f, "{at} {}[{}]: {}", self.source, self.process, self.text)
    }
}

/// Which lines to read.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LogQuery {
    /// At most this many of the lines that are there; all where `None`.
    pub last: Option<usize>,
    /// Go on with new lines as they come.
    pub follow: bool,
    /// Only lines of this source.
    pub source: Option<LogSource>,
    /// Only lines of this process, `web.1`, or of this type, `web`.
    pub process: Option<String>,
    /// Only lines of this workflow.
    pub workflow: Option<WorkflowId>,
}

impl LogQuery {
    /// Everything that is there.
    pub fn all() -> Self {
        Self::default()
    }

    /// Goes on with new lines as they come.
    #[must_use]
    pub fn follow(mut self) -> Self {
        self.follow = true;
        self
    }

    /// At most this many of the lines that are there.
    #[must_use]
    pub fn last(mut self, lines: usize) -> Self {
        self.last = Some(lines);
        self
    }

    /// Only lines of this process or type.
    #[must_use]
    pub fn process(mut self, process: impl Into<String>) -> Self {
        self.process = Some(process.into());
        self
    }

    /// Only lines of this workflow.
    #[must_use]
    pub fn workflow(mut self, workflow: WorkflowId) -> Self {
        self.workflow = Some(workflow);
        self
    }

    /// Whether this line is asked for.
    pub fn wants(&self, line: &LogLine) -> bool {
        let process = self.process.as_deref().is_none_or(|wanted| {
            line.process == wanted || line.process.split_once('.').is_some_and(|(kind, _)| kind == wanted)
        });
        process
            && self.source.is_none_or(|source| source == line.source)
            && self.workflow.is_none_or(|workflow| line.workflow == Some(workflow))
    }
}

/// Keeps the logs of apps.
#[async_trait]
pub trait Logs: fmt::Debug + Send + Sync + 'static {
    /// Adds a line.
    ///
    /// # Behavior
    /// - Lines of one caller keep their order; lines of all callers are in one order, which every reader sees.
    /// - Never blocks for long and never fails the caller: what can't be kept is counted, and the count is
    ///   told in the stream by a line of the platform.
    fn append(&self, app: &AppName, line: LogLine);

    /// Reads lines.
    ///
    /// # Behavior
    /// - Yields what is there in order, then, where asked to follow, each new line soon after it was added,
    ///   also when another process added it.
    /// - A reader that is too slow for the size bound gets a line that tells how much it missed.
    ///
    /// # Errors
    /// When the logs can't be read.
    async fn read(&self, app: &AppName, query: LogQuery) -> Result<BoxStream<'static, LogLine>>;

    /// Forgets the app's lines. Forgetting what isn't there is no error.
    ///
    /// # Errors
    /// When the logs can't be written.
    async fn forget(&self, app: &AppName) -> Result<()>;
}

/// Writes lines of one process of one app: what a step or a runtime is given to speak.
#[derive(Debug, Clone)]
pub struct LogWriter {
    logs: Arc<dyn Logs>,
    clock: Arc<dyn Clock>,
    app: AppName,
    source: LogSource,
    process: String,
    workflow: Option<WorkflowId>,
    redactor: Redactor,
}

impl LogWriter {
    /// A writer for this process of this app.
    pub fn new(
        logs: Arc<dyn Logs>,
        clock: Arc<dyn Clock>,
        app: AppName,
        source: LogSource,
        process: impl Into<String>,
    ) -> Self {
        let redactor = Redactor::new();
        Self { logs, clock, app, source, process: process.into(), workflow: None, redactor }
    }

    /// The same writer speaking as another process.
    #[must_use]
    pub fn speaking_as(&self, source: LogSource, process: impl Into<String>) -> Self {
        Self { source, process: process.into(), ..self.clone() }
    }

    /// The same writer during this workflow.
    #[must_use]
    pub fn during(&self, workflow: WorkflowId) -> Self {
        Self { workflow: Some(workflow), ..self.clone() }
    }

    /// The same writer, which takes out these secrets.
    #[must_use]
    pub fn redacting(&self, redactor: Redactor) -> Self {
        Self { redactor, ..self.clone() }
    }

    /// What it takes out.
    pub fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// What is shown of one line: no secrets, no control characters.
    pub fn shown(&self, line: &str) -> String {
        // Once more after cleaning: a character that nobody sees may be all that hid a secret.
        self.redactor.redact(&clean(&self.redactor.redact(line)))
    }

    /// Writes text, a line for each of its lines, each redacted and split at [`LogLine::MAX_BYTES`].
    pub fn line(&self, text: impl AsRef<str>) {
        let redacted = self.redactor.redact(text.as_ref());
        for part in redacted.split('\n') {
            let mut rest: &str = &self.shown(part);
            loop {
                let mut cut = rest.len().min(LogLine::MAX_BYTES);
                while !rest.is_char_boundary(cut) {
                    cut -= 1;
                }
                let (head, tail) = rest.split_at(cut);
                let mut line = LogLine::new(self.clock.now(), self.source, self.process.clone(), head);
                line.workflow = self.workflow;
                self.logs.append(&self.app, line);
                if tail.is_empty() {
                    break;
                }
                rest = tail;
            }
        }
    }
}

/// Without control characters, which could forge lines or move a reader's cursor; colours may stay.
fn clean(text: &str) -> String {
    text.trim_end_matches('\r').chars().filter(|c| !c.is_control() || matches!(c, '\t' | '\u{1b}')).collect()
}
