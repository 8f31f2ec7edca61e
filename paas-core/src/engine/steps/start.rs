//! start: the new processes, beside the old ones, which are not touched.

use async_trait::async_trait;

use crate::engine::Inner;
use crate::engine::kind::{Step, StepCall, StepOutput};
use crate::engine::kinds::Platform;
use crate::engine::rollout::{Target, app_name};
use crate::engine::volumes;
use crate::{App, ConfigVars, ErrorCode, Release, Result};

#[derive(Debug)]
pub(crate) struct Start(pub(crate) Platform);

#[async_trait]
impl Step for Start {
    fn is_needed(&self, call: &StepCall) -> bool {
        Target::is_there(call)
    }

    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let Some(target) = Target::of(call)? else { return Ok(StepOutput::done()) };
        let (app, release) = inner.rollout(&app_name(call)?, &target).await?;
        let (env, missing) = inner.environment(&app.value, &release.value).await?;
        call.ctx.log.line("-----> Launching…");
        for name in missing {
            call.ctx.log.line(format!(
                " !     The add-on {name} is gone; the release starts without its config vars"
            ));
        }
        for (process, _) in target.single(&release.value) {
            for line in volumes::why_single(&release.value.artifact, process) {
                call.ctx.log.line(line);
            }
        }
        ensure(&inner, call, &target, (&app.value, &release.value), &env).await?;
        Ok(StepOutput::done())
    }

    fn has_undo(&self) -> bool {
        true
    }

    async fn undo(&self, call: &StepCall) -> Result<()> {
        let inner = self.0.get()?;
        let Some(target) = Target::of(call)? else { return Ok(()) };
        let name = app_name(call)?;
        if !target.is_scale() {
            return inner.runtime.retire(&call.ctx, &name, target.release).await;
        }
        let (app, release) = match inner.rollout(&name, &target).await {
            Ok(found) => found,
            Err(gone) if gone.code() == ErrorCode::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let (env, _) = inner.environment(&app.value, &release.value).await?;
        for (process, _) in target.overlapping(&release.value) {
            if let Some(spec) = inner.spec(&app.value, &release.value, process, target.before(process), &env)
            {
                inner.runtime.ensure(&call.ctx, &spec).await?;
            }
        }
        Ok(())
    }
}

/// Tells the runtime to have all that may run beside what runs already.
pub(super) async fn ensure(
    inner: &Inner,
    call: &StepCall,
    target: &Target,
    (app, release): (&App, &Release),
    env: &ConfigVars,
) -> Result<()> {
    for (process, quantity) in target.overlapping(release) {
        // More of them come first, fewer only after the switch.
        let quantity = quantity.max(target.before(process));
        if let Some(spec) = inner.spec(app, release, process, quantity, env) {
            inner.runtime.ensure(&call.ctx, &spec).await?;
        }
    }
    Ok(())
}
