//! Our kinds of workflows.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Inner;
use super::kind::{Step, StepDef, WorkflowKind};
use super::steps;
use crate::{
    Addon, AddonId, AddonService, AppId, AppName, ConfigKey, Error, ErrorCode, KindName, PlanName, Result,
    SourceRef, StepName, Version, Workflow,
};

pub(crate) const DEPLOY: &str = "deploy";
pub(crate) const ROLLBACK: &str = "rollback";
pub(crate) const CONFIGURE: &str = "configure";
pub(crate) const SCALE: &str = "scale";
pub(crate) const PROVISION: &str = "provision";
pub(crate) const ROTATE: &str = "rotate";
pub(crate) const DEPROVISION: &str = "deprovision";
pub(crate) const DESTROY: &str = "destroy";
pub(crate) const ROTATE_KEY: &str = "rotate_key";

/// The steps belong to the engine and the engine to the steps: they meet here.
pub(crate) type InnerCell = Arc<OnceLock<Weak<Inner>>>;

/// What every step of ours holds.
#[derive(Debug, Clone)]
pub(crate) struct Platform(InnerCell);

impl Platform {
    pub(crate) fn get(&self) -> Result<Arc<Inner>> {
        let inner = self.0.get().and_then(Weak::upgrade);
        inner.ok_or_else(|| Error::new(ErrorCode::Unavailable, "the engine is gone"))
    }
}

/// What a deploy was asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeployInput {
    pub(crate) app_id: AppId,
    pub(crate) source: SourceRef,
    pub(crate) description: Option<String>,
}

/// What a rollback was asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RollbackInput {
    pub(crate) app_id: AppId,
    pub(crate) to: Version,
    pub(crate) keep_config: bool,
}

/// What a change of config or formation was asked to do: take over the head.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HeadInput {
    pub(crate) app_id: AppId,
    pub(crate) description: String,
}

/// What the making, changing or unmaking of an add-on was asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AddonInput {
    pub(crate) app: AppName,
    pub(crate) app_id: AppId,
    pub(crate) addon: AddonId,
    pub(crate) service: AddonService,
    pub(crate) plan: PlanName,
    pub(crate) attachment: ConfigKey,
    /// For the making alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) options: BTreeMap<String, String>,
}

impl AddonInput {
    /// About this one.
    pub(crate) fn of(addon: &Addon) -> Self {
        Self {
            app: addon.app.clone(),
            app_id: addon.app_id,
            addon: addon.id,
            service: addon.service.clone(),
            plan: addon.plan.clone(),
            attachment: addon.attachment.clone(),
            options: BTreeMap::new(),
        }
    }
}

/// What the end of an app was asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DestroyInput {
    pub(crate) app_id: AppId,
}

/// The app that a workflow of another subject is about.
pub(crate) fn app_of(workflow: &Workflow) -> Option<AppName> {
    workflow.input.get("app").and_then(|app| app.as_str()).and_then(|app| app.parse().ok())
}

pub(crate) fn kind_name(name: &'static str) -> KindName {
    KindName::new(name).expect("a constant")
}

fn step_name(name: &'static str) -> StepName {
    StepName::new(name).expect("a constant")
}

/// Everything that we register.
pub(crate) fn ours(cell: &InnerCell) -> Vec<WorkflowKind> {
    let platform = Platform(cell.clone());
    let def = |name: &'static str, step: Arc<dyn Step>| StepDef::new(step_name(name), step);
    let rollout = |kind: WorkflowKind| {
        let p = &platform;
        kind.step(
            def("release_phase", Arc::new(steps::ReleasePhase(p.clone())))
                .with_timeout(Duration::from_secs(3700)),
        )
        .step(def("start", Arc::new(steps::Start(p.clone()))))
        .step(def("await_healthy", Arc::new(steps::AwaitHealthy(p.clone()))).with_retries(0))
        .step(def("switch_route", Arc::new(steps::SwitchRoute(p.clone()))))
        .step(def("retire_old", Arc::new(steps::RetireOld(p.clone()))))
        .step(def("finish", Arc::new(steps::Finish(p.clone()))))
        .pivot(step_name("switch_route"))
        .restart(step_name("prepare"))
    };
    let p = &platform;
    let deploy = WorkflowKind::new(kind_name(DEPLOY), 1)
        .step(def("fetch", Arc::new(steps::Fetch(p.clone()))))
        .step(def("build", Arc::new(steps::Build(p.clone()))).with_retries(2))
        .step(def("provision", Arc::new(steps::ProvisionFirst(p.clone()))))
        .step(def("prepare", Arc::new(steps::Prepare(p.clone(), steps::From::Build))));
    let rollback = WorkflowKind::new(kind_name(ROLLBACK), 1)
        .step(def("prepare", Arc::new(steps::Prepare(p.clone(), steps::From::Version))));
    let configure = WorkflowKind::new(kind_name(CONFIGURE), 1)
        .step(def("prepare", Arc::new(steps::Prepare(p.clone(), steps::From::Live))));
    let scale =
        WorkflowKind::new(kind_name(SCALE), 1).step(def("prepare", Arc::new(steps::PrepareScale(p.clone()))));
    let provision = WorkflowKind::new(kind_name(PROVISION), 1)
        .step(def("provision", Arc::new(steps::ProvisionAddon(p.clone()))))
        .step(def("bind", Arc::new(steps::BindAddon(p.clone()))))
        .step(def("attach", Arc::new(steps::Attach(p.clone()))))
        .pivot(step_name("attach"));
    let rotate = WorkflowKind::new(kind_name(ROTATE), 1)
        .step(def("rotate", Arc::new(steps::RotateAddon(p.clone()))))
        .step(def("bind", Arc::new(steps::Rebind(p.clone()))))
        .step(def("settle", Arc::new(steps::TakenOver(p.clone()))))
        .step(def("revoke", Arc::new(steps::Revoke(p.clone()))))
        .pivot(step_name("bind"));
    let deprovision = WorkflowKind::new(kind_name(DEPROVISION), 1)
        .step(def("detach", Arc::new(steps::Detach(p.clone()))))
        .step(def("settle", Arc::new(steps::Settle(p.clone()))))
        .step(def("deprovision", Arc::new(steps::DeprovisionAddon(p.clone()))))
        .pivot(step_name("detach"));
    let destroy = WorkflowKind::new(kind_name(DESTROY), 1)
        .step(def("withdraw", Arc::new(steps::Withdraw(p.clone()))))
        .step(def("stop", Arc::new(steps::Stop(p.clone()))))
        .step(def("deprovision", Arc::new(steps::DeprovisionAll(p.clone()))))
        .step(def("forget", Arc::new(steps::Forget(p.clone()))))
        .pivot(step_name("withdraw"));
    let rotate_key = WorkflowKind::new(kind_name(ROTATE_KEY), 1)
        .step(def("announce", Arc::new(steps::Announce)))
        .step(def("agree", Arc::new(steps::Agree(p.clone()))))
        .step(def("switch", Arc::new(steps::Switch(p.clone()))))
        .step(def("settle", Arc::new(steps::Followed(p.clone()))))
        .step(def("rewrap", Arc::new(steps::Rewrap(p.clone()))))
        .pivot(step_name("switch"));
    vec![
        rollout(deploy).making_releases(),
        rollout(rollback).making_releases(),
        rollout(configure).making_releases(),
        rollout(scale),
        provision,
        rotate,
        deprovision,
        destroy,
        rotate_key,
    ]
}
