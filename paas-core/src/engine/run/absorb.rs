//! What a step's end makes of its workflow.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::Run;
use super::settle::Settle;
use crate::engine::decide::is_past_pivot;
use crate::engine::kind::{Flow, StepOutput};
use crate::vault::{Sealed, Vault};
use crate::{
    ConfigKey, Error, ErrorCode, EventKind, Failure, Result, Retry, StepState, Transition, Workflow,
    WorkflowState,
};
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
                // A step that is begun without an answer: whoever began it died.
                if next.steps.iter().any(|step| matches!(step.state, StepState::Started | StepState::Undoing))
                {
                    next.takeovers += 1;
                }
                events.push(EventKind::Claimed { claim });
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
            Settle::Refused(index, error) => self.fail(next, *index, error, events, false),
            Settle::Undid(index, Ok(())) => {
                let step = &mut next.steps[*index];
                step.state = StepState::Undone;
                events.push(EventKind::StepUndone { step: step.name.clone() });
            }
            Settle::Undid(index, Err(error)) => {
                let step = &mut next.steps[*index];
                let failure = Failure::of(error, Some(step.name.clone()), step.undo_attempt, now);
                let at = now + backoff(step.undo_attempt, error.retry(), self.inner.options.max_backoff);
                step.failure = Some(failure.clone());
                next.not_before = Some(at);
                events.push(EventKind::StepFailed { failure, retry_at: Some(at) });
            }
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
        let past_pivot = begun && is_past_pivot(next, &self.rules);
        let retries = self.kind.get(&next.steps[index].name).map_or(0, |def| def.retries);
        let step = &mut next.steps[index];
        if !begun {
            step.attempt += 1;
        }
        let failure = Failure::of(error, Some(step.name.clone()), step.attempt, now);
        let cancelled = error.code() == ErrorCode::Cancelled && self.running.user.is_cancelled();
        let again = past_pivot || (error.retry() != Retry::Never && step.attempt <= retries);
        step.failure = Some(failure.clone());
        if again && !cancelled {
            let at = now + backoff(step.attempt, error.retry(), self.inner.options.max_backoff);
            step.state = if begun { StepState::Retrying } else { StepState::Pending };
            next.not_before = Some(at);
            events.push(EventKind::StepFailed { failure, retry_at: Some(at) });
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
