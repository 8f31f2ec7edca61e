//! Workflows that don't go on by themselves: tried again at once, or given up.

use crate::engine::kinds::app_of;
use crate::engine::ledger::{Ledger, put_workflow};
use crate::engine::run::leave;
use crate::engine::submit::has_begun;
use crate::engine::{Engine, WorkflowHandle};
use crate::store::{Expect, Queued, Transaction};
use crate::{
    Abandonment, Error, ErrorCode, EventKind, Failure, Missing, Principal, Result, Scope, StepState,
    Transition, Workflow, WorkflowId, WorkflowState,
};

impl Engine {
    /// Has a workflow that waits for its next attempt go on at once; its attempts count on. Nothing happens to one that
    /// goes on by itself: it is worked on, or waits for its turn.
    ///
    /// # Errors
    /// `conflict` when it has ended, or waits for an answer, which [`Engine::signal`] gives; `forbidden` where an access is
    /// set up and doesn't let `by` repair; `not_found`.
    pub async fn retry(&self, workflow: WorkflowId, by: &Principal) -> Result<()> {
        self.may_repair(&scope_of(&self.workflow(workflow).state().await?), by).await?;
        let inner = &self.inner;
        loop {
            let (stored, _) = inner.ledger.workflow(workflow).await?;
            let mut next = stored.value;
            refuse_ended(&next)?;
            if next.state == WorkflowState::Parked {
                let what = "the workflow waits for an answer: give it by `signal`, or end it by `cancel`";
                return Err(Error::new(ErrorCode::Conflict, what));
            }
            if next.not_before.take().is_none() {
                return Ok(());
            }
            let mut tx = Transaction::new().write(put_workflow(&next, Expect::Rev(stored.rev))?);
            let event = EventKind::RetryRequested { by: by.clone() };
            Ledger::note(&mut tx, &inner.ledger.event(next.app(), Some(workflow), event))?;
            match inner.store.commit(tx).await {
                Err(error) if error.code() == ErrorCode::Conflict => {}
                done => return done.map(drop),
            }
        }
    }

    /// Gives a workflow up that can't go on, so that its app or add-on is free for the next one.
    ///
    /// Before the pivot what it started is undone as by [`Engine::cancel`], but an undo that does not go through is not
    /// tried for ever. After the pivot what remains to do is left out, and what users see stays. Either way each step that
    /// is not undone, or not done, is named by an event and in [`Workflow::abandoned`](crate::Workflow::abandoned) once the
    /// workflow has ended, which the returned handle waits for. An app whose destroying is given up is gone, and its name
    /// free; what is left of it is named.
    ///
    /// Giving up twice is giving up once.
    ///
    /// # Errors
    /// `conflict` when it has ended otherwise, or is of a kind that only another engine knows, which works on it;
    /// `forbidden` where an access is set up and doesn't let `by` repair; `not_found`.
    pub async fn abandon(&self, workflow: WorkflowId, why: &str, by: &Principal) -> Result<WorkflowHandle> {
        self.may_repair(&scope_of(&self.workflow(workflow).state().await?), by).await?;
        self.give_up(workflow, why, by).await?;
        Ok(self.workflow(workflow))
    }

    pub(super) async fn give_up(&self, workflow: WorkflowId, why: &str, by: &Principal) -> Result<()> {
        let inner = &self.inner;
        loop {
            let (stored, standing) = inner.ledger.workflow(workflow).await?;
            let mut next = stored.value;
            if next.abandoned.is_some() {
                return Ok(());
            }
            refuse_ended(&next)?;
            let at = inner.clock.now();
            next.abandoned = Some(Abandonment { by: by.clone(), at, why: why.to_owned(), left: Vec::new() });
            next.not_before = None;
            let waits = next.state == WorkflowState::Queued && !has_begun(&next);
            let mut events = vec![EventKind::AbandonRequested { by: by.clone(), why: why.to_owned() }];
            if inner.rules_of(&next).is_none() {
                self.leave_unknown(&mut next, &standing, &mut events)?;
            } else if waits {
                self.end_given_up(&mut next, &mut events)?;
            } else if next.state == WorkflowState::Parked {
                // It takes its turn once more, to undo what it did before it was parked, or to end.
                next.state = next.state.apply(Transition::Signal).map_err(illegal)?;
            }
            let mut tx = Transaction::new().write(put_workflow(&next, Expect::Rev(stored.rev))?);
            if waits && next.state.is_ended() {
                inner.take_back(&mut tx, &next).await?;
            }
            for event in events {
                Ledger::note(&mut tx, &inner.ledger.event(next.app(), Some(workflow), event))?;
            }
            match inner.store.commit(tx).await {
                Ok(_) => {
                    if let Some(running) = inner.running().get(&workflow) {
                        running.heed(&next);
                    }
                    return Ok(());
                }
                Err(error) if error.code() == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Nobody here can undo any of it.
    fn leave_unknown(
        &self,
        next: &mut Workflow,
        standing: &Queued,
        events: &mut Vec<EventKind>,
    ) -> Result<()> {
        let now = self.inner.clock.now();
        let (kind, version) = (&next.kind, next.kind_version);
        if standing.owner.is_some() && standing.lease_until.is_some_and(|until| until > now) {
            let what = format!("an engine that knows {kind} {version} works on it: give it up there");
            return Err(Error::new(ErrorCode::Conflict, what));
        }
        let error = Error::new(ErrorCode::Unsupported, format!("this engine doesn't know {kind} {version}"));
        for index in 0..next.steps.len() {
            let step = &mut next.steps[index];
            let is_open = !matches!(step.state, StepState::Pending | StepState::Skipped | StepState::Undone);
            if is_open && step.undo {
                let tried = Failure::of(&error, Some(step.name.clone()), step.undo_attempt, now);
                step.failure.get_or_insert(tried);
                leave(next, index, Missing::Undoing, events);
            }
        }
        self.end_given_up(next, events)
    }

    fn end_given_up(&self, next: &mut Workflow, events: &mut Vec<EventKind>) -> Result<()> {
        next.state = next.state.apply(Transition::GivenUp).map_err(illegal)?;
        next.ended_at = Some(self.inner.clock.now());
        events.push(EventKind::Ended { state: next.state, failure: next.failure.clone() });
        Ok(())
    }
}

fn refuse_ended(workflow: &Workflow) -> Result<()> {
    if !workflow.state.is_ended() {
        return Ok(());
    }
    Err(Error::new(ErrorCode::Conflict, format!("the workflow has {} already", ended(workflow.state))))
}

/// `it has … already`
pub(super) fn ended(state: WorkflowState) -> String {
    match state {
        WorkflowState::Succeeded | WorkflowState::Failed => state.to_string(),
        state => format!("been {state}"),
    }
}

fn scope_of(workflow: &Workflow) -> Scope {
    workflow.app().cloned().or_else(|| app_of(workflow)).map_or(Scope::Platform, Scope::App)
}

fn illegal(error: crate::IllegalTransition) -> Error {
    Error::new(ErrorCode::Conflict, "the workflow can't be given up as it stands").with_source(error)
}
