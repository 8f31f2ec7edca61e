//! What every provider call gets beside its arguments.

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::{Cancel, Clock, LogWriter, StepName, WorkflowId};

/// What makes two calls the same call: the workflow and the step, never the attempt. A provider that
/// sees a key again ensures or adopts what it made, and makes nothing twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct IdempotencyKey {
    /// The workflow.
    pub workflow: WorkflowId,
    /// The step.
    pub step: StepName,
}

impl IdempotencyKey {
    /// The key of this step of this workflow.
    pub fn new(workflow: WorkflowId, step: StepName) -> Self {
        Self { workflow, step }
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.workflow, self.step)
    }
}

/// Who calls, which attempt it is, when to stop and where to speak.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Context {
    /// The same for every attempt at the same step.
    pub key: IdempotencyKey,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Grows with every change of owner; whoever can, refuses a call with a lower one than seen.
    pub fence: u64,
    /// Stop when it is cancelled, and clean up what would be left running.
    pub cancel: Cancel,
    /// When the engine will cancel the call by itself.
    pub deadline: Option<DateTime<Utc>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where people read along; secrets of the app are taken out.
    pub log: LogWriter,
}

impl Context {
    /// A first attempt without fence or deadline.
    pub fn new(key: IdempotencyKey, cancel: Cancel, clock: Arc<dyn Clock>, log: LogWriter) -> Self {
        Self { key, attempt: 1, fence: 0, cancel, deadline: None, clock, log }
    }

    /// As this attempt under this fence.
    #[must_use]
    pub fn attempt(mut self, attempt: u32, fence: u64) -> Self {
        self.attempt = attempt;
        self.fence = fence;
        self
    }

    /// With a deadline.
    #[must_use]
    pub fn until(mut self, deadline: DateTime<Utc>) -> Self {
        self.deadline = Some(deadline);
        self
    }
}
