//! What people and tools ask of a platform. Every call that is acknowledged is durable.

use std::collections::BTreeMap;

use serde::Serialize;

use super::kinds::{
    AddonInput, CONFIGURE, DEPLOY, DEPROVISION, DESTROY, DeployInput, DestroyInput, HeadInput, PROVISION,
    ROLLBACK, RollbackInput, SCALE, kind_name,
};
use super::ledger::{DomainOwner, Ledger, Stored, encode, put_addon, put_app, put_workflow};
use super::steps::{chosen, hides};
use super::submit::{Order, end, has_begun};
use super::turn::Turn;
use super::{Engine, Inner, WorkflowHandle};
use crate::store::{Expect, QueueState, Table, Transaction, Write};
use crate::{
    Addon, AddonId, AddonService, AddonState, App, AppId, AppName, CancelReason, CancelRequest, ConfigKey,
    ConfigVars, DomainName, Ending, Error, ErrorCode, EventKind, Head, KindName, PlanName, Principal,
    ProcessType, ReleaseState, Result, Scale, SourceRef, Subject, Transition, TurnId, Version, WorkflowId,
    WorkflowState,
};

/// What to deploy.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeployOrder {
    /// The code.
    pub source: SourceRef,
    /// What the release is called; `Deploy` and the commit where `None`.
    pub description: Option<String>,
    /// Whoever keeps the app's turn beyond the deploy's end.
    pub turn: Option<TurnId>,
}

impl DeployOrder {
    /// Deploys this code.
    pub fn new(source: SourceRef) -> Self {
        Self { source, description: None, turn: None }
    }

    /// As a release of this description.
    #[must_use]
    pub fn described(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// While this turn is kept: undone before the pivot when its holder is gone.
    #[must_use]
    pub fn during(mut self, turn: &Turn) -> Self {
        self.turn = Some(turn.id());
        self
    }
}

/// To which release to go back.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RollbackOrder {
    /// The release; the one before the live one where `None`.
    pub to: Option<Version>,
    /// Keeps today's config instead of the release's own.
    pub keep_config: bool,
}

impl RollbackOrder {
    /// To the release before the live one, with its config.
    pub fn previous() -> Self {
        Self { to: None, keep_config: false }
    }

    /// To this release, with its config.
    pub fn to(version: Version) -> Self {
        Self { to: Some(version), keep_config: false }
    }

    /// Keeps today's config.
    #[must_use]
    pub fn keeping_config(mut self) -> Self {
        self.keep_config = true;
        self
    }
}

/// What to change of an app's config.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ConfigEdit {
    /// Set to these values.
    pub set: ConfigVars,
    /// Removed.
    pub unset: Vec<ConfigKey>,
}

impl ConfigEdit {
    /// Sets these.
    pub fn set(vars: ConfigVars) -> Self {
        Self { set: vars, unset: Vec::new() }
    }

    /// Removes these.
    pub fn unset(keys: impl IntoIterator<Item = ConfigKey>) -> Self {
        Self { set: ConfigVars::new(), unset: keys.into_iter().collect() }
    }
}

/// Which add-on to make.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AddonOrder {
    /// The service, by its name or an alias.
    pub service: AddonService,
    /// The plan; the default where `None`.
    pub plan: Option<PlanName>,
    /// The name that its config vars begin with; the service's own where `None`.
    pub attachment: Option<ConfigKey>,
}

impl AddonOrder {
    /// This service with its default plan and name.
    pub fn new(service: AddonService) -> Self {
        Self { service, plan: None, attachment: None }
    }

    /// Under this name.
    #[must_use]
    pub fn named(mut self, attachment: ConfigKey) -> Self {
        self.attachment = Some(attachment);
        self
    }
}

impl Engine {
    /// Makes an app.
    ///
    /// # Errors
    /// `exists`.
    pub async fn create_app(&self, name: &AppName, by: &Principal) -> Result<App> {
        let inner = &self.inner;
        let id = AppId::new();
        let app = App {
            id,
            name: name.clone(),
            created_at: inner.clock.now(),
            created_by: by.clone(),
            head: Head::default(),
            live: None,
            last_version: None,
            domains: Vec::new(),
            buildpacks: Vec::new(),
            maintenance: false,
            destroying: false,
            key: inner.vault.new_app_key(id)?,
        };
        let default = inner.default_domain(name)?;
        if inner.ledger.domain(&default).await?.is_some() {
            return Err(Error::new(
                ErrorCode::Exists,
                format!("the domain {default} belongs to another app"),
            ));
        }
        let mut tx = Transaction::new().write(put_app(&app, Expect::Absent)?);
        let created = EventKind::AppCreated { by: by.clone() };
        Ledger::note(&mut tx, &inner.ledger.event(Some(name), None, created))?;
        match inner.store.commit(tx).await {
            Ok(_) => {}
            Err(error) if error.code() == ErrorCode::Conflict => {
                return Err(Error::new(ErrorCode::Exists, format!("there is an app {name} already")));
            }
            Err(error) => return Err(error),
        }
        inner.refresh_routes(name).await?;
        Ok(app)
    }

    /// Makes an app, where there is none of this name.
    ///
    /// # Errors
    /// As [`Engine::create_app`], but for the app's own being there.
    pub async fn ensure_app(&self, name: &AppName, by: &Principal) -> Result<App> {
        match self.app(name).await {
            Err(error) if error.code() == ErrorCode::NotFound => {}
            found => return found,
        }
        match self.create_app(name, by).await {
            // Somebody else made it meanwhile.
            Err(error) if error.code() == ErrorCode::Exists => self.app(name).await,
            made => made,
        }
    }

    /// Deploys code: fetch, build, release, run, route.
    ///
    /// # Errors
    /// `not_found` for the app.
    pub async fn deploy(&self, app: &AppName, order: DeployOrder, by: &Principal) -> Result<WorkflowHandle> {
        self.change(app, |inner, stored| {
            let _ = inner;
            let (source, description) = (order.source.clone(), order.description.clone());
            let input = DeployInput { app_id: stored.id, source, description };
            let mut workflow = order_for(stored, DEPLOY, &input, by)?;
            workflow.turn = order.turn;
            Ok((Vec::new(), Some(workflow)))
        })
        .await
        .and_then(handle)
    }

    /// Makes a release of an older one's artifact and config.
    ///
    /// # Errors
    /// `not_found` for app or release; `invalid_params` for a release that never went live.
    pub async fn rollback(
        &self,
        app: &AppName,
        order: RollbackOrder,
        by: &Principal,
    ) -> Result<WorkflowHandle> {
        let stored = self.inner.ledger.app(app).await?.value;
        let to = match order.to {
            Some(version) => version,
            None => self.previous_version(&stored).await?,
        };
        let release = self.inner.ledger.release(&stored, to).await?.value;
        if release.state != ReleaseState::Succeeded {
            let what = format!(
                "{app} can't go back to {to}: that release {}",
                match release.state {
                    ReleaseState::Failed => "failed",
                    ReleaseState::Pending | ReleaseState::Succeeded => "isn't live yet",
                }
            );
            return Err(Error::new(ErrorCode::InvalidParams, what));
        }
        self.change(app, |_, stored| {
            let input = RollbackInput { app_id: stored.id, to, keep_config: order.keep_config };
            Ok((Vec::new(), Some(order_for(stored, ROLLBACK, &input, by)?)))
        })
        .await
        .and_then(handle)
    }

    async fn previous_version(&self, app: &App) -> Result<Version> {
        let live = app.live.as_ref().map(|live| live.version);
        let releases = self.inner.ledger.releases(app.id, None).await?;
        let older = releases.iter().find(|r| r.state == ReleaseState::Succeeded && Some(r.version) < live);
        let nothing =
            || Error::new(ErrorCode::NotFound, format!("{} has no older release to go back to", app.name));
        older.map(|release| release.version).ok_or_else(nothing)
    }

    /// Changes config vars: at once in the app's head, and by a new release where one is live.
    ///
    /// # Errors
    /// `invalid_params` for names that belong to the platform or to an add-on; `limit_exceeded`.
    pub async fn configure(&self, app: &AppName, edit: ConfigEdit, by: &Principal) -> Result<WorkflowHandle> {
        let keys: Vec<ConfigKey> = edit.set.keys().cloned().chain(edit.unset.iter().cloned()).collect();
        if let Some(key) = keys.iter().find(|key| key.is_reserved()) {
            let what = format!("the platform itself sets {key} for every process; choose another name");
            return Err(Error::new(ErrorCode::InvalidParams, what));
        }
        let stored = self.inner.ledger.app(app).await?.value;
        for attachment in &stored.head.attachments {
            let addon = self.inner.ledger.addon(attachment.addon).await?;
            let given = addon.as_ref().and_then(|a| keys.iter().find(|key| a.value.vars.contains_key(*key)));
            if let Some(key) = given {
                let what =
                    format!("{key} comes from the add-on attached as {}; detach that first", attachment.name);
                return Err(Error::new(ErrorCode::InvalidParams, what));
            }
        }
        let description = describe(&edit);
        self.change(app, |inner, app| {
            let key = inner.vault.app_key(app.id, &app.key)?;
            let mut all = key.open_vars(&app.head.config)?;
            all.extend(edit.set.clone());
            for gone in &edit.unset {
                all.remove(gone);
            }
            all.check_size()?;
            app.head.config.extend(key.seal_vars(&edit.set)?);
            app.head.config.retain(|key, _| !edit.unset.contains(key));
            app.head.rev += 1;
            let input = HeadInput { app_id: app.id, description: description.clone() };
            let changed = EventKind::ConfigChanged { keys: keys.clone(), by: by.clone() };
            Ok((vec![changed], Some(order_for(app, CONFIGURE, &input, by)?)))
        })
        .await
        .and_then(handle)
    }

    /// Changes how many of each process type run.
    ///
    /// # Errors
    /// `invalid_params` for a type that the live release doesn't have.
    pub async fn scale(
        &self,
        app: &AppName,
        formation: BTreeMap<ProcessType, Scale>,
        by: &Principal,
    ) -> Result<WorkflowHandle> {
        let stored = self.inner.ledger.app(app).await?.value;
        if let Some(live) = &stored.live {
            let release = self.inner.ledger.release(&stored, live.version).await?.value;
            if let Some(unknown) =
                formation.keys().find(|p| p.is_release() || release.artifact.processes.get(p).is_none())
            {
                let known: Vec<_> = release.artifact.processes.iter().map(|(p, _)| p.as_str()).collect();
                let what =
                    format!("{app} has no process type {unknown} to scale; it has {}", known.join(", "));
                return Err(Error::new(ErrorCode::InvalidParams, what));
            }
        }
        self.change(app, |_, app| {
            app.head.formation.extend(formation.clone());
            let quantities =
                formation.iter().map(|(process, scale)| (process.clone(), scale.quantity)).collect();
            let scaled = EventKind::Scaled { formation: quantities, by: by.clone() };
            let input = HeadInput { app_id: app.id, description: "Scale".into() };
            Ok((vec![scaled], Some(order_for(app, SCALE, &input, by)?)))
        })
        .await
        .and_then(handle)
    }

    /// Makes an add-on and attaches it. The workflow is the add-on's own: it ends once the app's roll-out with
    /// the new config vars is queued.
    ///
    /// # Errors
    /// `not_found` for the service; `unavailable` where it can't be had; `exists` for the attachment's name.
    pub async fn add_addon(
        &self,
        app: &AppName,
        order: AddonOrder,
        by: &Principal,
    ) -> Result<(AddonId, WorkflowHandle)> {
        let inner = &self.inner;
        let (_, catalog) = inner.provider(&order.service).await?;
        let plan = chosen(&catalog, order.plan.as_ref())?;
        if let Some(other) = order.plan.filter(|other| *other != plan) {
            let plans: Vec<_> = catalog.plans.iter().map(|plan| plan.name.as_str()).collect();
            let what = format!("{} has no plan {other}; it has {}", catalog.service, plans.join(", "));
            return Err(Error::new(ErrorCode::InvalidParams, what));
        }
        let attachment = order.attachment.unwrap_or_else(|| catalog.attachment.clone());
        let stored = inner.ledger.app(app).await?;
        let taken =
            inner.ledger.addons(stored.value.id).await?.iter().any(|addon| addon.attachment == attachment);
        if taken {
            let what = format!("{app} has an add-on attached as {attachment} already; choose another name");
            return Err(Error::new(ErrorCode::Exists, what));
        }
        if let Some(key) = hides(&stored.value, &attachment) {
            let what = format!(
                "{app} has set {key} itself, which would hide the add-on's; unset it, or attach under another name"
            );
            return Err(Error::new(ErrorCode::Exists, what));
        }
        let id = AddonId::new();
        let addon = Addon {
            id,
            service: catalog.service.clone(),
            plan: plan.clone(),
            app: app.clone(),
            app_id: stored.value.id,
            attachment: attachment.clone(),
            state: AddonState::Provisioning,
            created_at: inner.clock.now(),
            vars: BTreeMap::new(),
        };
        let input = AddonInput {
            app: app.clone(),
            app_id: addon.app_id,
            addon: id,
            service: catalog.service,
            plan,
            attachment,
        };
        let order = Order::new(kind_name(PROVISION), Subject::Addon(id), &input, by)?;
        let mut tx = Transaction::new()
            .write(put_app(&stored.value, Expect::Rev(stored.rev))?)
            .write(put_addon(&addon, Expect::Absent)?);
        let workflow = inner.order(&mut tx, order).await?;
        inner.store.commit(tx).await?;
        Ok((id, self.workflow(workflow)))
    }

    /// Detaches an add-on, and destroys it and its data once the app no longer runs with it.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn remove_addon(&self, addon: AddonId, by: &Principal) -> Result<WorkflowHandle> {
        let inner = &self.inner;
        let gone = || Error::new(ErrorCode::NotFound, format!("there is no add-on {addon}"));
        let Stored { rev, value: mut row } = inner.ledger.addon(addon).await?.ok_or_else(gone)?;
        row.state = AddonState::Deprovisioning;
        let input = AddonInput {
            app: row.app.clone(),
            app_id: row.app_id,
            addon,
            service: row.service.clone(),
            plan: row.plan.clone(),
            attachment: row.attachment.clone(),
        };
        let order = Order::new(kind_name(DEPROVISION), Subject::Addon(addon), &input, by)?;
        let mut tx = Transaction::new().write(put_addon(&row, Expect::Rev(rev))?);
        let workflow = inner.order(&mut tx, order).await?;
        inner.store.commit(tx).await?;
        Ok(self.workflow(workflow))
    }

    /// Destroys an app with its releases, add-ons and data. Its queued workflows are cancelled.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn destroy_app(&self, app: &AppName, by: &Principal) -> Result<WorkflowHandle> {
        for (queued, standing) in self.inner.ledger.open_workflows(&Subject::App(app.clone())).await? {
            if standing.entry.state != QueueState::Active && queued.value.kind.as_str() != DESTROY {
                self.cancel(queued.value.id, "the app is being destroyed", by).await?;
            }
        }
        self.change(app, |_, app| {
            app.destroying = true;
            Ok((Vec::new(), Some(order_for(app, DESTROY, &DestroyInput { app_id: app.id }, by)?)))
        })
        .await
        .and_then(handle)
    }

    /// Gives an app a host name beside the platform's own for it.
    ///
    /// # Errors
    /// `exists` when it belongs to an app.
    pub async fn add_domain(&self, app: &AppName, domain: DomainName, by: &Principal) -> Result<()> {
        let inner = &self.inner;
        let platform = inner.options.domain.as_str();
        let ours = domain.as_str() == platform || domain.as_str().ends_with(&format!(".{platform}"));
        if ours || inner.ledger.domain(&domain).await?.is_some() {
            return Err(Error::new(ErrorCode::Exists, format!("the domain {domain} is taken")));
        }
        self.change_with(app, |_, app| {
            app.domains.push(domain.clone());
            let owner = DomainOwner { app: app.name.clone(), app_id: app.id };
            let write = Write::put(
                Table::Domains,
                domain.as_str(),
                app.id.to_string(),
                Expect::Absent,
                encode(&owner)?,
            );
            let what = format!("added the domain {domain}");
            Ok((vec![write], vec![EventKind::AppChanged { what, by: by.clone() }], None))
        })
        .await?;
        inner.refresh_routes(app).await
    }

    /// Takes a host name from an app.
    ///
    /// # Errors
    /// `not_found` when it isn't the app's.
    pub async fn remove_domain(&self, app: &AppName, domain: &DomainName, by: &Principal) -> Result<()> {
        self.change_with(app, |_, app| {
            if !app.domains.contains(domain) {
                return Err(Error::new(ErrorCode::NotFound, format!("{} has no domain {domain}", app.name)));
            }
            app.domains.retain(|other| other != domain);
            let write = Write::delete(Table::Domains, domain.as_str(), Expect::Any);
            let what = format!("removed the domain {domain}");
            Ok((vec![write], vec![EventKind::AppChanged { what, by: by.clone() }], None))
        })
        .await?;
        self.inner.refresh_routes(app).await
    }

    /// Shows users the maintenance page, or no longer.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn set_maintenance(&self, app: &AppName, on: bool, by: &Principal) -> Result<()> {
        self.change(app, |_, app| {
            app.maintenance = on;
            let what = format!("turned maintenance mode {}", if on { "on" } else { "off" });
            Ok((vec![EventKind::AppChanged { what, by: by.clone() }], None))
        })
        .await?;
        self.inner.refresh_routes(app).await
    }

    /// Chooses an app's buildpacks, for its next deploy.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn set_buildpacks(&self, app: &AppName, buildpacks: Vec<String>, by: &Principal) -> Result<()> {
        self.change(app, |_, app| {
            app.buildpacks.clone_from(&buildpacks);
            let what = "chose buildpacks".to_owned();
            Ok((vec![EventKind::AppChanged { what, by: by.clone() }], None))
        })
        .await
        .map(drop)
    }

    /// Queues a workflow of a kind that the embedder registered.
    ///
    /// # Errors
    /// `not_found` for the kind or the app.
    pub async fn submit(
        &self,
        kind: &KindName,
        subject: Subject,
        input: &(impl Serialize + Sync),
        by: &Principal,
    ) -> Result<WorkflowHandle> {
        let inner = &self.inner;
        let mut tx = Transaction::new();
        if let Subject::App(app) = &subject {
            let stored = inner.ledger.app(app).await?;
            tx = tx.write(put_app(&stored.value, Expect::Rev(stored.rev))?);
        }
        let order = Order::new(kind.clone(), subject, input, by)?;
        let workflow = inner.order(&mut tx, order).await?;
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
            if rules.is_some_and(|rules| super::decide::is_past_pivot(&next, &rules)) {
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

    async fn change(
        &self,
        app: &AppName,
        change: impl Fn(&Inner, &mut App) -> Result<(Vec<EventKind>, Option<Order>)> + Sync,
    ) -> Result<(Self, Option<WorkflowId>)> {
        let changed = self.change_with(app, |inner, app| {
            let (events, order) = change(inner, app)?;
            Ok((Vec::new(), events, order))
        });
        changed.await
    }

    /// Changes an app's row, with whatever goes with it, against others who change it at the same time.
    async fn change_with(
        &self,
        name: &AppName,
        change: impl Fn(&Inner, &mut App) -> Result<(Vec<Write>, Vec<EventKind>, Option<Order>)> + Sync,
    ) -> Result<(Self, Option<WorkflowId>)> {
        let inner = &self.inner;
        let mut pause = std::time::Duration::from_millis(1);
        for _ in 0..inner.options.max_conflicts {
            let Stored { rev, value: mut app } = inner.ledger.app(name).await?;
            if app.destroying {
                let what = format!("the app {name} is being destroyed");
                return Err(Error::new(ErrorCode::Conflict, what));
            }
            let (writes, events, order) = change(inner, &mut app)?;
            let mut tx = Transaction::new().write(put_app(&app, Expect::Rev(rev))?);
            tx.writes.extend(writes);
            for event in events {
                Ledger::note(&mut tx, &inner.ledger.event(Some(name), None, event))?;
            }
            let workflow = match order {
                Some(order) => Some(inner.order(&mut tx, order).await?),
                None => None,
            };
            match inner.store.commit(tx).await {
                Ok(_) => return Ok((self.clone(), workflow)),
                Err(error) if error.code() == ErrorCode::Conflict => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(std::time::Duration::from_millis(100));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorCode::Conflict, format!("others kept changing the app {name}; try again")))
    }
}

fn illegal(error: crate::IllegalTransition) -> Error {
    Error::new(ErrorCode::Conflict, "the workflow isn't waiting for an answer").with_source(error)
}

fn order_for(app: &App, kind: &'static str, input: &impl Serialize, by: &Principal) -> Result<Order> {
    Order::new(kind_name(kind), Subject::App(app.name.clone()), input, by)
}

fn handle((engine, workflow): (Engine, Option<WorkflowId>)) -> Result<WorkflowHandle> {
    let nothing = || Error::new(ErrorCode::Internal, "a change that needs a workflow made none");
    workflow.map(|id| engine.workflow(id)).ok_or_else(nothing)
}

/// `Set A, B config vars; remove C config var`, as Heroku says it. Names are no secrets.
fn describe(edit: &ConfigEdit) -> String {
    let list = |verb: &str, keys: Vec<&str>| {
        let noun = if keys.len() == 1 { "config var" } else { "config vars" };
        (!keys.is_empty()).then(|| format!("{verb} {} {noun}", keys.join(", ")))
    };
    let set = list("Set", edit.set.keys().map(ConfigKey::as_str).collect());
    let unset = list("Remove", edit.unset.iter().map(ConfigKey::as_str).collect());
    [set, unset].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
