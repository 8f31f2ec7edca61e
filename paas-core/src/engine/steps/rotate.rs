//! New credentials for an add-on that an app runs with: made, taken over by a release, and only then the old ended.

use async_trait::async_trait;

use super::addon::pause;
use crate::engine::kind::{Changes, Moment, Step, StepCall, StepOutput};
use crate::engine::kinds::{AddonInput, Platform};
use crate::engine::ledger::put_addon;
use crate::store::Expect;
use crate::{App, ErrorCode, EventKind, InstanceState, Result};

/// rotate: the provider makes them. Nobody uses them yet, and the old ones stay: there is nothing to undo.
#[derive(Debug)]
pub(crate) struct RotateAddon(pub(crate) Platform);

#[async_trait]
impl Step for RotateAddon {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        inner.provider_of(&input).await?.rotate(&call.ctx, input.addon).await?;
        Ok(StepOutput::done())
    }
}

/// bind: the add-on's row gets them, and a roll-out of the app is queued: one transaction.
#[derive(Debug)]
pub(crate) struct Rebind(pub(crate) Platform);

#[async_trait]
impl Step for Rebind {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        unless_gone(inner.bind(call, &input).await, |vars| StepOutput::done().with_secret(vars))
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Done(output) = moment else { return Ok(Changes::none()) };
        if output.secret.is_empty() {
            return Ok(Changes::none());
        }
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        let Some(stored) = inner.ledger.addon(input.addon).await? else { return Ok(Changes::none()) };
        let app = match inner.ledger.app_in_life(&input.app, input.app_id).await {
            Ok(app) => app.value,
            Err(gone) if gone.code() == ErrorCode::NotFound => return Ok(Changes::none()),
            Err(error) => return Err(error),
        };
        let mut addon = stored.value;
        let new = inner.vault.app_key(app.id, &app.key)?.seal_vars(&output.secret)?;
        // Instances of what is live may be started again meanwhile; they are not replaced for new vars.
        addon.old_vars = std::mem::replace(&mut addon.vars, new);
        let (service, attachment) = (addon.service.clone(), addon.attachment.clone());
        let description = format!("Rotate {attachment} credentials");
        let taken_over = |app: &mut App| {
            addon.head = app.head.rev + 1;
            true
        };
        let changes = inner.change_head(call, &input, &description, taken_over).await?;
        Ok(changes
            .write(put_addon(&addon, Expect::Rev(stored.rev))?)
            .event(EventKind::AddonRotated { service, attachment }))
    }
}

/// settle: the live release took them over, and no instance of an older one is left.
#[derive(Debug)]
pub(crate) struct TakenOver(pub(crate) Platform);

#[async_trait]
impl Step for TakenOver {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        let Some(addon) = inner.ledger.addon(input.addon).await? else { return Ok(StepOutput::done()) };
        let app = match inner.ledger.app_in_life(&input.app, input.app_id).await {
            Ok(app) => app.value,
            Err(gone) if gone.code() == ErrorCode::NotFound => return Ok(StepOutput::done()),
            Err(error) => return Err(error),
        };
        let Some(live) = &app.live else { return Ok(StepOutput::done()) };
        if live.head < addon.value.head {
            let why = format!(
                "{} still runs with the old credentials: its roll-out with the new ones goes on, or failed",
                live.version
            );
            return Ok(StepOutput::again(pause(call), why));
        }
        let instances = inner.runtime.observe(&input.app).await?;
        let old = instances.iter().find(|i| i.version < live.version && i.state != InstanceState::Lost);
        if let Some(old) = old {
            let why = format!("{} of {} still runs with the old credentials", old.name, old.version);
            return Ok(StepOutput::again(pause(call), why));
        }
        Ok(StepOutput::done())
    }
}

/// revoke: the old ones end.
#[derive(Debug)]
pub(crate) struct Revoke(pub(crate) Platform);

#[async_trait]
impl Step for Revoke {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: AddonInput = call.input()?;
        let provider = inner.provider_of(&input).await?;
        unless_gone(provider.revoke(&call.ctx, input.addon).await, |()| {
            call.ctx.log.line(format!("Rotated {} credentials of {}", input.attachment, input.app));
            StepOutput::done()
        })
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Done(_) = moment else { return Ok(Changes::none()) };
        let input: AddonInput = call.input()?;
        let Some(stored) = self.0.get()?.ledger.addon(input.addon).await? else { return Ok(Changes::none()) };
        let mut addon = stored.value;
        addon.old_vars.clear();
        Ok(Changes::none().write(put_addon(&addon, Expect::Rev(stored.rev))?))
    }
}

/// Whoever destroyed the add-on meanwhile ended its credentials with it.
fn unless_gone<T>(result: Result<T>, then: impl FnOnce(T) -> StepOutput) -> Result<StepOutput> {
    match result {
        Ok(value) => Ok(then(value)),
        Err(gone) if gone.code() == ErrorCode::NotFound => Ok(StepOutput::done()),
        Err(error) => Err(error),
    }
}
