//! Puts workflows into the queue of their subject, by the queue's rules.

use serde::Serialize;

use super::Inner;
use super::kinds::{AddonInput, CONFIGURE, DEPLOY, DEPROVISION, DESTROY, DestroyInput, PROVISION};
use super::ledger::{Ledger, put_addon, put_app, put_workflow};
use crate::store::{Expect, QueueState, Table, Transaction, Write};
use crate::{
    AddonState, Ending, Error, ErrorCode, EventKind, KindName, Principal, Result, StepRecord, Subject,
    Transition, TurnId, Workflow, WorkflowId, WorkflowState,
};

/// A workflow to be queued.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) kind: KindName,
    pub(crate) subject: Subject,
    pub(crate) input: serde_json::Value,
    pub(crate) by: Principal,
    pub(crate) turn: Option<TurnId>,
}

impl Order {
    pub(crate) fn new(
        kind: KindName,
        subject: Subject,
        input: &impl Serialize,
        by: &Principal,
    ) -> Result<Self> {
        let input = serde_json::to_value(input).map_err(|e| {
            Error::new(ErrorCode::Internal, "a workflow's input can't be written as JSON").with_source(e)
        })?;
        Ok(Self { kind, subject, input, by: by.clone(), turn: None })
    }
}

impl Inner {
    /// Adds a workflow to a transaction and says which one does the work: a queued roll-out of config does that of
    /// a new one too. Whoever commits must also write the subject's own row with its revision, so that two
    /// orders for one subject can't miss each other.
    pub(crate) async fn order(&self, tx: &mut Transaction, order: Order) -> Result<WorkflowId> {
        let newest = self.kinds.range((order.kind.clone(), 0)..=(order.kind.clone(), u32::MAX)).next_back();
        let Some((_, kind)) = newest else {
            let what = format!("this engine knows no workflow of the kind {}", order.kind);
            return Err(Error::new(ErrorCode::NotFound, what));
        };
        for (queued, standing) in self.ledger.open_workflows(&order.subject).await? {
            if standing.entry.state != QueueState::Queued || queued.value.kind != order.kind {
                continue;
            }
            if order.kind.as_str() == CONFIGURE {
                return Ok(queued.value.id);
            }
            if order.kind.as_str() == DEPLOY && !has_begun(&queued.value) {
                let mut old = queued.value;
                end(&mut old, Ending::Superseded, self.clock.now())?;
                tx.writes.push(put_workflow(&old, Expect::Rev(queued.rev))?);
                let ended = EventKind::Ended { state: old.state, failure: None };
                Ledger::note(tx, &self.ledger.event(old.app(), Some(old.id), ended))?;
            }
        }
        let workflow = Workflow {
            id: WorkflowId::new(),
            kind: kind.name.clone(),
            kind_version: kind.version,
            subject: order.subject,
            state: WorkflowState::Queued,
            input: order.input,
            by: order.by.clone(),
            created_at: self.clock.now(),
            steps: kind
                .steps
                .iter()
                .map(|def| StepRecord::new(def.name.clone(), def.step.has_undo()))
                .collect(),
            failure: None,
            cancel: None,
            abandoned: None,
            takeovers: 0,
            not_before: None,
            held: None,
            turn: order.turn,
            ended_at: None,
        };
        tx.writes.push(put_workflow(&workflow, Expect::Absent)?);
        let queued = EventKind::Queued { kind: order.kind, by: order.by };
        Ledger::note(tx, &self.ledger.event(workflow.app(), Some(workflow.id), queued))?;
        Ok(workflow.id)
    }
}

impl Inner {
    /// Takes back what was written when a workflow was asked for that ends without having begun.
    pub(crate) async fn take_back(&self, tx: &mut Transaction, workflow: &Workflow) -> Result<()> {
        let unread = |e| Error::new(ErrorCode::Corrupt, "a workflow's input can't be read").with_source(e);
        let input = workflow.input.clone();
        match workflow.kind.as_str() {
            DESTROY => {
                let input: DestroyInput = serde_json::from_value(input).map_err(unread)?;
                let Some(name) = workflow.app() else { return Ok(()) };
                let stored = self.ledger.find_app(name).await?;
                if let Some(mut stored) = stored.filter(|stored| stored.value.id == input.app_id) {
                    stored.value.destroying = false;
                    tx.writes.push(put_app(&stored.value, Expect::Rev(stored.rev))?);
                }
            }
            PROVISION => {
                let input: AddonInput = serde_json::from_value(input).map_err(unread)?;
                tx.writes.push(Write::delete(Table::Addons, input.addon.to_string(), Expect::Any));
            }
            DEPROVISION => {
                let input: AddonInput = serde_json::from_value(input).map_err(unread)?;
                if let Some(mut stored) = self.ledger.addon(input.addon).await? {
                    stored.value.state = AddonState::Provisioned;
                    tx.writes.push(put_addon(&stored.value, Expect::Rev(stored.rev))?);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether something of it may have happened: it was parked and waits for its turn again.
pub(crate) fn has_begun(workflow: &Workflow) -> bool {
    workflow.steps.iter().any(|step| step.attempt > 0)
}

/// Ends a workflow that nobody works on.
pub(crate) fn end(workflow: &mut Workflow, ending: Ending, at: chrono::DateTime<chrono::Utc>) -> Result<()> {
    let transition = Transition::Dropped(ending);
    workflow.state = workflow.state.apply(transition).map_err(|e| {
        Error::new(ErrorCode::Conflict, "the workflow has begun or ended meanwhile").with_source(e)
    })?;
    workflow.ended_at = Some(at);
    Ok(())
}
