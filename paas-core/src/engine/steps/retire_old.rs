//! `retire_old`: requests at the old processes end, then the processes do; what must not run twice starts now.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::engine::Inner;
use crate::engine::kind::{Step, StepCall, StepOutput};
use crate::engine::kinds::Platform;
use crate::engine::rollout::{Target, app_name};
use crate::{Backend, DrainRequest, Instance, InstanceState, Release, Result};

/// How often it is looked whether something is well.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct RetireOld(pub(crate) Platform);

#[async_trait]
impl Step for RetireOld {
    fn is_needed(&self, call: &StepCall) -> bool {
        Target::is_there(call)
    }

    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let Some(target) = Target::of(call)? else { return Ok(StepOutput::done()) };
        let name = app_name(call)?;
        let (app, release) = inner.rollout(&name, &target).await?;
        let is_live = app
            .value
            .live
            .as_ref()
            .is_some_and(|live| live.release == target.release && live.formation == target.formation);
        if !is_live {
            // It waited, and a newer one went first: that one sees to what is there now.
            if let Some(replaced) = target.replaces.as_ref().filter(|_| !target.is_scale()) {
                inner.runtime.retire(&call.ctx, &name, replaced.release).await?;
            }
            return Ok(StepOutput::done());
        }
        let observed = inner.runtime.observe(&name).await?;
        let old: Vec<Backend> =
            observed.iter().filter(|i| is_replaced(&target, i)).filter_map(backend).collect();
        if !old.is_empty() {
            let request = DrainRequest::new(name.clone(), old).with_timeout(inner.options.drain);
            let left = inner.router.drain(&call.ctx, &request).await?;
            if left > 0 {
                let what = format!(" !     {left} requests did not end in time; they end with their process");
                call.ctx.log.line(what);
            }
        }
        if let Some(replaced) = target.replaces.as_ref().filter(|_| !target.is_scale()) {
            inner.runtime.retire(&call.ctx, &name, replaced.release).await?;
        }
        let (env, _) = inner.environment(&app.value, &release.value).await?;
        let fewer = target.overlapping(&release.value).filter(|(process, n)| target.before(process) > *n);
        for (process, quantity) in fewer.chain(target.single(&release.value)) {
            if let Some(spec) = inner.spec(&app.value, &release.value, process, quantity, &env) {
                inner.runtime.ensure(&call.ctx, &spec).await?;
            }
        }
        tell_of_single(&inner, call, &target, &release.value).await?;
        Ok(StepOutput::done())
    }
}

/// Waits until what could only start now is well. Where it isn't, whoever deploys hears of it: what is live stays live.
async fn tell_of_single(inner: &Inner, call: &StepCall, target: &Target, release: &Release) -> Result<()> {
    let name = app_name(call)?;
    let health = |process| release.artifact.manifest.health.get(process).cloned().unwrap_or_default();
    for (process, quantity) in target.single(release) {
        let patience = health(process).timeout.max(health(process).settle * 2);
        let deadline = Instant::now() + patience;
        for index in 1..=quantity {
            let why = loop {
                // Nobody who can't be asked holds up what has happened.
                let observed = inner.runtime.observe(&name).await.unwrap_or_default();
                let found = observed.into_iter().find(|i| {
                    i.release == target.release && i.name.process == *process && i.name.index == index
                });
                match found {
                    Some(instance) if instance.state == InstanceState::Up => break None,
                    Some(instance) if instance.state == InstanceState::Crashed => {
                        break Some(instance.reason.unwrap_or_else(|| "it crashed".to_owned()));
                    }
                    _ if Instant::now() >= deadline => {
                        break Some(format!("it is not well after {patience:?}"));
                    }
                    _ => call.ctx.cancel.guard(tokio::time::sleep(LOOK)).await?,
                }
            };
            if let Some(why) = why {
                call.ctx.log.line(format!(" !     {process}.{index} did not start: {why}"));
                let back = target.replaces.as_ref().filter(|_| !target.is_scale());
                let back = back.map_or_else(String::new, |old| format!(", or roll back to {}", old.version));
                call.ctx
                    .log
                    .line(format!("       {} is live all the same: deploy a fix{back}", target.version));
            }
        }
    }
    Ok(())
}

fn is_replaced(target: &Target, instance: &Instance) -> bool {
    if !instance.name.process.is_web() {
        return false;
    }
    let web = target.formation.get(&instance.name.process).map_or(0, |scale| scale.quantity);
    instance.release != target.release || instance.name.index > web
}

fn backend(instance: &Instance) -> Option<Backend> {
    Some(Backend::new(instance.name.to_string(), instance.address?))
}
