//! Workflows by themselves: queued, cancelled, answered.

use serde::Serialize;

use super::handle;
use crate::engine::ledger::{Ledger, put_workflow};
use crate::engine::submit::{Order, end, has_begun};
use crate::engine::turn::Turn;
use crate::engine::{Engine, WorkflowHandle, decide};
use crate::store::{Expect, Transaction};
use crate::{
    AppName, CancelReason, CancelRequest, Ending, Error, ErrorCode, EventKind, KindName, Principal, Result,
    Subject, Transition, WorkflowId, WorkflowState,
};

impl Engine {
    /// Queues a workflow of a kind that the embedder registered.
    ///
    /// # Errors
    /// `not_found` for the kind or the app; `conflict` while the app is destroyed; `frozen` for a kind that makes releases.
    pub async fn submit(
        &self,
        kind: &KindName,
        subject: Subject,
        input: &(impl Serialize + Sync),
        by: &Principal,
    ) -> Result<WorkflowHandle> {
        let inner = &self.inner;
        let order = || Order::new(kind.clone(), subject.clone(), input, by);
        if let Subject::App(app) = &subject {
            return self.change(app, |_, _| Ok((Vec::new(), Some(order()?)))).await.and_then(handle);
        }
        let mut tx = Transaction::new();
        if inner.makes_releases(kind) {
            inner.unless_platform_is_frozen(&mut tx).await?;
        }
        let workflow = inner.order(&mut tx, order()?).await?;
        inner.store.commit(tx).await?;
        Ok(self.workflow(workflow))
    }

    /// Keeps an app's turn for a deploy and what must follow it.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn take_turn(&self, app: &AppName) -> Result<Turn> {
        Turn::take(self.inner.clone(), Subject::App(app.clone())).await
    }

    /// Stops a workflow: one that waits ends at once, one that runs undoes what it started.
    ///
    /// # Errors
    /// `past_pivot` when users see what it is for already; `conflict` when it has ended.
    pub async fn cancel(&self, workflow: WorkflowId, why: &str, by: &Principal) -> Result<()> {
        let inner = &self.inner;
        loop {
            let (stored, _) = inner.ledger.workflow(workflow).await?;
            let mut next = stored.value;
            if next.state.is_ended() {
                return Err(Error::new(
                    ErrorCode::Conflict,
                    format!("the workflow has {} already", next.state),
                ));
            }
            let rules = inner.rules_of(&next);
            if rules.is_some_and(|rules| decide::is_past_pivot(&next, &rules)) {
                let what = "it is too late to cancel: users see the new state already; roll back instead";
                return Err(Error::new(ErrorCode::PastPivot, what));
            }
            if next.cancel.is_some() {
                return Ok(());
            }
            next.cancel = Some(CancelRequest { by: by.clone(), at: inner.clock.now(), why: why.to_owned() });
            // Whoever waits for a time would be woken too late otherwise.
            next.not_before = None;
            let mut tx = Transaction::new();
            let requested = EventKind::CancelRequested { by: by.clone(), why: why.to_owned() };
            Ledger::note(&mut tx, &inner.ledger.event(next.app(), Some(workflow), requested))?;
            if next.state == WorkflowState::Queued && !has_begun(&next) {
                end(&mut next, Ending::Cancelled, inner.clock.now())?;
                inner.take_back(&mut tx, &next).await?;
                let ended = EventKind::Ended { state: next.state, failure: None };
                Ledger::note(&mut tx, &inner.ledger.event(next.app(), Some(workflow), ended))?;
            } else if next.state == WorkflowState::Parked {
                // It takes its turn once more, to undo what it did before it was parked.
                next.state = next.state.apply(Transition::Signal).map_err(illegal)?;
            }
            tx = tx.write(put_workflow(&next, Expect::Rev(stored.rev))?);
            match inner.store.commit(tx).await {
                Ok(_) => {
                    if let Some(running) = inner.running().get(&workflow) {
                        running.user.cancel(CancelReason::User);
                    }
                    return Ok(());
                }
                Err(error) if error.code() == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers a step that waits; its workflow queues up again.
    ///
    /// # Errors
    /// `conflict` when it isn't waiting.
    pub async fn signal(
        &self,
        workflow: WorkflowId,
        answer: serde_json::Value,
        by: &Principal,
    ) -> Result<()> {
        let inner = &self.inner;
        let (stored, _) = inner.ledger.workflow(workflow).await?;
        let mut next = stored.value;
        next.state = next.state.apply(Transition::Signal).map_err(illegal)?;
        let waiting = next.steps.iter_mut().find(|step| step.state == crate::StepState::Waiting);
        let Some(step) = waiting else {
            return Err(Error::new(ErrorCode::Conflict, "no step of the workflow is waiting for an answer"));
        };
        step.signal = Some(answer);
        let name = step.name.clone();
        let mut tx = Transaction::new().write(put_workflow(&next, Expect::Rev(stored.rev))?);
        let signalled = EventKind::Signalled { step: name, by: by.clone() };
        Ledger::note(&mut tx, &inner.ledger.event(next.app(), Some(workflow), signalled))?;
        inner.store.commit(tx).await.map(drop)
    }

    /// A workflow by its id.
    pub fn workflow(&self, id: WorkflowId) -> WorkflowHandle {
        WorkflowHandle { inner: self.inner.clone(), id }
    }
}

fn illegal(error: crate::IllegalTransition) -> Error {
    Error::new(ErrorCode::Conflict, "the workflow isn't waiting for an answer").with_source(error)
}
