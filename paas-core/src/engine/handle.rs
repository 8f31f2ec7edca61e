//! A workflow, seen from outside.

use std::sync::Arc;

use super::Inner;
use super::decide::is_past_pivot;
use crate::{Error, ErrorCode, Result, StepState, Workflow, WorkflowId, WorkflowState};

/// A workflow that was asked for. Dropping the handle loses no work.
#[derive(Debug, Clone)]
pub struct WorkflowHandle {
    pub(crate) inner: Arc<Inner>,
    pub(crate) id: WorkflowId,
}

impl WorkflowHandle {
    /// Its id.
    pub fn id(&self) -> WorkflowId {
        self.id
    }

    /// The workflow as it is.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn state(&self) -> Result<Workflow> {
        Ok(self.inner.ledger.workflow(self.id).await?.0.value)
    }

    /// Waits until it has ended, whatever the end.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn ended(&self) -> Result<Workflow> {
        self.until(|workflow| workflow.state.is_ended()).await
    }

    /// Waits until what it is for is so for users (its pivot is done), or it has ended otherwise. What remains
    /// then, such as ending the old release's processes, goes on by itself.
    ///
    /// # Errors
    /// The failure's own code; `cancelled`; `conflict` when a newer one took its place.
    pub async fn live(&self) -> Result<Workflow> {
        let inner = self.inner.clone();
        let workflow =
            self.until(|workflow| workflow.state.is_ended() || pivot_is_done(&inner, workflow)).await?;
        if pivot_is_done(&inner, &workflow) { Ok(workflow) } else { verdict(workflow) }
    }

    /// Waits until it has ended well.
    ///
    /// # Errors
    /// As [`WorkflowHandle::live`].
    pub async fn succeeded(&self) -> Result<Workflow> {
        verdict(self.ended().await?)
    }

    /// Waits until it is parked or has ended, and returns it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn parked(&self) -> Result<Workflow> {
        self.until(|workflow| workflow.state == WorkflowState::Parked || workflow.state.is_ended()).await
    }

    /// Whether users see what it is for: it can't be cancelled any more.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn is_past_pivot(&self) -> Result<bool> {
        let workflow = self.state().await?;
        Ok(self.inner.rules_of(&workflow).is_some_and(|rules| is_past_pivot(&workflow, &rules)))
    }

    async fn until(&self, done: impl Fn(&Workflow) -> bool) -> Result<Workflow> {
        let mut changes = self.inner.store.changes();
        loop {
            changes.mark_unchanged();
            let workflow = self.state().await?;
            if done(&workflow) {
                return Ok(workflow);
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(self.inner.options.poll) => {}
            }
        }
    }
}

fn pivot_is_done(inner: &Inner, workflow: &Workflow) -> bool {
    let index = inner.rules_of(workflow).and_then(|rules| rules.pivot);
    index.and_then(|index| workflow.steps.get(index)).is_some_and(|step| step.state == StepState::Done)
}

fn verdict(workflow: Workflow) -> Result<Workflow> {
    match workflow.state {
        WorkflowState::Failed => Err(match workflow.failure {
            Some(failure) => failure.into(),
            None => Error::new(ErrorCode::Internal, format!("the workflow {} failed", workflow.id)),
        }),
        WorkflowState::Cancelled => {
            let why = workflow
                .cancel
                .map_or_else(String::new, |cancel| format!(" by {}: {}", cancel.by, cancel.why));
            Err(Error::new(ErrorCode::Cancelled, format!("cancelled{why}")))
        }
        WorkflowState::Abandoned => {
            let (why, left) = workflow.abandoned.map_or_else(Default::default, |abandoned| {
                let left: Vec<_> = abandoned.left.iter().map(|left| format!("; {left}")).collect();
                (format!(" by {}: {}", abandoned.by, abandoned.why), left.concat())
            });
            Err(Error::new(ErrorCode::Abandoned, format!("given up{why}{left}")))
        }
        WorkflowState::Superseded => {
            Err(Error::new(ErrorCode::Conflict, "superseded: a newer deploy took its place before it began"))
        }
        WorkflowState::Queued
        | WorkflowState::Running
        | WorkflowState::Undoing
        | WorkflowState::Rewinding
        | WorkflowState::Parked
        | WorkflowState::Succeeded => Ok(workflow),
    }
}
