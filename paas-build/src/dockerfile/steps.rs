//! What the daemon tells of a build's steps, for people: a heading for each step, and what it prints below it.
//!
//! ```text
//! -----> [2/4] COPY package.json . (cached)
//! -----> [3/4] RUN npm ci
//!        added 57 packages in 2s
//! ```

use std::collections::{HashMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use paas_core::{Error, ErrorCode, LogWriter, Retry};
use serde::Deserialize;
use serde_json::Value as Json;

use super::wire::{Value, fields};

/// Lines of output that an error carries.
const TAIL: usize = 20;
/// A longer line is shown in parts, in bytes.
const LINE: usize = 32 * 1024;

/// A line of the daemon's answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    id: Option<String>,
    /// BuildKit's progress as text, or the image's id.
    aux: Json,
    /// What the classic builder prints.
    stream: Option<String>,
    error: Option<String>,
}

/// One build as it goes on.
#[derive(Debug)]
pub(super) struct Steps {
    log: LogWriter,
    known: HashMap<String, Step>,
    /// Steps that have begun and may yet turn out to be cached: they are headed a moment later.
    begun: Vec<String>,
    /// The beginnings of lines whose ends are still to come, by step.
    unended: HashMap<String, Vec<u8>>,
    /// Whose output was shown last: another step's is headed again.
    speaking: Option<String>,
    tail: VecDeque<String>,
    failed: Option<Failed>,
    image: Option<String>,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    cached: bool,
    shown: bool,
}

#[derive(Debug)]
struct Failed {
    step: Option<String>,
    why: String,
}

/// The classic builder has no name for its one step at a time.
const ONLY: &str = "";

impl Steps {
    pub(super) fn new(log: LogWriter) -> Self {
        Self {
            log,
            known: HashMap::new(),
            begun: Vec::new(),
            unended: HashMap::new(),
            speaking: None,
            tail: VecDeque::new(),
            failed: None,
            image: None,
        }
    }

    /// Takes a line of the daemon's answer.
    pub(super) fn take(&mut self, line: &[u8]) {
        let begun = std::mem::take(&mut self.begun);
        self.tell(line);
        for id in begun {
            self.head(&id);
        }
    }

    /// Nothing came for a moment: what has begun is at work.
    pub(super) fn idle(&mut self) {
        for id in std::mem::take(&mut self.begun) {
            self.head(&id);
        }
    }

    fn tell(&mut self, line: &[u8]) {
        let Ok(told) = serde_json::from_slice::<Told>(line) else { return };
        match (told.id.as_deref(), &told.aux) {
            (Some("moby.buildkit.trace"), Json::String(progress)) => {
                self.progress(&STANDARD.decode(progress).unwrap_or_default());
            }
            (_, Json::Object(facts)) => {
                if let Some(id) = facts.get("ID").and_then(Json::as_str) {
                    self.image = Some(id.to_owned());
                }
            }
            _ => {}
        }
        if let Some(text) = told.stream {
            self.classic(&text);
        }
        if let Some(why) = told.error {
            let step = self.known.get(ONLY).map(|step| step.name.clone());
            self.failed.get_or_insert(Failed { step, why });
        }
    }

    /// The image's id, or why there is none.
    pub(super) fn done(mut self) -> Result<String, Error> {
        self.rest();
        match (self.failed, self.image) {
            (None, Some(image)) => Ok(image),
            (Some(failed), _) => Err(failed.error().with_output(self.tail.into())),
            (None, None) => {
                let text = "Docker ended the build without an image and without a reason; it is tried again";
                let error = Error::new(ErrorCode::Unavailable, text).with_retry(Retry::Backoff);
                Err(error.with_output(self.tail.into()))
            }
        }
    }

    /// The last lines so far.
    pub(super) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    /// BuildKit's `StatusResponse`: steps, their states (left out: counters) and what they print.
    fn progress(&mut self, status: &[u8]) {
        for (field, part) in fields(status) {
            match field {
                1 => self.step(part.bytes()),
                3 => self.output(part.bytes()),
                _ => {}
            }
        }
    }

    fn step(&mut self, vertex: &[u8]) {
        let (mut id, mut name, mut why) = (String::new(), String::new(), String::new());
        let (mut cached, mut started, mut completed) = (false, false, false);
        for (field, value) in fields(vertex) {
            match (field, value) {
                (1, id_) => id = id_.text(),
                (3, name_) => name = name_.text(),
                (4, Value::Number(flag)) => cached = flag != 0,
                (5, _) => started = true,
                (6, _) => completed = true,
                (7, why_) => why = why_.text(),
                _ => {}
            }
        }
        let step = self.known.entry(id.clone()).or_default();
        step.name.clone_from(&name);
        step.cached |= cached;
        if cached || completed {
            self.head(&id);
        } else if started {
            self.begun.push(id);
        }
        // Steps that are stopped for another's sake fail, too.
        if !why.is_empty() && !why.contains("context canceled") && self.failed.is_none() {
            self.rest();
            self.failed = Some(Failed { step: is_the_apps(&name).then_some(name), why });
        }
    }

    /// Heads a step, once.
    fn head(&mut self, id: &str) {
        if let Some(step) = self.known.get_mut(id).filter(|step| !step.shown && is_the_apps(&step.name)) {
            step.shown = true;
            self.speaking = None;
            self.log.line(format!("-----> {}{}", step.name, if step.cached { " (cached)" } else { "" }));
        }
    }

    fn output(&mut self, log: &[u8]) {
        let (mut id, mut text) = (String::new(), &[][..]);
        for (field, value) in fields(log) {
            match field {
                1 => id = value.text(),
                4 => text = value.bytes(),
                _ => {}
            }
        }
        self.head(&id);
        self.print(&id, text);
    }

    /// Shows a step's output line by line.
    fn print(&mut self, id: &str, text: &[u8]) {
        let mut line = self.unended.remove(id).unwrap_or_default();
        let mut parts = text.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            line.extend_from_slice(part);
            if parts.peek().is_some() {
                self.show(id, &std::mem::take(&mut line));
            }
            while line.len() > LINE {
                // Not in the middle of a secret.
                let cut = self.log.redactor().cut(&line[..LINE]);
                let rest = line.split_off(if cut == 0 { LINE } else { cut });
                self.show(id, &std::mem::replace(&mut line, rest));
            }
        }
        if !line.is_empty() {
            self.unended.insert(id.to_owned(), line);
        }
    }

    /// Shows the lines that never ended.
    fn rest(&mut self) {
        for (id, line) in std::mem::take(&mut self.unended) {
            self.show(&id, &line);
        }
    }

    /// Of a line that was drawn over again and again, such as a progress bar, the last state is shown.
    fn show(&mut self, id: &str, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        let text = text.rsplit('\r').next().unwrap_or(text);
        if self.speaking.as_deref() != Some(id) {
            let another = self.speaking.is_some();
            self.speaking = Some(id.to_owned());
            if let Some(step) = self.known.get(id).filter(|step| another && step.shown) {
                self.log.line(format!("-----> {}, going on", step.name));
            }
        }
        self.log.line(format!("       {text}"));
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(self.log.shown(text));
    }

    /// The classic builder's output: `Step 1/3 : RUN x`, ` ---> Using cache`, ` ---> 0123456789ab`, and what steps print.
    fn classic(&mut self, text: &str) {
        let line = text.trim_end();
        if line.contains(" : LABEL paas.") || line.starts_with("Successfully ") {
            // Ours.
        } else if let Some(step) = line.strip_prefix("Step ") {
            let name = format!("[{}", step.replacen(" : ", "] ", 1));
            self.log.line(format!("-----> {name}"));
            self.known.insert(ONLY.to_owned(), Step { name, cached: false, shown: true });
        } else if line == " ---> Using cache" {
            self.log.line("       (cached)");
        } else if !(line.is_empty()
            || line.starts_with(" ---> ")
            || line.starts_with("Removing intermediate"))
        {
            self.print(ONLY, text.as_bytes());
        }
    }
}

/// Whether a step stands in the app's `Dockerfile`, and is none of BuildKit's own: `[2/4] RUN …`, `[web 1/2] FROM …`.
fn is_the_apps(name: &str) -> bool {
    name.starts_with('[') && !name.starts_with("[internal]")
}

impl Failed {
    /// In words that say which step it was and how it ended.
    fn error(self) -> Error {
        let Self { step, why } = self;
        let why = why.trim();
        let full = why.contains("no space left on device");
        if full {
            return Error::new(
                ErrorCode::DiskFull,
                format!("the build failed, and Docker's disk is full: {why}"),
            );
        }
        // `executor failed running [/bin/sh -c …]: exit code: 1`, `process "…" did not complete successfully: exit code: 1`,
        // and the classic builder's `The command '…' returned a non-zero code: 1`.
        let code = why.rsplit_once("exit code: ").or_else(|| why.rsplit_once("a non-zero code: "));
        let code = code.map(|(_, code)| code.trim());
        if let (Some(step), Some(code)) = (&step, code) {
            let hint = if code == "137" { "; it was killed, perhaps for want of memory" } else { "" };
            return Error::new(ErrorCode::BuildFailed, format!("{step} ended with {code}{hint}"));
        }
        let unreachable = ["i/o timeout", "no such host", "connection refused", "TLS handshake timeout"];
        let why = why.trim_start_matches("failed to solve with frontend dockerfile.v0: ");
        let why = why
            .trim_start_matches("failed to create LLB definition: ")
            .trim_start_matches("failed to solve: ");
        let text =
            step.map_or_else(|| format!("Docker can't build it: {why}"), |step| format!("{step}: {why}"));
        if unreachable.iter().any(|sign| why.contains(sign)) {
            return Error::new(ErrorCode::Unavailable, text).with_retry(Retry::Backoff);
        }
        Error::new(ErrorCode::BuildFailed, text)
    }
}

#[cfg(test)]
mod tests;
