//! Workflow kinds: steps by name, each with its undo, and the pivot after which things only go forward.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::store::{NewEvent, Transaction, Write};
use crate::{ConfigVars, Context, Error, ErrorCode, EventKind, KindName, Result, StepName, Workflow};

/// A call of one step: what passes the waist, and what every layer around the steps sees.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StepCall {
    /// Key, attempt, fence, cancel token, deadline, clock and log.
    pub ctx: Context,
    /// The workflow as it is, its earlier steps' public outputs included.
    pub workflow: Arc<Workflow>,
    /// Which step.
    pub step: StepName,
    /// Forward or back.
    pub action: StepAction,
    /// Filled in behind the layers, which must not see it.
    pub(super) secrets: BTreeMap<StepName, ConfigVars>,
}

/// Forward or back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepAction {
    /// Do it.
    Run,
    /// Undo it.
    Undo,
}

impl StepCall {
    pub(super) fn new(ctx: Context, workflow: Arc<Workflow>, step: StepName, action: StepAction) -> Self {
        Self { ctx, workflow, step, action, secrets: BTreeMap::new() }
    }

    /// What an earlier step gave that nobody may see: empty for layers, and for steps that gave none.
    pub fn secret(&self, step: &str) -> ConfigVars {
        let found = self.secrets.iter().find(|(name, _)| name.as_str() == step);
        found.map(|(_, vars)| vars.clone()).unwrap_or_default()
    }

    /// What the workflow was asked to do.
    ///
    /// # Errors
    /// `corrupt` when it doesn't read as `T`.
    pub fn input<T: DeserializeOwned>(&self) -> Result<T> {
        read(&self.workflow.input, "the workflow's input")
    }

    /// What an earlier step gave; `None` when it was skipped or isn't done.
    ///
    /// # Errors
    /// `corrupt` when it doesn't read as `T`.
    pub fn output<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>> {
        self.workflow.output(step).map(|value| read(value, step)).transpose()
    }

    /// What this step was told while it waited, by [`Engine::signal`](crate::Engine::signal).
    pub fn signal(&self) -> Option<&Value> {
        self.workflow.step(self.step.as_str()).and_then(|step| step.signal.as_ref())
    }
}

fn read<T: DeserializeOwned>(value: &Value, what: &str) -> Result<T> {
    T::deserialize(value).map_err(|e| {
        Error::new(ErrorCode::Corrupt, format!("can't read {what} of the workflow")).with_source(e)
    })
}

/// What a step gave.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StepOutput {
    /// What happens next.
    pub flow: Flow,
    /// What everybody who may see the app may see; later steps read it.
    pub public: Value,
    /// What nobody may see; it is encrypted before it is stored.
    pub secret: ConfigVars,
}

/// What happens after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flow {
    /// The next step.
    Next,
    /// It waits for somebody outside; the text says for what. Others may go first meanwhile.
    Wait(String),
    /// It looks again after this long; the text says what it waits for. It keeps its turn.
    Again(Duration, String),
}

impl StepOutput {
    /// Done, with nothing to say.
    pub fn done() -> Self {
        Self { flow: Flow::Next, public: Value::Null, secret: ConfigVars::new() }
    }

    /// Done, with this for later steps and for everybody to see.
    ///
    /// # Errors
    /// `internal` when it can't be written as JSON.
    pub fn with(public: &impl Serialize) -> Result<Self> {
        let public = serde_json::to_value(public).map_err(|e| {
            Error::new(ErrorCode::Internal, "a step's output can't be written as JSON").with_source(e)
        })?;
        Ok(Self { public, ..Self::done() })
    }

    /// With this for nobody to see.
    #[must_use]
    pub fn with_secret(mut self, secret: ConfigVars) -> Self {
        self.secret = secret;
        self
    }

    /// Waits for somebody outside, who answers by [`Engine::signal`](crate::Engine::signal).
    pub fn wait(why: impl Into<String>) -> Self {
        Self { flow: Flow::Wait(why.into()), ..Self::done() }
    }

    /// Looks again after this long.
    pub fn again(after: Duration, why: impl Into<String>) -> Self {
        Self { flow: Flow::Again(after, why.into()), ..Self::done() }
    }
}

/// When rows of a step are written.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Moment<'a> {
    /// In the transaction that says that the step begins.
    Intent,
    /// In the transaction that says that the step is done, with its output.
    Done(&'a StepOutput),
    /// In the transaction that says that the step is undone.
    Undone,
    /// In the transaction that ends a workflow that was given up after its pivot, without this step.
    Left,
}

/// Rows and events that go into a step's own transaction.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Changes {
    /// The rows.
    pub writes: Vec<Write>,
    /// The events.
    pub events: Vec<EventKind>,
    /// Events of other workflows that these rows queue or end.
    pub(super) foreign: Vec<NewEvent>,
}

impl Changes {
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// What another transaction would do, as part of this one.
    pub(super) fn of(tx: Transaction) -> Self {
        Self { writes: tx.writes, events: Vec::new(), foreign: tx.events }
    }

    /// With this row.
    #[must_use]
    pub fn write(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    /// With this event.
    #[must_use]
    pub fn event(mut self, event: EventKind) -> Self {
        self.events.push(event);
        self
    }
}

/// What is done at one step.
#[async_trait]
pub trait Step: fmt::Debug + Send + Sync + 'static {
    /// Whether there is anything to do; a step that isn't needed is skipped without a trace on disk.
    fn is_needed(&self, call: &StepCall) -> bool {
        let _ = call;
        true
    }

    /// Does it.
    ///
    /// # Behavior
    /// - May be called again with the same key, after a crash in any moment: it ensures, it doesn't create.
    /// - Stops soon after `call.ctx.cancel`.
    ///
    /// # Errors
    /// Before the pivot, an error whose class is [`Retry::Never`](crate::Retry::Never) fails the workflow at once, any other one
    /// after the step's retries. After the pivot every error is retried.
    async fn run(&self, call: &StepCall) -> Result<StepOutput>;

    /// Whether [`Step::undo`] does anything.
    fn has_undo(&self) -> bool {
        false
    }

    /// Takes back what [`Step::run`] did, or may have done: it may have been cut off anywhere, and undo may be called again.
    ///
    /// # Errors
    /// Every error is retried.
    async fn undo(&self, call: &StepCall) -> Result<()> {
        let _ = call;
        Ok(())
    }

    /// Rows that are written in the step's own transactions. Called again when somebody else changed one of
    /// them meanwhile, so it reads them anew.
    ///
    /// # Errors
    /// As [`Step::run`].
    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let _ = (call, moment);
        Ok(Changes::none())
    }
}

/// One step of a kind.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StepDef {
    /// Its name: data, stored with every workflow.
    pub name: StepName,
    /// What is done.
    pub step: Arc<dyn Step>,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How often it is tried again before the pivot, for errors that may pass.
    pub retries: u32,
}

impl StepDef {
    /// A step that may take an hour, and is tried again five times.
    pub fn new(name: StepName, step: Arc<dyn Step>) -> Self {
        Self { name, step, timeout: Duration::from_secs(3600), retries: 5 }
    }

    /// Which may take this long.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Which is tried again this often.
    #[must_use]
    pub fn with_retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }
}

/// A kind of workflow: data, registered by us, by any crate, by the embedder.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WorkflowKind {
    /// Its name.
    pub name: KindName,
    /// Changes when its steps do; an engine claims only versions that it knows.
    pub version: u32,
    /// Its steps in order.
    pub steps: Vec<StepDef>,
    /// From the beginning of this step, things only go forward.
    pub pivot: Option<StepName>,
    /// After a wait, things begin again with this step; what it and later ones did is undone before the wait.
    pub restart: Option<StepName>,
    /// It makes something new go live: a freeze refuses it.
    pub makes_releases: bool,
}

impl WorkflowKind {
    /// A kind without steps.
    pub fn new(name: KindName, version: u32) -> Self {
        Self { name, version, steps: Vec::new(), pivot: None, restart: None, makes_releases: false }
    }

    /// With this step at the end.
    #[must_use]
    pub fn step(mut self, def: StepDef) -> Self {
        self.steps.push(def);
        self
    }

    /// From the beginning of this step, things only go forward.
    #[must_use]
    pub fn pivot(mut self, step: StepName) -> Self {
        self.pivot = Some(step);
        self
    }

    /// After a wait, things begin again with this step.
    #[must_use]
    pub fn restart(mut self, step: StepName) -> Self {
        self.restart = Some(step);
        self
    }

    /// It makes something new go live: a freeze refuses it.
    #[must_use]
    pub fn making_releases(mut self) -> Self {
        self.makes_releases = true;
        self
    }

    /// The step of this name.
    pub fn get(&self, name: &StepName) -> Option<&StepDef> {
        self.steps.iter().find(|def| def.name == *name)
    }

    /// Puts a step after the one named `anchor`.
    ///
    /// # Errors
    /// `not_found` for the anchor, `exists` for a second step of the same name.
    pub fn insert_after(&mut self, anchor: &StepName, def: StepDef) -> Result<()> {
        if self.get(&def.name).is_some() {
            let what = format!("the workflow {} has a step {} already", self.name, def.name);
            return Err(Error::new(ErrorCode::Exists, what));
        }
        let Some(index) = self.steps.iter().position(|d| d.name == *anchor) else {
            let names: Vec<_> = self.steps.iter().map(|d| d.name.as_str()).collect();
            let what =
                format!("the workflow {} has no step {anchor}; it has {}", self.name, names.join(", "));
            return Err(Error::new(ErrorCode::NotFound, what));
        };
        self.steps.insert(index + 1, def);
        Ok(())
    }
}
