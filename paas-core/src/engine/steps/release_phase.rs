//! `release_phase`: the app's own command, once, in the new release, before anything is switched.

use async_trait::async_trait;

use crate::engine::kind::{Step, StepCall, StepOutput};
use crate::engine::kinds::Platform;
use crate::engine::rollout::{Target, app_name};
use crate::{Error, ErrorCode, ProcessType, Redactor, Result, RunSpec};

#[derive(Debug)]
pub(crate) struct ReleasePhase(pub(crate) Platform);

#[async_trait]
impl Step for ReleasePhase {
    fn is_needed(&self, call: &StepCall) -> bool {
        Target::of(call).ok().flatten().is_some_and(|target| target.release_phase)
    }

    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let Some(target) = Target::of(call)? else { return Ok(StepOutput::done()) };
        let (app, release) = inner.rollout(&app_name(call)?, &target).await?;
        let (env, _) = inner.environment(&app.value, &release.value).await?;
        let Some(spec) = inner.spec(&app.value, &release.value, &ProcessType::release(), 1, &env) else {
            return Ok(StepOutput::done());
        };
        if !inner.runtime.capabilities().run_once {
            let what = "the app has a release process, and this runtime can't run one";
            return Err(Error::new(ErrorCode::Unsupported, what));
        }
        let mut ctx = call.ctx.clone();
        ctx.log = ctx.log.redacting(Redactor::knowing(&env));
        ctx.log.line("-----> Running the release phase…");
        let exit = inner.runtime.run_once(&ctx, &RunSpec::new(spec)).await?;
        if exit.status != 0 {
            let what = format!("the release phase ended with status {}", exit.status);
            return Err(Error::new(ErrorCode::ReleasePhaseFailed, what).with_output(exit.output));
        }
        StepOutput::with(&serde_json::json!({ "status": exit.status }))
    }
}
