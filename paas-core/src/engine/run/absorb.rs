//! What a step's end makes of its workflow.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::Run;
use super::settle::{Settle, leave};
use crate::engine::decide::is_past_pivot;
use crate::engine::kind::{Flow, StepOutput};
use crate::vault::{Sealed, Vault};
use crate::{
    ConfigKey, Error, ErrorCode, EventKind, Failure, Missing, Result, Retry, StepName, StepRecord, StepState,
    Transition, Workflow, WorkflowState,
};

/// What fails for good more often than this, and can't be given up, waits for a person.
const STUCK_AFTER: u32 = 5;

impl Run {
    /// Puts what happened into the workflow.
    pub(super) fn absorb(
        &self,
        next: &mut Workflow,
        settle: &mut Settle,
        events: &mut Vec<EventKind>,
        claim: u64,
    ) -> Result<()> {
        let now = self.inner.clock.now();
        match settle {
            Settle::Claimed => {
                next.state = next.state.apply(Transition::Claimed).map_err(internal)?;
                next.not_before = None;
                next.held = None;
                events.push(EventKind::Claimed { claim });
                if let Some(index) = next.steps.iter().position(is_unanswered) {
                    self.follow(next, index, events);
                }
            }
            Settle::Ran(index, Ok(output)) => {
                let step = &mut next.steps[*index];
                match &output.flow {
                    Flow::Next => {
                        step.state = StepState::Done;
                        step.finished_at = Some(now);
                        step.failure = None;
                        step.output = output.public.clone();
                        step.sealed = seal(&self.inner.vault, output)?;
                        next.takeovers = 0;
                        events.push(EventKind::StepFinished { step: step.name.clone() });
                    }
                    Flow::Wait(why) => {
                        step.state = StepState::Waiting;
                        step.signal = None;
                        step.output = Value::String(why.clone());
                    }
                    Flow::Again(after, why) => {
                        step.state = StepState::Retrying;
                        step.output = Value::String(why.clone());
                        next.not_before = Some(now + *after);
                    }
                }
            }
            Settle::Ran(index, Err(error)) => self.fail(next, *index, error, events, true),
            Settle::Refused(before, index, error) => {
                self.absorb(next, before, events, claim)?;
                self.fail(next, *index, error, events, false);
            }
            Settle::Undid(index, Ok(())) => {
                let step = &mut next.steps[*index];
                step.state = StepState::Undone;
                events.push(EventKind::StepUndone { step: step.name.clone() });
            }
            Settle::Undid(index, Err(error)) => self.fail_to_undo(next, *index, error, events),
            Settle::Stopped => {
                // Given back in order: going on is no takeover.
                for step in &mut next.steps {
                    if step.state == StepState::Started {
                        step.state = StepState::Retrying;
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts a failed attempt into the workflow: tried again, or the workflow has failed.
    pub(super) fn fail(
        &self,
        next: &mut Workflow,
        index: usize,
        error: &Error,
        events: &mut Vec<EventKind>,
        begun: bool,
    ) {
        let now = self.inner.clock.now();
        // Kinds that begin with their pivot only ever go forward.
        let past_pivot = is_past_pivot(next, &self.rules) || self.rules.pivot == Some(0);
        let retries = self.retries(&next.steps[index].name);
        let step = &mut next.steps[index];
        if !begun {
            step.attempt += 1;
        }
        let failure = Failure::of(error, Some(step.name.clone()), step.attempt, now);
        let cancelled =
            error.code() == ErrorCode::Cancelled && self.running.user.is_cancelled() && !past_pivot;
        let again = past_pivot || (error.retry() != Retry::Never && step.attempt <= retries);
        step.failure = Some(failure.clone());
        if again && !cancelled {
            // Once begun it stays so, also where its next intent is refused.
            let begun = begun || matches!(step.state, StepState::Started | StepState::Retrying);
            step.state = if begun { StepState::Retrying } else { StepState::Pending };
            let attempt = step.attempt;
            self.again(next, failure, error, (attempt, Missing::Doing), events);
        } else {
            if begun {
                step.state = StepState::Failed;
            }
            if !cancelled {
                next.failure = Some(failure.clone());
            }
            events.push(EventKind::StepFailed { failure, retry_at: None });
            if !begun && next.state == WorkflowState::Running {
                self.turn(next, Transition::Fault, events);
            }
        }
    }

    /// Whoever was at this step died. Where it can neither be undone nor left out, it must not kill one engine after the
    /// other: it counts as failed, and waits.
    fn follow(&self, next: &mut Workflow, index: usize, events: &mut Vec<EventKind>) {
        next.takeovers += 1;
        let undoing = next.state == WorkflowState::Undoing;
        if next.takeovers <= self.rules.max_takeovers || !(undoing || is_past_pivot(next, &self.rules)) {
            return;
        }
        let what = format!("{} engines in a row ended in the middle of this", next.takeovers);
        let error = Error::new(ErrorCode::RecoveryExhausted, what);
        if undoing {
            self.fail_to_undo(next, index, &error, events);
        } else {
            self.fail(next, index, &error, events, true);
        }
    }

    /// Puts a failed undo into the workflow: tried again, or left where the workflow was given up.
    fn fail_to_undo(&self, next: &mut Workflow, index: usize, error: &Error, events: &mut Vec<EventKind>) {
        let given_up = next.abandoned.is_some();
        let step = &mut next.steps[index];
        let attempt = step.undo_attempt;
        let failure = Failure::of(error, Some(step.name.clone()), attempt, self.inner.clock.now());
        step.failure = Some(failure.clone());
        if given_up && (error.retry() == Retry::Never || attempt > self.retries(&step.name)) {
            leave(next, index, Missing::Undoing, events);
        } else {
            self.again(next, failure, error, (attempt, Missing::Undoing), events);
        }
    }

    /// What failed is tried again later: ever more rarely where only a person can help, who is told.
    fn again(
        &self,
        next: &mut Workflow,
        failure: Failure,
        error: &Error,
        (attempt, missing): (u32, Missing),
        events: &mut Vec<EventKind>,
    ) {
        let options = &self.inner.options;
        let stuck = failure.is_stuck();
        let most = if stuck { options.max_stuck_backoff } else { options.max_backoff };
        let at = self.inner.clock.now() + backoff(attempt, error.retry(), most);
        next.not_before = Some(at);
        events.push(EventKind::StepFailed { failure: failure.clone(), retry_at: Some(at) });
        if stuck && attempt == STUCK_AFTER + 1 {
            tracing::error!(error.code = %error.code(), error = %error, "a workflow can't go on; retry or abandon it");
            events.push(EventKind::Stuck { failure, missing });
        }
    }

    fn retries(&self, step: &StepName) -> u32 {
        self.kind.get(step).map_or(0, |def| def.retries)
    }
}

/// Whether a step is begun and nobody has said what came of it.
fn is_unanswered(step: &StepRecord) -> bool {
    let failed = |attempt| step.failure.as_ref().is_some_and(|failure| failure.attempt == attempt);
    match step.state {
        StepState::Started => true,
        StepState::Undoing => !failed(step.undo_attempt),
        _ => false,
    }
}

impl Failure {
    /// Whether it came so often, and so finally, that only a person can help.
    pub(crate) fn is_stuck(&self) -> bool {
        self.permanent && self.attempt > STUCK_AFTER
    }
}

fn seal(vault: &Vault, output: &StepOutput) -> Result<Option<BTreeMap<ConfigKey, Sealed>>> {
    if output.secret.is_empty() { Ok(None) } else { vault.platform()?.seal_vars(&output.secret).map(Some) }
}

fn internal(error: crate::IllegalTransition) -> Error {
    Error::new(ErrorCode::Internal, "a workflow is in an impossible state").with_source(error)
}

/// How long to wait before the next attempt: 0.2 s, doubled each time, or what the other side asked for.
fn backoff(attempt: u32, retry: Retry, most: Duration) -> Duration {
    match retry {
        Retry::After(after) => after.min(most),
        Retry::Never | Retry::Backoff => {
            let doubled = Duration::from_millis(200).saturating_mul(1 << attempt.saturating_sub(1).min(16));
            doubled.min(most)
        }
    }
}
