//! Finds out what each open workflow of an app waits for.

use std::time::Duration;

use super::decide::is_past_pivot;
use super::kinds::{CONFIGURE, DEPLOY};
use super::ledger::Stored;
use super::{Engine, Inner};
use crate::explanation::{
    Ahead, Explanation, LastDeploy, LiveRelease, OpenWorkflow, ProcessCount, Remedy, WaitsFor,
};
use crate::store::{ListQuery, QueueState, Queued, turn_lease};
use crate::{
    App, AppName, Failure, Freeze, InstanceState, Result, StepRecord, StepState, Subject, Workflow,
    WorkflowState,
};

/// Among so many of the newest workflows that have ended the last deploy is looked for.
const LOOK_BACK: usize = 50;

/// So long the runtime may take to say what runs. Whoever asks wants to know what hangs, and not to hang too.
const PATIENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// Says how an app stands: what each workflow that is under way, its own and its add-ons', waits for, since when, what
    /// was tried, what comes next and when, and which action frees it; and what is live, how much of it is up, and what
    /// came of its last deploy.
    ///
    /// # Errors
    /// `not_found`; what the runtime says when it can't be looked at.
    pub async fn explain(&self, app: &AppName) -> Result<Explanation> {
        let inner = &self.inner;
        let app = inner.ledger.app(app).await?.value;
        let freeze = inner.freeze_of(&app.name).await?;
        let mut open = inner.explain_open(&Subject::App(app.name.clone()), freeze.as_ref()).await?;
        for addon in inner.ledger.addons(app.id).await? {
            open.extend(inner.explain_open(&Subject::Addon(addon.id), None).await?);
        }
        Ok(Explanation {
            at: inner.clock.now(),
            live: inner.explain_live(&app).await?,
            processes: inner.count_processes(&app).await?,
            ahead: app.is_ahead(),
            maintenance: app.maintenance,
            neglect: inner.looks.neglect(&app.name),
            last_deploy: inner.last_deploy(&app).await?,
            app: app.name,
            freeze,
            open,
        })
    }
}

impl Inner {
    async fn explain_live(&self, app: &App) -> Result<Option<LiveRelease>> {
        let Some(live) = &app.live else { return Ok(None) };
        let release = self.ledger.release(app, live.version).await?.value;
        let made_by = self.ledger.find_workflow(release.workflow).await?;
        let switched =
            made_by.and_then(|(workflow, _)| workflow.value.step("switch_route").and_then(|s| s.started_at));
        // History is kept only so long.
        let since = switched.unwrap_or(release.created_at);
        Ok(Some(LiveRelease { version: live.version, description: release.description, since }))
    }

    async fn count_processes(&self, app: &App) -> Result<Vec<ProcessCount>> {
        let Some(live) = &app.live else { return Ok(Vec::new()) };
        let observed = tokio::time::timeout(PATIENCE, self.runtime.observe(&app.name)).await;
        let hangs = observed.is_err();
        let observed = observed.unwrap_or_else(|_| Ok(Vec::new()))?;
        let elsewhere = self.elsewhere(app).await?;
        let counts = live.formation.iter().map(|(process, scale)| {
            let ours = observed.iter().filter(|i| i.release == live.release && i.name.process == *process);
            let (up, down): (Vec<_>, Vec<_>) = ours.partition(|i| i.state == InstanceState::Up);
            ProcessCount {
                process: process.clone(),
                up: u32::try_from(up.len()).unwrap_or(u32::MAX),
                wanted: scale.quantity,
                reason: match &elsewhere {
                    Some(elsewhere) => Some(format!("it can't be seen from here; ask {}", elsewhere.why)),
                    None if hangs => Some("the runtime doesn't answer".into()),
                    None => down.iter().find_map(|i| i.reason.clone()),
                },
            }
        });
        Ok(counts.collect())
    }

    async fn last_deploy(&self, app: &App) -> Result<Option<LastDeploy>> {
        let subject = Subject::App(app.name.clone()).to_string();
        let ended = ListQuery::of(subject).states([QueueState::Ended]).descending().limit(LOOK_BACK);
        let ended = self.ledger.workflows(&ended).await?.into_iter().map(|(stored, _)| stored.value);
        // An earlier life of the same name isn't this app's.
        let mut deploys = ended.filter(|w| w.kind.as_str() == DEPLOY && w.created_at >= app.created_at);
        Ok(deploys.find_map(|workflow| {
            let at = workflow.ended_at?;
            let Workflow { id, state, failure, .. } = workflow;
            Some(LastDeploy { workflow: id, state, at, failure })
        }))
    }

    async fn explain_open(&self, subject: &Subject, freeze: Option<&Freeze>) -> Result<Vec<OpenWorkflow>> {
        let line = self.ledger.open_workflows(subject).await?;
        let turn = self.store.leased(&turn_lease(&subject.to_string())).await?;
        let explained = line.iter().enumerate().map(|(index, (stored, standing))| {
            let held = turn
                .as_ref()
                .filter(|holder| standing.entry.turn.map(|turn| turn.to_string()).as_ref() != Some(holder));
            self.explain_one(&stored.value, standing, ahead(&line, index), held.is_some(), freeze)
        });
        Ok(explained.collect())
    }

    fn explain_one(
        &self,
        workflow: &Workflow,
        standing: &Queued,
        ahead: Vec<Ahead>,
        held: bool,
        freeze: Option<&Freeze>,
    ) -> OpenWorkflow {
        let step = current(workflow);
        let undoing = matches!(workflow.state, WorkflowState::Undoing | WorkflowState::Rewinding);
        let attempts = step.map_or(0, |step| if undoing { step.undo_attempt } else { step.attempt });
        let failure = step.and_then(|step| step.failure.clone()).or_else(|| workflow.failure.clone());
        let waits_for = self.waits_for(workflow, standing, step, ahead, held);
        let rules = self.rules_of(workflow);
        let past_pivot = rules.is_some_and(|rules| is_past_pivot(workflow, &rules));
        let waits_its_turn = matches!(workflow.state, WorkflowState::Queued | WorkflowState::Parked);
        let refused = waits_its_turn
            && !past_pivot
            && self.makes_releases(&workflow.kind)
            && workflow.kind.as_str() != CONFIGURE;
        let begun = step.and_then(|step| step.started_at).filter(|_| workflow.state != WorkflowState::Queued);
        let since = match &waits_for {
            WaitsFor::Takeover { .. } => standing.lease_until,
            _ => begun,
        };
        OpenWorkflow {
            id: workflow.id,
            kind: workflow.kind.clone(),
            subject: workflow.subject.clone(),
            state: workflow.state,
            by: workflow.by.clone(),
            asked_at: workflow.created_at,
            step: step.map(|step| step.name.clone()),
            since: since.unwrap_or(workflow.created_at),
            attempts,
            stuck: (past_pivot || undoing) && failure.as_ref().is_some_and(Failure::is_stuck),
            failure,
            takeovers: workflow.takeovers,
            freeze: freeze.filter(|_| refused).cloned(),
            remedies: remedies(&waits_for, past_pivot || undoing),
            waits_for,
        }
    }

    fn waits_for(
        &self,
        workflow: &Workflow,
        standing: &Queued,
        step: Option<&StepRecord>,
        ahead: Vec<Ahead>,
        held: bool,
    ) -> WaitsFor {
        let now = self.clock.now();
        let says = || step.and_then(|step| step.output.as_str()).unwrap_or("somebody's answer").to_owned();
        match (standing.owner, standing.lease_until) {
            (Some(engine), Some(until)) if until > now => {
                return WaitsFor::Step { engine, here: engine == self.owner, until };
            }
            _ if self.rules_of(workflow).is_none() => {
                return WaitsFor::Program { version: workflow.kind_version };
            }
            (Some(engine), _) => return WaitsFor::Takeover { engine },
            (None, _) => {}
        }
        if workflow.state == WorkflowState::Parked {
            return WaitsFor::Answer { why: says() };
        }
        if workflow.state == WorkflowState::Queued && !ahead.is_empty() {
            return WaitsFor::Turn(ahead);
        }
        if held {
            return WaitsFor::Client;
        }
        match workflow.not_before.filter(|at| *at > now) {
            None => WaitsFor::Engine,
            Some(at) if workflow.held.is_some() => {
                WaitsFor::Look { at, why: workflow.held.clone().unwrap_or_default() }
            }
            Some(at) if step.is_some_and(has_looked) => WaitsFor::Look { at, why: says() },
            Some(at) => WaitsFor::Attempt { at },
        }
    }
}

/// Whether its last attempt did not fail, but found that it has to wait.
fn has_looked(step: &StepRecord) -> bool {
    let failed_last = step.failure.as_ref().is_some_and(|failure| failure.attempt == step.attempt);
    step.state == StepState::Retrying && step.output.is_string() && !failed_last
}

/// The step that a workflow is at.
fn current(workflow: &Workflow) -> Option<&StepRecord> {
    let mut steps = workflow.steps.iter();
    match workflow.state {
        WorkflowState::Undoing | WorkflowState::Rewinding => {
            steps.find(|step| step.state == StepState::Undoing)
        }
        WorkflowState::Parked => steps.find(|step| step.state == StepState::Waiting),
        _ => steps.find(|step| !matches!(step.state, StepState::Done | StepState::Skipped)),
    }
}

/// Those that go before the one at `index`: what runs, and what queued before it.
fn ahead(line: &[(Stored<Workflow>, Queued)], index: usize) -> Vec<Ahead> {
    let others = line.iter().enumerate().filter(|(other, (_, standing))| match standing.entry.state {
        QueueState::Active => *other != index,
        QueueState::Queued => *other < index,
        QueueState::Parked | QueueState::Ended => false,
    });
    let others = others.map(|(_, (stored, _))| &stored.value);
    others.map(|other| Ahead { id: other.id, kind: other.kind.clone(), state: other.state }).collect()
}

/// What a person can do, the mildest first.
fn remedies(waits_for: &WaitsFor, only_forward_or_back: bool) -> Vec<Remedy> {
    let end = if only_forward_or_back { Remedy::Abandon } else { Remedy::Cancel };
    match waits_for {
        WaitsFor::Attempt { .. } | WaitsFor::Look { .. } => vec![Remedy::Retry, end],
        WaitsFor::Answer { .. } => vec![Remedy::Signal, end],
        WaitsFor::Program { .. } => vec![Remedy::Abandon],
        WaitsFor::Turn(_) | WaitsFor::Client | WaitsFor::Engine | WaitsFor::Step { .. } => vec![end],
        // It goes on by itself as soon as there is an engine.
        WaitsFor::Takeover { .. } => Vec::new(),
    }
}
