//! A workflow: a unit of work that survives whoever does it.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::vault::Sealed;
use crate::{AddonId, AppName, ConfigKey, Failure, KindName, Principal, StepName, TurnId, WorkflowId};

/// Whose turn a workflow needs: of all workflows of a subject one runs at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Subject {
    /// An app.
    App(AppName),
    /// An add-on, whose life never holds its app up.
    Addon(AddonId),
    /// The platform itself.
    Platform,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(name) => write!(f, "app/{name}"),
            Self::Addon(id) => write!(f, "addon/{id}"),
            Self::Platform => f.write_str("platform"),
        }
    }
}

/// How a workflow stands.
///
/// | from \ event | claimed | fault | yield | rewound | signal | succeeded | undone | dropped | given up |
/// |---|---|---|---|---|---|---|---|---|---|
/// | queued | running | | | | | | | its outcome | abandoned |
/// | running | running | undoing | rewinding | parked | | succeeded | | | abandoned |
/// | undoing | undoing | undoing | | | | | its outcome | | abandoned |
/// | rewinding | rewinding | undoing | | parked | | | | | abandoned |
/// | parked | | | | | queued | | | its outcome | abandoned |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkflowState {
    /// It waits for its turn.
    Queued,
    /// Its steps are carried out.
    Running,
    /// What it started is taken back.
    Undoing,
    /// What would stand in others' way is taken back, so that it can wait.
    Rewinding,
    /// It waits for somebody outside; others may go first.
    Parked,
    /// It did what it should.
    Succeeded,
    /// It could not; everything it started is undone.
    Failed,
    /// Somebody stopped it; everything it started is undone.
    Cancelled,
    /// A newer one took its place before it began.
    Superseded,
    /// It could not go on, and somebody gave it up; [`Workflow::abandoned`] names what is left.
    Abandoned,
}

/// What can happen to a workflow's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transition {
    /// An engine took it.
    Claimed,
    /// A step failed for good, or somebody cancelled.
    Fault,
    /// A step waits for somebody outside.
    Yield,
    /// What stood in others' way is taken back.
    Rewound,
    /// Somebody outside answered.
    Signal,
    /// Its last step is done.
    Succeeded,
    /// Its last undo is done; it ends so.
    Undone(Ending),
    /// It ends without having begun.
    Dropped(Ending),
    /// Somebody gave it up, and all that can still be done is done.
    GivenUp,
}

/// How a workflow ends that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// It failed.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// A newer one took its place.
    Superseded,
}

/// A workflow in this state can't do that: a fault of the engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a workflow that is {from} can't be {by:?}")]
#[non_exhaustive]
pub struct IllegalTransition {
    /// The state it is in.
    pub from: WorkflowState,
    /// What should have happened.
    pub by: Transition,
}

impl WorkflowState {
    /// The state after this has happened.
    ///
    /// # Errors
    /// [`IllegalTransition`] for what the table leaves empty.
    pub fn apply(self, by: Transition) -> Result<Self, IllegalTransition> {
        use Transition as T;
        use WorkflowState as S;
        match (self, by) {
            (S::Queued | S::Running, T::Claimed) => Ok(S::Running),
            (S::Undoing, T::Claimed | T::Fault) | (S::Running | S::Rewinding, T::Fault) => Ok(S::Undoing),
            (S::Rewinding, T::Claimed) | (S::Running, T::Yield) => Ok(S::Rewinding),
            // Past the pivot nothing is taken back for a wait.
            (S::Running | S::Rewinding, T::Rewound) => Ok(S::Parked),
            (S::Queued | S::Running | S::Undoing | S::Rewinding | S::Parked, T::GivenUp) => Ok(S::Abandoned),
            (S::Parked, T::Signal) => Ok(S::Queued),
            (S::Running, T::Succeeded) => Ok(S::Succeeded),
            (S::Undoing, T::Undone(ending)) | (S::Queued | S::Parked, T::Dropped(ending)) => {
                Ok(match ending {
                    Ending::Failed => S::Failed,
                    Ending::Cancelled => S::Cancelled,
                    Ending::Superseded => S::Superseded,
                })
            }
            (
                S::Queued
                | S::Running
                | S::Undoing
                | S::Rewinding
                | S::Parked
                | S::Succeeded
                | S::Failed
                | S::Cancelled
                | S::Superseded
                | S::Abandoned,
                T::Claimed
                | T::Fault
                | T::Yield
                | T::Rewound
                | T::Signal
                | T::Succeeded
                | T::Undone(_)
                | T::Dropped(_)
                | T::GivenUp,
            ) => Err(IllegalTransition { from: self, by }),
        }
    }

    /// Whether nothing more happens.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Superseded | Self::Abandoned)
    }
}

impl fmt::Display for WorkflowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Undoing => "undoing",
            Self::Rewinding => "rewinding",
            Self::Parked => "parked",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
            Self::Abandoned => "abandoned",
        })
    }
}

/// A workflow as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Workflow {
    /// Its id.
    pub id: WorkflowId,
    /// What kind it is.
    pub kind: KindName,
    /// The kind's version: who doesn't know it leaves it alone.
    pub kind_version: u32,
    /// Whose turn it needs.
    pub subject: Subject,
    /// How it stands.
    pub state: WorkflowState,
    /// What it was asked to do. Everybody who may see the app may see this.
    pub input: Value,
    /// Who asked.
    pub by: Principal,
    /// When.
    pub created_at: DateTime<Utc>,
    /// Its steps in order.
    pub steps: Vec<StepRecord>,
    /// Why it failed.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// Somebody wants it to stop.
    #[serde(default)]
    pub cancel: Option<CancelRequest>,
    /// Somebody gave it up.
    #[serde(default)]
    pub abandoned: Option<Abandonment>,
    /// How often an engine took it without finishing a step since.
    #[serde(default)]
    pub takeovers: u32,
    /// Not before this time: a step is tried again then.
    #[serde(default)]
    pub not_before: Option<DateTime<Utc>>,
    /// Why the engine that took it last gave it back without touching it: only another one can go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Who holds its subject's turn beyond its end.
    #[serde(default)]
    pub turn: Option<TurnId>,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<DateTime<Utc>>,
}

/// Somebody wants a workflow to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CancelRequest {
    /// Who.
    pub by: Principal,
    /// When.
    pub at: DateTime<Utc>,
    /// Why, in words.
    pub why: String,
}

/// Somebody gave a workflow up that can't go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Abandonment {
    /// Who.
    pub by: Principal,
    /// When.
    pub at: DateTime<Utc>,
    /// Why, in words.
    pub why: String,
    /// What could not be undone, or was not done any more. Complete once the workflow has ended.
    #[serde(default)]
    pub left: Vec<Leftover>,
}

/// A step that a workflow that was given up has left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Leftover {
    /// The step.
    pub step: StepName,
    /// What of it is missing.
    pub missing: Missing,
    /// Why it could not be done or undone; `None` where that was not tried.
    pub failure: Option<Failure>,
}

/// What is missing of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Missing {
    /// It, or the rest of it: users have the new state already, and this remained to be done.
    Doing,
    /// Its undo: what it made may still be there.
    Undoing,
}

/// `provision is not undone: there is no add-on service redis here`
impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = match self.missing {
            Missing::Doing => "done",
            Missing::Undoing => "undone",
        };
        write!(f, "{} is not {missing}", self.step)?;
        self.failure.as_ref().map_or(Ok(()), |failure| write!(f, ": {failure}"))
    }
}

/// One step of a workflow as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepRecord {
    /// Its name.
    pub name: StepName,
    /// How it stands.
    pub state: StepState,
    /// How often it was tried.
    #[serde(default)]
    pub attempt: u32,
    /// How often its undo was tried.
    #[serde(default)]
    pub undo_attempt: u32,
    /// When it was first tried.
    #[serde(default)]
    pub started_at: Option<DateTime<Utc>>,
    /// When it was done.
    #[serde(default)]
    pub finished_at: Option<DateTime<Utc>>,
    /// What it gave. Everybody who may see the app may see this.
    #[serde(default)]
    pub output: Value,
    /// What it gave that nobody may see.
    #[serde(default)]
    pub(crate) sealed: Option<BTreeMap<ConfigKey, Sealed>>,
    /// Whether it can be undone; it is remembered for engines that don't have the step.
    #[serde(default)]
    pub(crate) undo: bool,
    /// What it was told while parked.
    #[serde(default)]
    pub signal: Option<Value>,
    /// Why it failed last.
    #[serde(default)]
    pub failure: Option<Failure>,
}

impl StepRecord {
    pub(crate) fn new(name: StepName, undo: bool) -> Self {
        Self {
            name,
            undo,
            state: StepState::Pending,
            attempt: 0,
            undo_attempt: 0,
            started_at: None,
            finished_at: None,
            output: Value::Null,
            sealed: None,
            signal: None,
            failure: None,
        }
    }
}

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepState {
    /// Nothing happened yet.
    Pending,
    /// It was begun: it may have happened.
    Started,
    /// It failed this time, and will be tried again: it may have happened in part.
    Retrying,
    /// It waits for somebody outside.
    Waiting,
    /// It is done.
    Done,
    /// There was nothing to do.
    Skipped,
    /// It failed for good; part of it may have happened.
    Failed,
    /// Its undo was begun.
    Undoing,
    /// It is undone, or there was nothing to undo.
    Undone,
    /// It is left as it is, since its workflow was given up.
    Left,
}

impl Workflow {
    /// The step of this name.
    pub fn step(&self, name: &str) -> Option<&StepRecord> {
        self.steps.iter().find(|step| step.name.as_str() == name)
    }

    /// What the step of this name gave, once it was done.
    pub fn output(&self, name: &str) -> Option<&Value> {
        self.step(name).filter(|step| step.finished_at.is_some()).map(|step| &step.output)
    }

    /// The app that it is about, where it is one.
    pub fn app(&self) -> Option<&AppName> {
        match &self.subject {
            Subject::App(app) => Some(app),
            Subject::Addon(_) | Subject::Platform => None,
        }
    }
}
