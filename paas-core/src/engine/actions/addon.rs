//! Add-ons: made, given new credentials, removed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::AddonOrder;
use crate::engine::kinds::{AddonInput, DEPROVISION, PROVISION, ROTATE, kind_name};
use crate::engine::ledger::{Stored, put_addon, put_app};
use crate::engine::steps::{chosen, hides};
use crate::engine::submit::Order;
use crate::engine::{Engine, WorkflowHandle};
use crate::store::{Expect, Transaction};
use crate::{
    Addon, AddonId, AddonService, AddonState, AppName, ConfigKey, Error, ErrorCode, PlanName, Principal,
    Result, Subject,
};

impl Engine {
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
        let mut pause = Duration::from_millis(1);
        for _ in 0..inner.options.max_conflicts {
            let wanted = (catalog.service.clone(), plan.clone(), attachment.clone());
            match self.attach(app, wanted, &order.options, by).await {
                // Somebody changed the app meanwhile, and may have taken the name.
                Err(error) if error.code() == ErrorCode::Conflict => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
                answer => return answer,
            }
        }
        Err(Error::new(ErrorCode::Conflict, format!("others kept changing the app {app}; try again")))
    }

    /// Takes the name and queues the making, in one transaction.
    async fn attach(
        &self,
        app: &AppName,
        (service, plan, attachment): (AddonService, PlanName, ConfigKey),
        options: &BTreeMap<String, String>,
        by: &Principal,
    ) -> Result<(AddonId, WorkflowHandle)> {
        let inner = &self.inner;
        // Before the add-ons: whoever makes another one writes the app's row, too.
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
            service,
            plan,
            app: app.clone(),
            app_id: stored.value.id,
            attachment,
            state: AddonState::Provisioning,
            created_at: inner.clock.now(),
            vars: BTreeMap::new(),
            head: 0,
            old_vars: BTreeMap::new(),
        };
        let input = AddonInput { options: options.clone(), ..AddonInput::of(&addon) };
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
        let Stored { rev, value: mut row } = self.addon_row(addon).await?;
        row.state = AddonState::Deprovisioning;
        self.order_for_addon(&row, rev, DEPROVISION, by).await
    }

    /// Gives an add-on new credentials and rolls its app out with them. The old ones end once no instance runs
    /// with them any more, and with them whatever is still connected; then the workflow ends.
    ///
    /// # Errors
    /// `not_found`; `conflict` while it is made or destroyed; `unsupported` where its provider can't.
    pub async fn rotate_addon(&self, addon: AddonId, by: &Principal) -> Result<WorkflowHandle> {
        let Stored { rev, value: row } = self.addon_row(addon).await?;
        if row.state != AddonState::Provisioned {
            let what = format!("the add-on {addon} is being made or destroyed");
            return Err(Error::new(ErrorCode::Conflict, what));
        }
        let (provider, _) = self.inner.provider(&row.service).await?;
        if !provider.capabilities().rotate {
            return Err(Error::unsupported(&format!("rotating the credentials of {}", row.service)));
        }
        self.order_for_addon(&row, rev, ROTATE, by).await
    }

    async fn addon_row(&self, addon: AddonId) -> Result<Stored<Addon>> {
        let gone = || Error::new(ErrorCode::NotFound, format!("there is no add-on {addon}"));
        self.inner.ledger.addon(addon).await?.ok_or_else(gone)
    }

    /// Queues a workflow of an add-on, with its row as it is now.
    async fn order_for_addon(
        &self,
        row: &Addon,
        rev: u64,
        kind: &'static str,
        by: &Principal,
    ) -> Result<WorkflowHandle> {
        let order = Order::new(kind_name(kind), Subject::Addon(row.id), &AddonInput::of(row), by)?;
        let mut tx = Transaction::new().write(put_addon(row, Expect::Rev(rev))?);
        let workflow = self.inner.order(&mut tx, order).await?;
        self.inner.store.commit(tx).await?;
        Ok(self.workflow(workflow))
    }
}
