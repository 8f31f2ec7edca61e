//! How an app stands, in words: what is under way and what each of it waits for, or that nothing is.

mod words;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    AppName, Failure, Freeze, KindName, OwnerId, Principal, ProcessType, StepName, Subject, Version,
    WorkflowId, WorkflowState,
};

/// How an app stands: what [`Engine::explain`](crate::Engine::explain) found. Display tells it to people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Explanation {
    /// The app.
    pub app: AppName,
    /// When it was looked at.
    pub at: DateTime<Utc>,
    /// What users see; `None` before the first release is live.
    pub live: Option<LiveRelease>,
    /// How many of each process type are up.
    pub processes: Vec<ProcessCount>,
    /// Config or add-ons changed since the live release took them.
    pub ahead: bool,
    /// Users see the maintenance page.
    pub maintenance: bool,
    /// It can't be kept as it should be, as far as the engine that was asked knows.
    #[serde(default)]
    pub neglect: Option<Neglect>,
    /// Nothing new goes live.
    pub freeze: Option<Freeze>,
    /// What came of its last deploy that has ended, where that is still known.
    pub last_deploy: Option<LastDeploy>,
    /// What is under way, of the app and then of each of its add-ons, the first in line first.
    pub open: Vec<OpenWorkflow>,
}

/// The release that users see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LiveRelease {
    /// Its number.
    pub version: Version,
    /// Why it was made.
    pub description: String,
    /// Since when users see it.
    pub since: DateTime<Utc>,
}

/// How many of a process type are up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessCount {
    /// The type.
    pub process: ProcessType,
    /// How many of the live release are up.
    pub up: u32,
    /// How many should be.
    pub wanted: u32,
    /// Why one isn't, where the runtime knows.
    pub reason: Option<String>,
}

/// Since when an app can't be looked after: its processes may be down, or its routes lead astray, and nobody mends that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Neglect {
    /// When that was seen first.
    pub since: DateTime<Utc>,
    /// How often it was tried since.
    pub times: u32,
    /// Why it failed the last time.
    pub last: Failure,
}

/// What came of the last deploy that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastDeploy {
    /// Which.
    pub workflow: WorkflowId,
    /// How it ended.
    pub state: WorkflowState,
    /// When.
    pub at: DateTime<Utc>,
    /// Why it failed.
    pub failure: Option<Failure>,
}

/// A workflow that has not ended, and what it waits for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpenWorkflow {
    /// Its id, which the actions that free it take.
    pub id: WorkflowId,
    /// What kind it is.
    pub kind: KindName,
    /// The app, or one of its add-ons.
    pub subject: Subject,
    /// How it stands.
    pub state: WorkflowState,
    /// Who asked for it.
    pub by: Principal,
    /// When.
    pub asked_at: DateTime<Utc>,
    /// The step that it is at.
    pub step: Option<StepName>,
    /// What it waits for.
    pub waits_for: WaitsFor,
    /// Since when.
    pub since: DateTime<Utc>,
    /// How often that step was tried, or its undo where that is under way.
    pub attempts: u32,
    /// Why it failed the last time.
    pub failure: Option<Failure>,
    /// It fails for good, where it can neither be undone nor left out: only a person can help.
    pub stuck: bool,
    /// How many engines died in the middle of this step.
    pub takeovers: u32,
    /// It waits, and would be refused when its turn comes.
    pub freeze: Option<Freeze>,
    /// What frees it.
    pub remedies: Vec<Remedy>,
}

/// What a workflow waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitsFor {
    /// Others of its app or add-on, which go first.
    Turn(Vec<Ahead>),
    /// A client that keeps its subject's turn, such as a push whose branch git has yet to move.
    Client,
    /// The next engine that is free: it is due.
    Engine,
    /// The step that an engine works on.
    Step {
        /// The engine.
        engine: OwnerId,
        /// Whether it is the one that was asked.
        here: bool,
        /// Until when its lease lasts without a sign of life.
        until: DateTime<Utc>,
    },
    /// Another engine, since the one that worked on it gave no sign of life.
    Takeover {
        /// The engine that did.
        engine: OwnerId,
    },
    /// The next attempt, after one that failed.
    Attempt {
        /// When that is.
        at: DateTime<Utc>,
    },
    /// Something that it looks at now and then.
    Look {
        /// When it looks the next time.
        at: DateTime<Utc>,
        /// For what, in words.
        why: String,
    },
    /// Somebody's answer.
    Answer {
        /// For what, in words.
        why: String,
    },
    /// A program that knows its kind.
    Program {
        /// The kind's version.
        version: u32,
    },
}

/// A workflow that goes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ahead {
    /// Which.
    pub id: WorkflowId,
    /// What kind it is.
    pub kind: KindName,
    /// How it stands.
    pub state: WorkflowState,
}

/// What a person can do for a workflow, each a method of [`Engine`](crate::Engine).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Remedy {
    /// [`Engine::retry`](crate::Engine::retry)
    Retry,
    /// [`Engine::signal`](crate::Engine::signal)
    Signal,
    /// [`Engine::cancel`](crate::Engine::cancel)
    Cancel,
    /// [`Engine::abandon`](crate::Engine::abandon)
    Abandon,
}

#[cfg(test)]
mod tests;
