//! An add-on's own life, in its own queue: only attaching and detaching enter its app's.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use super::provision::belongs;
use crate::engine::Inner;
use crate::engine::kind::{Changes, Moment, Step, StepCall, StepOutput};
use crate::engine::kinds::{AddonInput, CONFIGURE, HeadInput, Platform, kind_name};
use crate::engine::ledger::{put_addon, put_app};
use crate::engine::submit::Order;
use crate::store::{Expect, Table, Transaction, Write};
use crate::{
    AddonState, AddonStatus, App, Attachment, BindRequest, ConfigVars, Error, ErrorCode, EventKind,
    ProvisionRequest, Result, Subject, WorkflowId,
};

/// provision: the resource itself, however long it takes.
#[derive(Debug)]
pub(crate) struct ProvisionAddon(pub(crate) Platform);

#[async_trait]
impl Step for ProvisionAddon {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        let provider = inner.provider_of(&input).await?;
        let mut request = ProvisionRequest::new(input.addon, input.plan.clone(), input.app.clone());
        request.options = input.options;
        let status = match provider.provision(&call.ctx, &request).await? {
            AddonStatus::Pending(_) => provider.status(&call.ctx, input.addon).await?,
            status => status,
        };
        match status {
            AddonStatus::Ready => Ok(StepOutput::done()),
            AddonStatus::Pending(after) => Ok(StepOutput::again(after, "the provider is making it")),
            AddonStatus::Failed(why) => {
                Err(Error::new(ErrorCode::Unavailable, format!("the add-on can't be made: {why}")))
            }
            AddonStatus::Gone => {
                Err(Error::new(ErrorCode::NotFound, "the add-on went away while it was made"))
            }
        }
    }

    fn has_undo(&self) -> bool {
        true
    }

    async fn undo(&self, call: &StepCall) -> Result<()> {
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        inner.provider_of(&input).await?.deprovision(&call.ctx, input.addon).await
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Undone = moment else { return Ok(Changes::none()) };
        let input: AddonInput = call.input()?;
        Ok(Changes::none().write(Write::delete(Table::Addons, input.addon.to_string(), Expect::Any)))
    }
}

/// bind: credentials for the app.
#[derive(Debug)]
pub(crate) struct BindAddon(pub(crate) Platform);

#[async_trait]
impl Step for BindAddon {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        Ok(StepOutput::done().with_secret(inner.bind(call, &input).await?))
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Done(output) = moment else { return Ok(Changes::none()) };
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        let Some(stored) = inner.ledger.addon(input.addon).await? else {
            return Err(Error::new(ErrorCode::NotFound, "the add-on was removed meanwhile"));
        };
        let app = inner.ledger.app_in_life(&input.app, input.app_id).await?.value;
        let mut addon = stored.value;
        addon.state = AddonState::Provisioned;
        addon.vars = inner.vault.app_key(app.id, &app.key)?.seal_vars(&output.secret)?;
        let (service, attachment) = (addon.service.clone(), addon.attachment.clone());
        Ok(Changes::none()
            .write(put_addon(&addon, Expect::Rev(stored.rev))?)
            .event(EventKind::AddonProvisioned { service, attachment }))
    }
}

/// attach: the app's head gets it, and a roll-out of the head is queued: one transaction.
#[derive(Debug)]
pub(crate) struct Attach(pub(crate) Platform);

#[async_trait]
impl Step for Attach {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        call.ctx.log.line(format!("Attached {} to {}", input.attachment, input.app));
        StepOutput::with(&json!({ "rollout": inner.rollout_of(call).await? }))
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Intent = moment else { return Ok(Changes::none()) };
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        let attachment = Attachment { addon: input.addon, name: input.attachment.clone() };
        inner
            .change_head(call, &input, &format!("Attach {}", input.attachment), |app| {
                let there = app.head.attachments.contains(&attachment);
                if !there {
                    app.head.attachments.push(attachment);
                }
                !there
            })
            .await
    }
}

/// detach: the app's head loses it, and a roll-out of the head is queued: one transaction.
#[derive(Debug)]
pub(crate) struct Detach(pub(crate) Platform);

#[async_trait]
impl Step for Detach {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        StepOutput::with(&json!({ "rollout": inner.rollout_of(call).await? }))
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Intent = moment else { return Ok(Changes::none()) };
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        inner
            .change_head(call, &input, &format!("Detach {}", input.attachment), |app| {
                let before = app.head.attachments.len();
                app.head.attachments.retain(|a| a.addon != input.addon);
                app.head.attachments.len() < before
            })
            .await
    }
}

/// settle: the app no longer runs with it. Its data must outlive every release that users see.
#[derive(Debug)]
pub(crate) struct Settle(pub(crate) Platform);

#[async_trait]
impl Step for Settle {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        let app = match inner.ledger.app_in_life(&input.app, input.app_id).await {
            Ok(stored) => stored.value,
            Err(gone) if gone.code() == ErrorCode::NotFound => return Ok(StepOutput::done()),
            Err(error) => return Err(error),
        };
        let Some(live) = &app.live else { return Ok(StepOutput::done()) };
        let release = inner.ledger.release(&app, live.version).await?.value;
        if release.attachments.iter().any(|attachment| attachment.addon == input.addon) {
            let why =
                format!("{} still runs with it: its roll-out without it goes on, or failed", live.version);
            return Ok(StepOutput::again(pause(call), why));
        }
        Ok(StepOutput::done())
    }
}

/// deprovision: the resource and its data.
#[derive(Debug)]
pub(crate) struct DeprovisionAddon(pub(crate) Platform);

#[async_trait]
impl Step for DeprovisionAddon {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        let provider = inner.provider_of(&input).await?;
        let bound = BindRequest::new(input.addon, input.app.clone(), input.attachment.clone());
        provider.unbind(&call.ctx, &bound).await?;
        provider.deprovision(&call.ctx, input.addon).await?;
        Ok(StepOutput::done())
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Done(_) = moment else { return Ok(Changes::none()) };
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        let Some(addon) = inner.ledger.addon(input.addon).await? else { return Ok(Changes::none()) };
        Ok(Changes::none()
            .write(Write::delete(Table::Addons, input.addon.to_string(), Expect::Rev(addon.rev)))
            .event(EventKind::AddonDeprovisioned { service: addon.value.service }))
    }
}

/// How long to wait before looking again: a roll-out takes seconds, one that failed waits for people.
pub(super) fn pause(call: &StepCall) -> Duration {
    Duration::from_millis(100).saturating_mul(call.ctx.attempt).min(Duration::from_secs(30))
}

impl Inner {
    pub(super) async fn provider_of(
        &self,
        input: &AddonInput,
    ) -> Result<std::sync::Arc<dyn crate::AddonProvider>> {
        Ok(self.provider(&input.service).await?.0)
    }

    /// Today's credentials.
    pub(super) async fn bind(&self, call: &StepCall, input: &AddonInput) -> Result<ConfigVars> {
        let request = BindRequest::new(input.addon, input.app.clone(), input.attachment.clone());
        let vars = self.provider_of(input).await?.bind(&call.ctx, &request).await?;
        if let Some(key) = vars.keys().find(|key| !belongs(key, &input.attachment)) {
            let what = format!(
                "the add-on gives the config var {key}, which doesn't begin with {}",
                input.attachment
            );
            return Err(Error::new(ErrorCode::Internal, what));
        }
        Ok(vars)
    }

    /// Changes an app's head and queues its roll-out, in the transaction of the calling step; neither where `change`
    /// says that it was done before.
    pub(super) async fn change_head(
        &self,
        call: &StepCall,
        input: &AddonInput,
        description: &str,
        change: impl FnOnce(&mut App) -> bool,
    ) -> Result<Changes> {
        let stored = match self.ledger.app_in_life(&input.app, input.app_id).await {
            Ok(stored) => stored,
            // There is no app any more to attach to or to detach from.
            Err(gone) if gone.code() == ErrorCode::NotFound => return Ok(Changes::none()),
            Err(error) => return Err(error),
        };
        let mut app = stored.value;
        if !change(&mut app) {
            return Ok(Changes::none());
        }
        app.head.rev += 1;
        let mut tx = Transaction::new().write(put_app(&app, Expect::Rev(stored.rev))?);
        let head = HeadInput { app_id: app.id, description: description.to_owned() };
        let order =
            Order::new(kind_name(CONFIGURE), Subject::App(app.name.clone()), &head, &call.workflow.by)?;
        self.order(&mut tx, order).await?;
        Ok(Changes::of(tx))
    }

    /// The roll-out that takes the app's head over: the newest that was queued for it.
    async fn rollout_of(&self, call: &StepCall) -> Result<Option<WorkflowId>> {
        let input: AddonInput = call.input()?;
        let open = self.ledger.open_workflows(&Subject::App(input.app)).await?;
        let rollouts = open.iter().filter(|(stored, _)| stored.value.kind.as_str() == CONFIGURE);
        Ok(rollouts.map(|(stored, _)| stored.value.id).next_back())
    }
}
