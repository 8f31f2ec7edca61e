//! provision: what the app's first deploy asks for: add-ons, and config vars of `app.json`. Inline, never
//! through the queue: the release that is on its way needs them.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::build::Built;
use super::first_env;
use crate::engine::kind::{Changes, Moment, Step, StepCall, StepOutput};
use crate::engine::kinds::{DeployInput, Platform};
use crate::engine::ledger::{put_addon, put_app};
use crate::engine::rollout::app_name;
use crate::store::{Expect, Table, Write};
use crate::{
    Addon, AddonId, AddonProvider, AddonService, AddonState, AddonStatus, AddonWish, App, AppName,
    Attachment, BindRequest, ConfigKey, ConfigVars, Context, Digest, Error, ErrorCode, EventKind, PlanName,
    ProvisionRequest, Result, Retry, WorkflowId,
};

#[derive(Debug)]
pub(crate) struct ProvisionFirst(pub(crate) Platform);

/// What was made.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    addons: Vec<MadeAddon>,
    /// Config vars that `app.json` set.
    env: Vec<ConfigKey>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct MadeAddon {
    id: AddonId,
    service: AddonService,
    plan: PlanName,
    attachment: ConfigKey,
}

#[async_trait]
impl Step for ProvisionFirst {
    fn is_needed(&self, call: &StepCall) -> bool {
        let built = call.output::<Built>("build").ok().flatten();
        built.is_some_and(|b| b.first && !(wishes(&b).is_empty() && b.artifact.manifest.env.is_empty()))
    }

    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let Some(built) = call.output::<Built>("build")? else { return Ok(StepOutput::done()) };
        let input: DeployInput = call.input()?;
        let app = inner.ledger.app_in_life(&app_name(call)?, input.app_id).await?.value;
        // All are chosen before the first is made: a service that isn't had here makes nothing.
        let there = inner.ledger.addons(app.id).await?;
        let mut wanted: Vec<(Arc<dyn AddonProvider>, MadeAddon, &BTreeMap<String, String>)> = Vec::new();
        let mut unwanted: Vec<(Arc<dyn AddonProvider>, AddonId)> = Vec::new();
        for (index, wish) in wishes(&built).iter().enumerate() {
            let (provider, catalog) = inner.provider(&wish.service).await?;
            let attachment = wish.attachment.as_ref().unwrap_or(&catalog.attachment);
            let taken = there.iter().map(|addon| &addon.attachment);
            let taken =
                taken.chain(wanted.iter().map(|(_, made, _)| &made.attachment)).any(|a| a == attachment);
            let has_one = there.iter().any(|addon| addon.service == catalog.service);
            let id = addon_id(call.workflow.id, index);
            if taken || (wish.attachment.is_none() && has_one) {
                unwanted.push((provider, id));
                continue;
            }
            let plan = chosen(&catalog, wish.plan.as_ref())?;
            if let Some(other) = wish.plan.as_ref().filter(|wish| **wish != plan) {
                let service = &catalog.service;
                call.ctx.log.line(format!(" !     {service} has no plan {other} here; it gets {plan}"));
            }
            let attachment = attachment.clone();
            let made = MadeAddon { id, plan, attachment, service: catalog.service };
            wanted.push((provider, made, &wish.options));
        }
        let attached = there.iter().map(|addon| &addon.attachment);
        let attached: Vec<_> = attached.chain(wanted.iter().map(|(_, made, _)| &made.attachment)).collect();
        let given = |key: &ConfigKey| attached.iter().any(|attachment| is_main(key, attachment));
        let manifest = &built.artifact.manifest;
        first_env::require(&app, manifest, given)?;
        let mut vars = ConfigVars::new();
        for (key, value) in first_env::wished(&app, manifest, &call.secret("build"))?.iter() {
            // An add-on's own var must stay the add-on's, or it would keep today's password for ever.
            if !given(key) {
                vars.set(key.clone(), value.clone());
            }
        }
        let env = vars.keys().cloned().collect();
        let mut addons = Vec::new();
        for (provider, made, options) in wanted {
            if let Some(key) = hides(&app, &made.attachment) {
                call.ctx.log.line(format!("       {} is not needed: {key} is set", made.service));
                unwanted.push((provider, made.id));
                continue;
            }
            call.ctx.log.line(format!("-----> Provisioning {} ({})", made.service, made.plan));
            vars.extend(make(&call.ctx, provider.as_ref(), &made, options, &app.name).await?);
            call.ctx.log.line(format!("       Attached as {}", made.attachment));
            addons.push(made);
        }
        // An earlier attempt may have made what somebody has added since.
        for (provider, id) in unwanted.into_iter().filter(|_| call.ctx.attempt > 1) {
            provider.deprovision(&call.ctx, id).await?;
        }
        Ok(StepOutput::with(&Made { addons, env })?.with_secret(vars))
    }

    fn has_undo(&self) -> bool {
        true
    }

    async fn undo(&self, call: &StepCall) -> Result<()> {
        let inner = self.0.get()?;
        let Some(built) = call.output::<Built>("build")? else { return Ok(()) };
        for (index, wish) in wishes(&built).iter().enumerate() {
            let provider = match inner.provider(&wish.service).await {
                Ok((provider, _)) => provider,
                // Nobody here provides it, so nobody made it.
                Err(unknown) if unknown.code() == ErrorCode::NotFound => continue,
                Err(error) => return Err(error),
            };
            provider.deprovision(&call.ctx, addon_id(call.workflow.id, index)).await?;
        }
        Ok(())
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let inner = self.0.get()?;
        let name = app_name(call)?;
        let input: DeployInput = call.input()?;
        let Some(made) = call.output::<Option<Made>>("provision")?.flatten() else {
            return Ok(Changes::none());
        };
        let stored = inner.ledger.app_in_life(&name, input.app_id).await?;
        let mut app = stored.value;
        let mut changes = Changes::none();
        match moment {
            Moment::Intent | Moment::Left => return Ok(changes),
            Moment::Done(output) => {
                // Looked at after the app, whose row everybody writes who attaches something.
                unless_taken(&app, &inner.ledger.addons(app.id).await?, &made)?;
                let key = inner.vault.app_key(app.id, &app.key)?;
                for addon in &made.addons {
                    let vars = output.secret.iter().filter(|(key, _)| {
                        !made.env.contains(key) && owner(key, &made.addons) == Some(addon.id)
                    });
                    let vars: ConfigVars = vars.map(|(key, value)| (key.clone(), value.clone())).collect();
                    let addon = Addon {
                        id: addon.id,
                        service: addon.service.clone(),
                        plan: addon.plan.clone(),
                        app: app.name.clone(),
                        app_id: app.id,
                        attachment: addon.attachment.clone(),
                        state: AddonState::Provisioned,
                        created_at: inner.clock.now(),
                        vars: key.seal_vars(&vars)?,
                        head: 0,
                        old_vars: BTreeMap::new(),
                    };
                    app.head.attachments.push(Attachment { addon: addon.id, name: addon.attachment.clone() });
                    let (service, attachment) = (addon.service.clone(), addon.attachment.clone());
                    changes = changes
                        .write(put_addon(&addon, Expect::Absent)?)
                        .event(EventKind::AddonProvisioned { service, attachment });
                }
                let env = output.secret.iter().filter(|(key, _)| made.env.contains(key));
                let env: ConfigVars = env.map(|(key, value)| (key.clone(), value.clone())).collect();
                app.head.config.extend(key.seal_vars(&env)?);
            }
            Moment::Undone => {
                for addon in &made.addons {
                    app.head.attachments.retain(|attachment| attachment.addon != addon.id);
                    changes = changes
                        .write(Write::delete(Table::Addons, addon.id.to_string(), Expect::Any))
                        .event(EventKind::AddonDeprovisioned { service: addon.service.clone() });
                }
            }
        }
        app.head.rev += 1;
        Ok(changes.write(put_app(&app, Expect::Rev(stored.rev))?))
    }
}

/// Refuses names that somebody took while the add-ons were made: the next attempt sees that, and makes do with what is there.
fn unless_taken(app: &App, there: &[Addon], made: &Made) -> Result<()> {
    let ours = |addon: &Addon| made.addons.iter().any(|made| made.id == addon.id);
    let others: Vec<_> = there.iter().filter(|addon| !ours(addon)).collect();
    let taken = made.addons.iter().find(|made| {
        others.iter().any(|addon| addon.attachment == made.attachment)
            || hides(app, &made.attachment).is_some()
    });
    let Some(MadeAddon { attachment, .. }) = taken else { return Ok(()) };
    let what = format!("somebody took the name {attachment} while an add-on was made for it");
    Err(Error::new(ErrorCode::Conflict, what).with_retry(Retry::Backoff))
}

/// What the app's own `app.json` asks for, else what the builder proposes.
fn wishes(built: &Built) -> &[AddonWish] {
    let own = &built.artifact.manifest.addons;
    if own.is_empty() { &built.artifact.addons } else { own }
}

/// The id of the `index`th add-on of a deploy: the same at every attempt.
fn addon_id(workflow: WorkflowId, index: usize) -> AddonId {
    let digest = Digest::of_parts([workflow.to_string(), index.to_string()]).hex();
    let number = u128::from_str_radix(&digest[..32], 16).unwrap_or_default();
    AddonId::from(uuid::Builder::from_custom_bytes(number.to_be_bytes()).into_uuid())
}

/// The owner's own config var that would hide the add-on attached under this name.
pub(crate) fn hides<'a>(app: &'a App, attachment: &ConfigKey) -> Option<&'a ConfigKey> {
    app.head.config.keys().find(|key| is_main(key, attachment))
}

/// Whether a config var is the one that every add-on attached under this name gives.
fn is_main(key: &ConfigKey, attachment: &ConfigKey) -> bool {
    let rest = key.as_str().strip_prefix(attachment.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest == "_URL")
}

/// Which of these gave a config var: of `DATABASE` and `DATABASE_LOGS` the second gave `DATABASE_LOGS_URL`.
fn owner(key: &ConfigKey, addons: &[MadeAddon]) -> Option<AddonId> {
    let owners = addons.iter().filter(|addon| belongs(key, &addon.attachment));
    owners.max_by_key(|addon| addon.attachment.as_str().len()).map(|addon| addon.id)
}

/// Whether a config var belongs to an attachment: it is its name, or begins with it and an underscore.
pub(super) fn belongs(key: &ConfigKey, attachment: &ConfigKey) -> bool {
    key.as_str()
        .strip_prefix(attachment.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

/// The plan that was asked for, or the default.
pub(crate) fn chosen(catalog: &crate::Catalog, wish: Option<&PlanName>) -> Result<PlanName> {
    if let Some(why) = &catalog.unavailable {
        return Err(Error::new(
            ErrorCode::Unavailable,
            format!("{} can't be had here: {why}", catalog.service),
        ));
    }
    let Some(plan) = wish
        .and_then(|wish| catalog.plans.iter().find(|plan| plan.name == *wish))
        .or_else(|| catalog.plans.first())
    else {
        return Err(Error::new(ErrorCode::NotFound, format!("{} has no plans", catalog.service)));
    };
    Ok(plan.name.clone())
}

async fn make(
    ctx: &Context,
    provider: &dyn AddonProvider,
    made: &MadeAddon,
    options: &BTreeMap<String, String>,
    app: &AppName,
) -> Result<ConfigVars> {
    let mut request = ProvisionRequest::new(made.id, made.plan.clone(), app.clone());
    request.options.clone_from(options);
    let mut status = provider.provision(ctx, &request).await?;
    loop {
        match status {
            AddonStatus::Ready => break,
            AddonStatus::Pending(after) => {
                ctx.cancel.guard(tokio::time::sleep(after)).await?;
                status = provider.status(ctx, made.id).await?;
            }
            AddonStatus::Failed(why) => {
                return Err(Error::new(
                    ErrorCode::Unavailable,
                    format!("{} can't be made: {why}", made.service),
                ));
            }
            AddonStatus::Gone => {
                return Err(Error::new(
                    ErrorCode::NotFound,
                    format!("{} went away while it was made", made.service),
                ));
            }
        }
    }
    provider.bind(ctx, &BindRequest::new(made.id, app.clone(), made.attachment.clone())).await
}
