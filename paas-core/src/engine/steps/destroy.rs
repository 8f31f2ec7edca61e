//! The end of an app: users first, then processes, then data.

use async_trait::async_trait;

use crate::engine::Inner;
use crate::engine::kind::{Changes, Moment, Step, StepCall, StepOutput};
use crate::engine::kinds::{DestroyInput, Platform};
use crate::engine::ledger::{put_routes, release_key};
use crate::engine::rollout::app_name;
use crate::store::{Expect, ListQuery, Table, Write};
use crate::{Addon, AppRoutes, BindRequest, Error, EventKind, Result};

/// withdraw: no host name leads to it any more.
#[derive(Debug)]
pub(crate) struct Withdraw(pub(crate) Platform);

#[async_trait]
impl Step for Withdraw {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        self.0.get()?.publish(&call.ctx, &app_name(call)?).await?;
        Ok(StepOutput::done())
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Intent = moment else { return Ok(Changes::none()) };
        let inner = self.0.get()?;
        let (name, input) = (app_name(call)?, call.input::<DestroyInput>()?);
        let stored = inner.ledger.routes(&name).await?;
        // Without a host name they are withdrawn already.
        let stored = stored.filter(|r| r.value.app_id == input.app_id && !r.value.domains.is_empty());
        let Some(stored) = stored else { return Ok(Changes::none()) };
        let none = AppRoutes::new(name, input.app_id, stored.value.generation + 1);
        let changed = EventKind::RoutesChanged { generation: none.generation };
        Ok(Changes::none().write(put_routes(&none, Expect::Rev(stored.rev))?).event(changed))
    }
}

/// stop: its processes end.
#[derive(Debug)]
pub(crate) struct Stop(pub(crate) Platform);

#[async_trait]
impl Step for Stop {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        self.0.get()?.runtime.forget(&call.ctx, &app_name(call)?).await?;
        Ok(StepOutput::done())
    }
}

/// deprovision: its add-ons and their data are gone.
#[derive(Debug)]
pub(crate) struct DeprovisionAll(pub(crate) Platform);

#[async_trait]
impl Step for DeprovisionAll {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let mut failed = None;
        for addon in inner.ledger.addons(call.input::<DestroyInput>()?.app_id).await? {
            // One that can't go holds no other one up.
            if let Err(error) = remove(&inner, call, &addon).await {
                let what = format!("the add-on {} ({} {})", addon.id, addon.service, addon.attachment);
                let error = Error::new(error.code(), format!("{what} can't be removed: {error}"))
                    .with_retry(error.retry());
                failed.get_or_insert(error);
            }
        }
        failed.map_or_else(|| Ok(StepOutput::done()), Err)
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Done(_) = moment else { return Ok(Changes::none()) };
        let inner = self.0.get()?;
        let mut changes = Changes::none();
        for addon in inner.ledger.addons(call.input::<DestroyInput>()?.app_id).await? {
            changes = changes
                .write(Write::delete(Table::Addons, addon.id.to_string(), Expect::Any))
                .event(EventKind::AddonDeprovisioned { service: addon.service });
        }
        Ok(changes)
    }
}

async fn remove(inner: &Inner, call: &StepCall, addon: &Addon) -> Result<()> {
    let (provider, _) = inner.provider(&addon.service).await?;
    let bound = BindRequest::new(addon.id, addon.app.clone(), addon.attachment.clone());
    provider.unbind(&call.ctx, &bound).await?;
    provider.deprovision(&call.ctx, addon.id).await
}

/// forget: what builders and logs keep, and its rows; the name is free again.
#[derive(Debug)]
pub(crate) struct Forget(pub(crate) Platform);

#[async_trait]
impl Step for Forget {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let input: DestroyInput = call.input()?;
        for builder in &inner.builders {
            builder.forget(&call.ctx, input.app_id).await?;
        }
        inner.logs.forget(&app_name(call)?).await?;
        Ok(StepOutput::done())
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        // Also where it was given up: nobody could get rid of the app otherwise.
        let (Moment::Done(_) | Moment::Left) = moment else { return Ok(Changes::none()) };
        let inner = self.0.get()?;
        let (name, input) = (app_name(call)?, call.input::<DestroyInput>()?);
        let stored = match inner.ledger.find_app(&name).await? {
            Some(stored) if stored.value.id == input.app_id => stored,
            _ => return Ok(Changes::none()),
        };
        let mut changes = Changes::none()
            .write(Write::delete(Table::Apps, name.as_str(), Expect::Rev(stored.rev)))
            .write(Write::delete(Table::Routes, name.as_str(), Expect::Any))
            .event(EventKind::AppDestroyed);
        for release in inner.ledger.releases(input.app_id, None).await? {
            let key = release_key(input.app_id, release.version);
            changes = changes.write(Write::delete(Table::Releases, key, Expect::Any));
        }
        let artifacts = ListQuery::of(input.app_id.to_string());
        for row in inner.store.list(Table::Artifacts, &artifacts).await? {
            changes = changes.write(Write::delete(Table::Artifacts, row.key, Expect::Any));
        }
        for domain in &stored.value.domains {
            changes = changes.write(Write::delete(Table::Domains, domain.as_str(), Expect::Any));
        }
        Ok(changes)
    }
}
