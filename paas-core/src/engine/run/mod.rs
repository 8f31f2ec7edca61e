//! Carries out one claimed workflow: decide, write the intent, act, write the checkpoint.
//!
//! A step's checkpoint and the next step's intent are one transaction, so a workflow of n steps costs n + 1.

mod absorb;
mod heartbeat;
mod settle;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tracing::Instrument;

use self::heartbeat::heartbeat;
pub(crate) use self::settle::leave;
use self::settle::{Act, Settle};
use super::Inner;
use super::decide::{Rules, StepRule, is_past_pivot};
use super::kind::{StepAction, StepCall, StepOutput, WorkflowKind};
use super::kinds::{CONFIGURE, app_of};
use super::ledger::{Ledger, Stored, fence_of, put_workflow};
use super::turn::holder_lease;
use super::waist::pass;
use crate::store::{Expect, Fence, Queued, Transaction};
use crate::{
    Cancel, CancelReason, CancelRequest, Context, ErrorCode, EventKind, Failure, IdempotencyKey, Redactor,
    Result, Workflow, WorkflowState,
};

/// How a workflow that runs here is reached from outside its task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Running {
    /// Stop and write nothing more (lease lost) or only what gives the work back (shutdown).
    pub(crate) stop: Cancel,
    /// A person wants it to end.
    pub(crate) user: Cancel,
    /// A person gave it up: also what is undone, or comes after the pivot, ends.
    pub(crate) given_up: Cancel,
}

impl Running {
    /// Stops what a person wants stopped.
    pub(crate) fn heed(&self, wishes: &Workflow) {
        if wishes.abandoned.is_some() {
            self.given_up.cancel(CancelReason::User);
        }
        if wishes.abandoned.is_some() || wishes.cancel.is_some() {
            self.user.cancel(CancelReason::User);
        }
    }
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
    if let Err(error) = run.look_for_freeze().await {
        // Its turn comes again when the lease has run out.
        return tracing::warn!(parent: &span, error = %error, "can't look whether deploys are frozen");
    }
    match run.give_back().await {
        Ok(false) => {}
        Ok(true) => return,
        Err(error) => {
            return tracing::warn!(parent: &span, error = %error, "can't look where its processes are");
        }
    }
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
        StepRule { known: def.is_some(), undo: def.map_or(step.undo, |def| def.step.has_undo()) }
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

    /// What was asked for before a freeze and waited until now is refused. Only a roll-out of config goes on: its change was
    /// acknowledged, or an add-on has new credentials.
    async fn look_for_freeze(&mut self) -> Result<()> {
        let waited = self.workflow.state == WorkflowState::Queued;
        if let Some(app) = self.workflow.app()
            && waited
            && self.kind.makes_releases
            && self.kind.name.as_str() != CONFIGURE
            && let Some(freeze) = self.inner.freeze_of(app).await?
        {
            self.workflow.failure = Some(Failure::of(&freeze.refusal(), None, 0, self.inner.clock.now()));
        }
        Ok(())
    }

    /// Leaves it as it is to the engines of the node that the app's processes are on; whether it did.
    async fn give_back(&mut self) -> Result<bool> {
        if self.inner.runtime.node().is_none() {
            return Ok(false);
        }
        let Some(name) = self.workflow.app().cloned().or_else(|| app_of(&self.workflow)) else {
            return Ok(false);
        };
        let Some(app) = self.inner.ledger.find_app(&name).await? else { return Ok(false) };
        // Giving it up is something that everybody can do.
        let elsewhere = self.inner.elsewhere(&app.value).await?.filter(|_| self.workflow.abandoned.is_none());
        let Some(elsewhere) = elsewhere else { return Ok(false) };
        let mut next = self.workflow.clone();
        next.not_before = Some(self.inner.clock.now() + elsewhere.after);
        let said = next.held.replace(elsewhere.why.clone());
        let write = put_workflow(&next, Expect::Rev(self.rev.load(std::sync::atomic::Ordering::Acquire)))?;
        let mut tx = Transaction::new().fenced(self.fence).write(write);
        if said.as_ref() != Some(&elsewhere.why) {
            let held = EventKind::Held { why: elsewhere.why };
            Ledger::note(&mut tx, &self.inner.ledger.event(self.app(), Some(next.id), held))?;
        }
        self.inner.store.commit(tx).await.map(|_| true)
    }

    /// Calls a step through the waist, and stops it when it must stop.
    async fn call(&self, index: usize, action: StepAction) -> Result<StepOutput> {
        let cancel = Cancel::new();
        let call = self.step_call(&self.workflow, index, action, cancel.clone());
        let timeout = self.kind.get(&call.step).map_or(Duration::MAX, |def| def.timeout);
        // After the pivot, and on the way back, a person's cancel comes too late. What was given up before still gets its
        // chance to be undone.
        let mut user = Cancel::new();
        if action == StepAction::Run && !is_past_pivot(&self.workflow, &self.rules) {
            user = self.running.user.clone();
        } else if !self.running.given_up.is_cancelled() {
            user = self.running.given_up.clone();
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

impl WorkflowState {
    /// Whether an engine works on it, or will.
    pub(crate) fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Undoing | Self::Rewinding)
    }
}
