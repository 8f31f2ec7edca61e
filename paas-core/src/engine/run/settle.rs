//! Writes down what happened together with what is next.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Run;
use crate::engine::decide::{Move, decide};
use crate::engine::kind::{Changes, Flow, Moment, StepAction, StepCall, StepOutput};
use crate::engine::ledger::{Ledger, encode, put_workflow};
use crate::store::{Expect, Transaction};
use crate::{
    Cancel, CancelReason, Error, ErrorCode, EventKind, Failure, Leftover, Missing, Result, Retry, StepState,
    Transition, Workflow, WorkflowState,
};
/// What just happened, to be written down.
pub(super) enum Settle {
    Claimed,
    Ran(usize, Result<StepOutput>),
    Undid(usize, Result<()>),
    /// This happened, but the intent of the step that is next could not be written, so that has not begun.
    Refused(Box<Settle>, usize, Error),
    Stopped,
}

impl Settle {
    /// The rows that go with it could not be made: that is what happened instead.
    fn failing(self, error: Error) -> Self {
        match self {
            Self::Ran(index, _) => Self::Ran(index, Err(error)),
            Self::Undid(index, _) => Self::Undid(index, Err(error)),
            Self::Refused(before, ..) => before.failing(error),
            Self::Claimed | Self::Stopped => self,
        }
    }
}

/// Why rows that go with a step could not be made.
enum Refusal {
    /// Those of what happened.
    Result(Error),
    /// Those of this step, which is next.
    Intent(usize, Error),
}

/// What to do once it is written down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Run(usize),
    Undo(usize),
    Leave,
}

impl Run {
    /// Writes down what happened, decides what is next and writes its intent: one transaction.
    pub(super) async fn settle(&mut self, mut settle: Settle, claim: u64) -> Result<Act> {
        let mut pause = Duration::from_millis(1);
        // What was sent and never answered: it may be written.
        let mut sent = Vec::new();
        for _ in 0..self.inner.options.max_conflicts {
            let mut next = self.workflow.clone();
            let mut events = Vec::new();
            self.absorb(&mut next, &mut settle, &mut events, claim)?;
            let settled = next.clone();
            let stopping = self.running.stop.is_cancelled();
            let act = if stopping { Act::Leave } else { self.advance(&mut next, &mut events) };
            let mut changes = match self.changes(&settled, &next, &settle, act).await {
                Ok(changes) => changes,
                Err(Refusal::Result(error)) => {
                    settle = settle.failing(error);
                    continue;
                }
                Err(Refusal::Intent(index, error)) => {
                    settle = Settle::Refused(Box::new(settle), index, error);
                    continue;
                }
            };
            extend(&mut changes, self.parting(&settled, &next).await?);
            let mut write = put_workflow(&next, Expect::Rev(self.rev.load(Ordering::Acquire)))?;
            if stopping && !next.state.is_ended() {
                write = write.yielding();
            }
            let mut tx = Transaction::new().fenced(self.fence).write(write);
            tx.writes.extend(changes.writes);
            if never_began(&next) {
                self.inner.take_back(&mut tx, &next).await?;
            }
            // That a workflow has ended, or rests, is told last.
            let (rests, events): (Vec<_>, Vec<_>) = events
                .into_iter()
                .partition(|kind| matches!(kind, EventKind::Ended { .. } | EventKind::Parked { .. }));
            for kind in events.into_iter().chain(changes.events).chain(rests) {
                let event = self.inner.ledger.event(self.app(), Some(next.id), kind);
                Ledger::note(&mut tx, &event)?;
            }
            tx.events.extend(changes.foreign);
            match self.inner.store.commit(tx).await {
                Ok(_) => {
                    self.rev.fetch_add(1, Ordering::AcqRel);
                    self.workflow = next;
                    return Ok(act);
                }
                Err(error) if error.code() == ErrorCode::Conflict || error.retry() != Retry::Never => {
                    if error.code() != ErrorCode::Conflict {
                        sent.push((next, act));
                    }
                    if let Some(act) = self.reload(&sent, &mut pause).await? {
                        return Ok(act);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let what = format!(
            "the workflow {} could not be written down: others were faster each time",
            self.workflow.id
        );
        Err(Error::new(ErrorCode::Conflict, what))
    }

    /// Takes over what others may change, which is only that they want it to end, or sooner; an act if what was sent is
    /// written after all.
    async fn reload(&mut self, sent: &[(Workflow, Act)], pause: &mut Duration) -> Result<Option<Act>> {
        let mut looks = 0;
        let (fresh, queued) = loop {
            tokio::time::sleep(*pause).await;
            *pause = (*pause * 2).min(Duration::from_millis(500));
            looks += 1;
            match self.inner.ledger.workflow(self.workflow.id).await {
                Ok(found) => break found,
                // Nothing can be written down before it is known what is.
                Err(error) if error.retry() != Retry::Never && looks < self.inner.options.max_conflicts => {}
                Err(error) => return Err(error),
            }
        };
        if queued.fence != self.fence.number {
            return Err(CancelReason::LeaseLost.into());
        }
        let known = self.rev.swap(fresh.rev, Ordering::AcqRel);
        self.running.heed(&fresh.value);
        let written = encode(&fresh.value)?;
        for (next, act) in sent.iter().filter(|_| fresh.rev > known) {
            let mut next = next.clone();
            // What others may have changed since.
            next.cancel.clone_from(&fresh.value.cancel);
            next.abandoned.clone_from(&fresh.value.abandoned);
            next.not_before = fresh.value.not_before;
            if encode(&next)? == written {
                self.workflow = next;
                return Ok(Some(*act));
            }
        }
        self.workflow.cancel = self.workflow.cancel.take().or(fresh.value.cancel);
        self.workflow.abandoned = self.workflow.abandoned.take().or(fresh.value.abandoned);
        Ok(None)
    }

    /// Carries out decisions that need no act, up to the first that does.
    fn advance(&self, next: &mut Workflow, events: &mut Vec<EventKind>) -> Act {
        loop {
            let now = self.inner.clock.now();
            match decide(next, &self.rules, now) {
                Move::Run(index) => {
                    let call = self.step_call(next, index, StepAction::Run, Cancel::new());
                    let needed = self.kind.get(&call.step).is_none_or(|def| def.step.is_needed(&call));
                    let step = &mut next.steps[index];
                    if !needed && step.state == StepState::Pending {
                        step.state = StepState::Skipped;
                        continue;
                    }
                    step.state = StepState::Started;
                    step.attempt += 1;
                    step.started_at = step.started_at.or(Some(now));
                    next.not_before = None;
                    events.push(EventKind::StepStarted { step: step.name.clone(), attempt: step.attempt });
                    return Act::Run(index);
                }
                Move::Undo(index) => {
                    let step = &mut next.steps[index];
                    step.state = StepState::Undoing;
                    step.undo_attempt += 1;
                    next.not_before = None;
                    return Act::Undo(index);
                }
                Move::GiveUp => {
                    let what = format!(
                        "{} engines in a row ended in the middle of this; it is undone, try it again",
                        next.takeovers
                    );
                    let error = Error::new(ErrorCode::RecoveryExhausted, what);
                    next.failure = Some(Failure::of(&error, None, next.takeovers, now));
                    self.turn(next, Transition::Fault, events);
                }
                Move::Unknown(index) => {
                    let what =
                        format!("this engine has no step {}; it was not skipped", next.steps[index].name);
                    let error = Error::new(ErrorCode::Unsupported, what);
                    self.fail(next, index, &error, events, false);
                    if next.not_before.is_some() {
                        return Act::Leave;
                    }
                }
                Move::Turn(transition) => self.turn(next, transition, events),
                Move::Leave => self.leave(next, events),
                Move::Wait(_) | Move::Rest => return Act::Leave,
            }
        }
    }

    pub(super) fn turn(&self, next: &mut Workflow, transition: Transition, events: &mut Vec<EventKind>) {
        let was = next.state;
        let Ok(state) = was.apply(transition) else {
            // `decide` gives only legal ones; a test walks all of them.
            unreachable!("{} can't be {transition:?}", next.state)
        };
        next.state = state;
        match transition {
            Transition::Fault => next.not_before = None,
            Transition::Rewound => {
                // What is done again is done anew; the step that waits keeps its place.
                let rewound = if was == WorkflowState::Rewinding { self.rules.restart } else { None };
                for step in next.steps.iter_mut().skip(rewound.unwrap_or(usize::MAX)) {
                    if step.state != StepState::Waiting {
                        *step = crate::StepRecord::new(step.name.clone(), step.undo);
                    }
                }
                if let Some(step) = next.steps.iter().find(|step| step.state == StepState::Waiting) {
                    let why = step.output.as_str().unwrap_or_default().to_owned();
                    events.push(EventKind::Parked { step: step.name.clone(), why });
                }
            }
            _ => {}
        }
        if state.is_ended() {
            next.not_before = None;
            next.ended_at = Some(self.inner.clock.now());
            events.push(EventKind::Ended { state, failure: next.failure.clone() });
        }
    }

    /// Leaves what remains to do, and ends.
    fn leave(&self, next: &mut Workflow, events: &mut Vec<EventKind>) {
        for index in 0..next.steps.len() {
            let call = self.step_call(next, index, StepAction::Run, Cancel::new());
            let needed = self.kind.get(&call.step).is_none_or(|def| def.step.is_needed(&call));
            let step = &mut next.steps[index];
            match step.state {
                StepState::Done | StepState::Skipped => {}
                StepState::Pending if !needed => step.state = StepState::Skipped,
                _ => leave(next, index, Missing::Doing, events),
            }
        }
        self.turn(next, Transition::GivenUp, events);
    }

    /// Rows that go with the end of what was given up after its pivot.
    async fn parting(&self, settled: &Workflow, next: &Workflow) -> Result<Changes> {
        let mut changes = Changes::none();
        for (index, (before, step)) in settled.steps.iter().zip(&next.steps).enumerate() {
            if step.state == StepState::Left && before.state != StepState::Left {
                let call = self.step_call(next, index, StepAction::Run, Cancel::new());
                extend(&mut changes, self.step_changes(&call, Moment::Left).await?);
            }
        }
        Ok(changes)
    }

    /// Rows that go with what happened and with what begins.
    async fn changes(
        &self,
        settled: &Workflow,
        next: &Workflow,
        settle: &Settle,
        act: Act,
    ) -> Result<Changes, Refusal> {
        let mut changes = Changes::none();
        let happened = if let Settle::Refused(before, ..) = settle { before } else { settle };
        match happened {
            Settle::Ran(index, Ok(output)) if output.flow == Flow::Next => {
                let call = self.step_call(settled, *index, StepAction::Run, Cancel::new());
                match self.step_changes(&call, Moment::Done(output)).await {
                    Ok(more) => extend(&mut changes, more),
                    Err(error) => return Err(Refusal::Result(error)),
                }
            }
            Settle::Undid(index, Ok(())) => {
                let call = self.step_call(settled, *index, StepAction::Undo, Cancel::new());
                match self.step_changes(&call, Moment::Undone).await {
                    Ok(more) => extend(&mut changes, more),
                    Err(error) => return Err(Refusal::Result(error)),
                }
            }
            _ => {}
        }
        if let Act::Run(index) = act {
            let call = self.step_call(next, index, StepAction::Run, Cancel::new());
            match self.step_changes(&call, Moment::Intent).await {
                Ok(more) => extend(&mut changes, more),
                Err(error) => return Err(Refusal::Intent(index, error)),
            }
        }
        Ok(changes)
    }

    async fn step_changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        match self.kind.get(&call.step) {
            Some(def) => def.step.changes(call, moment).await,
            None => Ok(Changes::none()),
        }
    }
}

/// Leaves a step as it is, and says so.
pub(crate) fn leave(next: &mut Workflow, index: usize, missing: Missing, events: &mut Vec<EventKind>) {
    let step = &mut next.steps[index];
    step.state = StepState::Left;
    let left = Leftover { step: step.name.clone(), missing, failure: step.failure.clone() };
    events.push(EventKind::StepLeft { left: left.clone() });
    if let Some(abandoned) = &mut next.abandoned {
        abandoned.left.push(left);
    }
}

/// Whether it ends although none of its steps was ever begun.
fn never_began(workflow: &Workflow) -> bool {
    matches!(workflow.state, WorkflowState::Failed | WorkflowState::Cancelled)
        && workflow.steps.iter().all(|step| step.state == StepState::Pending)
}

fn extend(changes: &mut Changes, more: Changes) {
    changes.writes.extend(more.writes);
    changes.events.extend(more.events);
    changes.foreign.extend(more.foreign);
}
