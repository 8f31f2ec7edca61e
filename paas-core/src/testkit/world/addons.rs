//! Resources that are names.

use async_trait::async_trait;

use super::World;
use crate::{
    AddonCapabilities, AddonId, AddonProvider, AddonService, AddonStatus, BindRequest, Catalog, ConfigKey,
    ConfigVars, Context, Error, ErrorCode, IdempotencyKey, Plan, PlanName, ProvisionRequest, Result,
};

/// Credentials are numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Credentials {
    today: u32,
    /// From before the last rotation, until they are revoked.
    old: Option<u32>,
    /// Which call made today's.
    made_by: Option<IdempotencyKey>,
}

/// A provider whose resources are entries of a [`World`].
#[derive(Debug, Clone)]
pub struct FakeAddons(World);

impl FakeAddons {
    /// Provides in this world.
    pub fn new(world: &World) -> Self {
        Self(world.clone())
    }
}

#[async_trait]
impl AddonProvider for FakeAddons {
    async fn catalog(&self) -> Catalog {
        let plan = Plan::new(PlanName::new("small").expect("a constant"), "a name");
        let service = AddonService::new("fakesql").expect("a constant");
        Catalog::new(service, ConfigKey::new("FAKE").expect("a constant"), "names", vec![plan])
    }

    fn capabilities(&self) -> AddonCapabilities {
        AddonCapabilities::shareable().rotating()
    }

    async fn provision(&self, ctx: &Context, request: &ProvisionRequest) -> Result<AddonStatus> {
        self.0
            .act(ctx, "provision", |world| {
                let new = !world.lock().addons.contains_key(&request.addon);
                if new {
                    world.lock().addons.insert(request.addon, Vec::new());
                    let options = request.options.iter().map(|(key, value)| format!(" {key}={value}"));
                    world.effect(format!("provision {}{}", request.addon, options.collect::<String>()));
                }
                Ok(AddonStatus::Ready)
            })
            .await
    }

    async fn status(&self, _: &Context, addon: AddonId) -> Result<AddonStatus> {
        let there = self.0.lock().addons.contains_key(&addon);
        Ok(if there { AddonStatus::Ready } else { AddonStatus::Gone })
    }

    async fn bind(&self, ctx: &Context, request: &BindRequest) -> Result<ConfigVars> {
        self.0
            .act(ctx, "bind", |world| {
                let mut state = world.lock();
                let Some(apps) = state.addons.get_mut(&request.addon) else {
                    return Err(Error::new(ErrorCode::NotFound, format!("there is no {}", request.addon)));
                };
                if !apps.contains(&request.app) {
                    apps.push(request.app.clone());
                }
                let today = state.credentials.get(&request.addon).map_or(0, |known| known.today);
                let url = format!("fake://secret-{}-{today}@nowhere/", request.addon.uuid().simple());
                ConfigVars::new().with(&format!("{}_URL", request.attachment), &url)
            })
            .await
    }

    async fn unbind(&self, _: &Context, request: &BindRequest) -> Result<()> {
        if let Some(apps) = self.0.lock().addons.get_mut(&request.addon) {
            apps.retain(|app| *app != request.app);
        }
        Ok(())
    }

    async fn rotate(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        self.0
            .act(ctx, "rotate", |world| {
                let mut state = world.lock();
                if !state.addons.contains_key(&addon) {
                    return Err(Error::new(ErrorCode::NotFound, format!("there is no {addon}")));
                }
                let known = state.credentials.entry(addon).or_default();
                if known.made_by.as_ref() == Some(&ctx.key) {
                    return Ok(());
                }
                known.old.get_or_insert(known.today);
                known.today += 1;
                known.made_by = Some(ctx.key.clone());
                let effect = format!("rotate {addon} to {}", known.today);
                drop(state);
                world.effect(effect);
                Ok(())
            })
            .await
    }

    async fn revoke(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        self.0
            .act(ctx, "revoke", |world| {
                let old = world.lock().credentials.get_mut(&addon).and_then(|known| known.old.take());
                if let Some(old) = old {
                    world.effect(format!("revoke {addon} {old}"));
                }
                Ok(())
            })
            .await
    }

    async fn deprovision(&self, ctx: &Context, addon: AddonId) -> Result<()> {
        self.0
            .act(ctx, "deprovision", |world| {
                if world.lock().addons.remove(&addon).is_some() {
                    world.effect(format!("deprovision {addon}"));
                }
                Ok(())
            })
            .await
    }
}
