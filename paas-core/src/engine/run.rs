//! Carries out one claimed workflow: decide, write the intent, act, write the checkpoint.
//!
//! A step's checkpoint and the next step's intent are one transaction, so a workflow of n steps costs n + 1.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tracing::Instrument;

use super::Inner;
use super::decide::{Move, Rules, StepRule, decide, is_past_pivot};
use super::kind::{Changes, Flow, Moment, StepAction, StepCall, StepOutput, WorkflowKind};
use super::kinds::app_of;
use super::ledger::{Ledger, Stored, encode, fence_of, put_workflow};
use super::turn::holder_lease;
use super::waist::pass;
use crate::store::{Expect, Fence, Queued, Transaction};
use crate::vault::{Sealed, Vault};
use crate::{
    Cancel, CancelReason, CancelRequest, ConfigKey, Context, Error, ErrorCode, EventKind, Failure,
    IdempotencyKey, Redactor, Result, Retry, StepState, Transition, Workflow, WorkflowState,
};

/// How a workflow that runs here is reached from outside its task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running {
    /// Stop and write nothing more (lease lost) or only what gives the work back (shutdown).
    pub(crate) stop: Cancel,
    /// A person wants it to end.
    pub(crate) user: Cancel,
}

/// What just happened, to be written down.
enum Settle {
    Claimed,
    Ran(usize, Result<StepOutput>),
    Undid(usize, Result<()>),
    /// The step's intent could not be written, so it has not begun.
    Refused(usize, Error),
    Stopped,
}

/// What to do once it is written down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Run(usize),
    Undo(usize),
    Leave,
}

struct Run {
    inner: Arc<Inner>,
    kind: Arc<WorkflowKind>,
    rules: Rules,
    workflow: Workflow,
    rev: Arc<AtomicU64>,
    fence: Fence,
    running: Running,
    redactor: Redactor,
}

/// Carries out a claimed workflow as far as it goes here.
pub(crate) async fn run(inner: Arc<Inner>, stored: Stored<Workflow>, queued: Queued, running: Running) {
    let workflow = stored.value;
    let span = tracing::info_span!(
        "workflow",
        app.name = workflow.app().map(tracing::field::display),
        workflow.id = %workflow.id,
        workflow.kind = %workflow.kind,
        lease.fence = queued.fence,
        resumed = queued.fence > 1,
    );
    let key = (workflow.kind.clone(), workflow.kind_version);
    let (Some(fence), Some(kind)) = (fence_of(workflow.id, &queued), inner.kinds.get(&key).cloned()) else {
        tracing::error!(workflow.id = %workflow.id, "claimed a workflow of a kind that this engine doesn't know");
        return;
    };
    let rules = rules(&workflow, &kind, inner.options.max_takeovers);
    let rev = Arc::new(AtomicU64::new(stored.rev));
    let redactor = redactor(&inner, &workflow).await;
    let mut run = Run { inner, kind, rules, workflow, rev, fence, running, redactor };
    run.look_for_holder().await;
    let beat = tokio::spawn(
        heartbeat(run.inner.clone(), fence, run.rev.clone(), run.running.clone()).in_current_span(),
    );
    let driven = Box::pin(run.drive(queued.fence)).instrument(span.clone()).await;
    beat.abort();
    if let Err(error) = driven {
        let _entered = span.entered();
        match error.code() {
            // Whoever has it now goes on.
            ErrorCode::LeaseLost => {
                tracing::info!(error.code = %error.code(), "this workflow is another engine's now");
            }
            // The lease runs out, and this or another engine goes on.
            _ => {
                tracing::error!(error.code = %error.code(), error = %error, "a workflow can't be written down");
            }
        }
    }
}

pub(crate) fn rules(workflow: &Workflow, kind: &WorkflowKind, max_takeovers: u32) -> Rules {
    let index = |name: &Option<crate::StepName>| {
        name.as_ref().and_then(|name| workflow.steps.iter().position(|step| step.name == *name))
    };
    let rule = |step: &crate::StepRecord| {
        let def = kind.get(&step.name);
        StepRule { known: def.is_some(), undo: def.is_some_and(|def| def.step.has_undo()) }
    };
    Rules {
        steps: workflow.steps.iter().map(rule).collect(),
        pivot: index(&kind.pivot),
        restart: index(&kind.restart),
        max_takeovers,
    }
}

/// What must not show in what the steps print.
async fn redactor(inner: &Inner, workflow: &Workflow) -> Redactor {
    let Some(name) = workflow.app().cloned().or_else(|| app_of(workflow)) else { return Redactor::new() };
    let known = match inner.ledger.find_app(&name).await {
        Ok(Some(app)) => inner.redactor(&app.value).await,
        Ok(None) => return Redactor::new(),
        Err(error) => Err(error),
    };
    known.unwrap_or_else(|error| {
        tracing::error!(error = %error, "the app's secrets can't be opened; its steps will fail");
        Redactor::new()
    })
}

/// Prolongs the lease, and learns of a cancel that another engine wrote.
async fn heartbeat(inner: Arc<Inner>, fence: Fence, rev: Arc<AtomicU64>, running: Running) {
    let ttl = inner.options.lease;
    let mut good_until = tokio::time::Instant::now() + ttl;
    loop {
        tokio::time::sleep(ttl / 3).await;
        // The lease counts from when the renewal was sent: it may have been written long before it is answered.
        let sent = tokio::time::Instant::now();
        match inner.store.renew(&fence, ttl).await {
            Ok(seen) => {
                good_until = sent + ttl;
                if seen > rev.load(Ordering::Acquire) {
                    look_for_cancel(&inner, fence, &running).await;
                }
            }
            Err(error) if error.code() == ErrorCode::LeaseLost => {
                return running.stop.cancel(CancelReason::LeaseLost);
            }
            Err(error) => {
                tracing::warn!(error = %error, "the lease can't be renewed");
                if tokio::time::Instant::now() >= good_until {
                    return running.stop.cancel(CancelReason::LeaseLost);
                }
            }
        }
    }
}

async fn look_for_cancel(inner: &Inner, fence: Fence, running: &Running) {
    match inner.ledger.find_workflow(fence.workflow).await {
        Ok(Some((stored, _))) if stored.value.cancel.is_some() => running.user.cancel(CancelReason::User),
        Ok(_) => {}
        Err(error) => tracing::warn!(error = %error, "can't look whether the workflow was cancelled"),
    }
}

impl Run {
    async fn drive(&mut self, claim: u64) -> Result<()> {
        let mut settle = Settle::Claimed;
        loop {
            let act = self.settle(settle, claim).await?;
            settle = match act {
                Act::Leave => return Ok(()),
                Act::Run(index) => Settle::Ran(index, self.call(index, StepAction::Run).await),
                Act::Undo(index) => Settle::Undid(index, self.call(index, StepAction::Undo).await.map(drop)),
            };
            match self.running.stop.reason() {
                Some(CancelReason::LeaseLost) => {
                    return Err(CancelReason::LeaseLost.into());
                }
                // A step that was done all the same is written down as done.
                Some(_) if !matches!(settle, Settle::Ran(_, Ok(_)) | Settle::Undid(_, Ok(()))) => {
                    settle = Settle::Stopped;
                }
                _ => {}
            }
        }
    }

    /// A workflow whose client must act after it, and is gone, is cancelled; after the pivot that means nothing.
    async fn look_for_holder(&mut self) {
        let Some(turn) = self.workflow.turn else { return };
        match self.inner.store.leased(&holder_lease(turn)).await {
            Ok(Some(_)) => {}
            Ok(None) => {
                let why = "whoever asked for it is gone".to_owned();
                let by = crate::Principal::platform();
                let request = CancelRequest { by, at: self.inner.clock.now(), why };
                self.workflow.cancel = self.workflow.cancel.take().or(Some(request));
            }
            Err(error) => tracing::warn!(error = %error, "can't look whether the client is there"),
        }
    }

    /// Writes down what happened, decides what is next and writes its intent: one transaction.
    async fn settle(&mut self, mut settle: Settle, claim: u64) -> Result<Act> {
        let mut pause = Duration::from_millis(1);
        for _ in 0..self.inner.options.max_conflicts {
            let mut next = self.workflow.clone();
            let mut events = Vec::new();
            self.absorb(&mut next, &mut settle, &mut events, claim)?;
            let settled = next.clone();
            let stopping = self.running.stop.is_cancelled();
            let act = if stopping { Act::Leave } else { self.advance(&mut next, &mut events) };
            let changes = match self.changes(&settled, &next, &settle, act).await {
                Ok(changes) => changes,
                Err(refused) => {
                    settle = refused;
                    continue;
                }
            };
            let mut write = put_workflow(&next, Expect::Rev(self.rev.load(Ordering::Acquire)))?;
            if stopping && !next.state.is_ended() {
                write = write.yielding();
            }
            let mut tx = Transaction::new().fenced(self.fence).write(write);
            tx.writes.extend(changes.writes);
            for kind in events.into_iter().chain(changes.events) {
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
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(500));
                    if self.reload(&next).await? {
                        self.workflow = next;
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

    /// Takes over what others may change, which is only a cancel; true if `next` is written after all.
    async fn reload(&mut self, next: &Workflow) -> Result<bool> {
        let (fresh, queued) = match self.inner.ledger.workflow(self.workflow.id).await {
            Ok(found) => found,
            Err(error) if error.retry() != Retry::Never => return Ok(false),
            Err(error) => return Err(error),
        };
        if queued.fence != self.fence.number {
            return Err(CancelReason::LeaseLost.into());
        }
        let known = self.rev.swap(fresh.rev, Ordering::AcqRel);
        if fresh.rev == known + 1 && encode(&fresh.value)? == encode(next)? {
            return Ok(true);
        }
        if fresh.value.cancel.is_some() {
            self.running.user.cancel(CancelReason::User);
        }
        self.workflow.cancel = self.workflow.cancel.take().or(fresh.value.cancel);
        Ok(false)
    }

    /// Puts what happened into the workflow.
    fn absorb(
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
    fn fail(
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
                    self.fail(next, index, &error, events, true);
                    if next.not_before.is_some() {
                        return Act::Leave;
                    }
                }
                Move::Turn(transition) => self.turn(next, transition, events),
                Move::Wait(_) | Move::Rest => return Act::Leave,
            }
        }
    }

    fn turn(&self, next: &mut Workflow, transition: Transition, events: &mut Vec<EventKind>) {
        let Ok(state) = next.state.apply(transition) else {
            // `decide` gives only legal ones; a test walks all of them.
            unreachable!("{} can't be {transition:?}", next.state)
        };
        next.state = state;
        match transition {
            Transition::Fault => next.not_before = None,
            Transition::Rewound => {
                // What is done again is done anew; the step that waits keeps its place.
                for step in next.steps.iter_mut().skip(self.rules.restart.unwrap_or(usize::MAX)) {
                    if step.state != StepState::Waiting {
                        let name = step.name.clone();
                        *step = crate::StepRecord::new(name);
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
            next.ended_at = Some(self.inner.clock.now());
            events.push(EventKind::Ended { state, failure: next.failure.clone() });
        }
    }

    /// Rows that go with what happened and with what begins; an error is what happened instead.
    async fn changes(
        &self,
        settled: &Workflow,
        next: &Workflow,
        settle: &Settle,
        act: Act,
    ) -> Result<Changes, Settle> {
        let mut changes = Changes::none();
        match settle {
            Settle::Ran(index, Ok(output)) if output.flow == Flow::Next => {
                let call = self.step_call(settled, *index, StepAction::Run, Cancel::new());
                match self.step_changes(&call, Moment::Done(output)).await {
                    Ok(more) => extend(&mut changes, more),
                    Err(error) => return Err(Settle::Ran(*index, Err(error))),
                }
            }
            Settle::Undid(index, Ok(())) => {
                let call = self.step_call(settled, *index, StepAction::Undo, Cancel::new());
                match self.step_changes(&call, Moment::Undone).await {
                    Ok(more) => extend(&mut changes, more),
                    Err(error) => return Err(Settle::Undid(*index, Err(error))),
                }
            }
            _ => {}
        }
        if let Act::Run(index) = act {
            let call = self.step_call(next, index, StepAction::Run, Cancel::new());
            match self.step_changes(&call, Moment::Intent).await {
                Ok(more) => extend(&mut changes, more),
                Err(error) => return Err(Settle::Refused(index, error)),
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

    /// Calls a step through the waist, and stops it when it must stop.
    async fn call(&self, index: usize, action: StepAction) -> Result<StepOutput> {
        let cancel = Cancel::new();
        let call = self.step_call(&self.workflow, index, action, cancel.clone());
        let timeout = self.kind.get(&call.step).map_or(Duration::MAX, |def| def.timeout);
        // After the pivot, and on the way back, a person's cancel comes too late.
        let mut user = Cancel::new();
        if action == StepAction::Run && !is_past_pivot(&self.workflow, &self.rules) {
            user = self.running.user.clone();
        }
        let span = tracing::info_span!("step", step.name = %call.step, step.attempt = call.ctx.attempt);
        let mut work = Box::pin(pass(&self.inner.waist, call).instrument(span));
        let reason = tokio::select! {
            result = &mut work => return result,
            reason = self.running.stop.cancelled() => reason,
            reason = user.cancelled() => reason,
            () = tokio::time::sleep(timeout) => CancelReason::Timeout,
        };
        cancel.cancel(reason);
        // It gets time to stop what it started; then it is dropped, which must stop it too.
        let stopped = tokio::time::timeout(self.inner.options.stop_grace, work).await;
        match stopped {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(error)) if reason != CancelReason::Timeout => Err(error),
            _ => Err(reason.into()),
        }
    }

    fn step_call(&self, workflow: &Workflow, index: usize, action: StepAction, cancel: Cancel) -> StepCall {
        let step = &workflow.steps[index];
        let key = IdempotencyKey::new(workflow.id, step.name.clone());
        let log = self.inner.step_log(workflow, &step.name).redacting(self.redactor.clone());
        let ctx = Context::new(key, cancel, self.inner.clock.clone(), log);
        let attempt = if action == StepAction::Run { step.attempt } else { step.undo_attempt };
        let ctx = ctx.attempt(attempt, self.fence.number);
        StepCall::new(ctx, Arc::new(workflow.clone()), step.name.clone(), action)
    }

    fn app(&self) -> Option<&crate::AppName> {
        self.workflow.app()
    }
}

fn seal(vault: &Vault, output: &StepOutput) -> Result<Option<BTreeMap<ConfigKey, Sealed>>> {
    if output.secret.is_empty() { Ok(None) } else { vault.platform()?.seal_vars(&output.secret).map(Some) }
}

fn extend(changes: &mut Changes, more: Changes) {
    changes.writes.extend(more.writes);
    changes.events.extend(more.events);
    changes.foreign.extend(more.foreign);
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

impl WorkflowState {
    /// Whether an engine works on it, or will.
    pub(crate) fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Undoing | Self::Rewinding)
    }
}
