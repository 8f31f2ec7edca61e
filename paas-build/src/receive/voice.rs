//! What the pusher reads, in Heroku's style. git puts `remote: ` in front of each line.

use std::collections::VecDeque;

use paas_core::{AppName, Error, ErrorCode, StepName};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;

use super::hook;

/// Speaks to one pusher, through the hook's standard output.
#[derive(Debug)]
pub(crate) struct Voice {
    hook: OwnedWriteHalf,
    /// The last lines that were said, so that none is said twice.
    said: VecDeque<String>,
    /// What the build recognised: `Node.js`.
    language: Option<String>,
}

/// At least as many as an error's output has.
const REMEMBERED: usize = 100;

impl Voice {
    pub(crate) fn new(hook: OwnedWriteHalf) -> Self {
        Self { hook, said: VecDeque::new(), language: None }
    }

    pub(crate) async fn line(&mut self, text: &str) {
        let recognised = text.strip_prefix("-----> ").and_then(|rest| rest.strip_suffix(" app detected"));
        if let Some(language) = recognised {
            self.language = Some(language.to_owned());
        }
        if self.said.len() == REMEMBERED {
            self.said.pop_front();
        }
        self.said.push_back(text.trim().to_owned());
        let mut line: Vec<u8> = text.bytes().filter(|byte| *byte != hook::END).collect();
        line.push(b'\n');
        // A hook that is gone was ended with git, which the push learns of by itself.
        let _ = self.hook.write_all(&line).await;
    }

    /// ` !     ` in front of each line.
    pub(crate) async fn complain(&mut self, text: &str) {
        for line in text.lines() {
            self.line(&format!(" !     {line}")).await;
        }
    }

    /// Why nothing goes live: what was refused, the cause, the failing process's last words.
    pub(crate) async fn reject(&mut self, app: &AppName, step: Option<&StepName>, error: &Error) {
        let language = self.language.as_deref().map_or_else(String::new, |language| format!(" {language}"));
        let headline = match (error.code(), step.map(StepName::as_str)) {
            (ErrorCode::NotDetected, _) => {
                "Push rejected, no language could be detected for this app".to_owned()
            }
            (ErrorCode::Cancelled, _) => "Push cancelled".to_owned(),
            (ErrorCode::Frozen, _) => "Push rejected, deploys are frozen".to_owned(),
            (_, Some("build")) => format!("Push rejected, failed to compile{language} app"),
            (_, Some("release_phase")) => "Push rejected, the release phase failed".to_owned(),
            (_, Some("start" | "await_healthy")) => "Push rejected, the new release doesn't run".to_owned(),
            (_, Some("provision")) => "Push rejected, an add-on could not be had".to_owned(),
            _ => "Push rejected".to_owned(),
        };
        let output: Vec<&String> =
            error.output().iter().filter(|line| !self.said.iter().any(|said| said == line.trim())).collect();
        let output: Vec<String> = output.into_iter().cloned().collect();
        self.complain(&format!("{headline}:\n{error}")).await;
        if !output.is_empty() {
            self.complain("Its last lines were:").await;
            for line in output {
                self.line(&format!("       {line}")).await;
            }
        }
        tracing::info!(app.name = %app, error.code = %error.code(), "a push was rejected");
    }

    /// Tells the hook to end.
    pub(crate) async fn end(mut self, accepted: bool) {
        // As above.
        let _ = self.hook.write_all(&[hook::END, u8::from(!accepted)]).await;
    }
}
