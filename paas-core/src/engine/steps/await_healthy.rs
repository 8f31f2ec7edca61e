//! `await_healthy`: every process of every type is well, or none of it happens.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::engine::kind::{Step, StepCall, StepOutput};
use crate::engine::kinds::Platform;
use crate::engine::rollout::{Target, app_name};
use crate::engine::steps::start;
use crate::{Error, ErrorCode, Instance, InstanceState, Release, Result, Retry};

/// Pauses after looks that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How often the runtime is told again what should run: one that lost its machine knows no more what was to run there.
const REMIND: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct AwaitHealthy(pub(crate) Platform);

#[async_trait]
impl Step for AwaitHealthy {
    fn is_needed(&self, call: &StepCall) -> bool {
        Target::is_there(call)
    }

    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let Some(target) = Target::of(call)? else { return Ok(StepOutput::done()) };
        let name = app_name(call)?;
        let mut patience = Patience(FIRST_PAUSE);
        let (app, release) = loop {
            match inner.rollout(&name, &target).await {
                Ok((app, release)) => break (app.value, release.value),
                Err(error) => patience.wait(call, error).await?,
            }
        };
        let mut reminded = Instant::now();
        let mut hints = inner.runtime.watch();
        loop {
            let instances = match inner.runtime.observe(&name).await {
                Ok(instances) => instances,
                Err(error) => {
                    patience.wait(call, error).await?;
                    continue;
                }
            };
            if are_all_up(&target, &release, &instances)? {
                return Ok(StepOutput::done());
            }
            if reminded.elapsed() >= REMIND {
                let told = async {
                    let (env, _) = inner.environment(&app, &release).await?;
                    start::ensure(&inner, call, &target, (&app, &release), &env).await
                };
                if let Err(error) = told.await {
                    patience.wait(call, error).await?;
                    continue;
                }
                reminded = Instant::now();
            }
            patience = Patience(FIRST_PAUSE);
            // The hint is quick, the pause is the truth.
            let hint = async {
                while let Some(event) = hints.next().await {
                    if event.app == name {
                        return;
                    }
                }
                std::future::pending::<()>().await;
            };
            let pause = tokio::time::timeout(Duration::from_millis(250), hint);
            // Either way we look again.
            let _ = call.ctx.cancel.guard(pause).await?;
        }
    }
}

/// The pause after the next look that fails. That nobody can tell how a release is doing is no verdict on it: the look is
/// repeated until the step's time is up.
struct Patience(Duration);

impl Patience {
    async fn wait(&mut self, call: &StepCall, error: Error) -> Result<()> {
        if error.retry() == Retry::Never {
            return Err(error);
        }
        tracing::warn!(error = %error, "can't look whether a release is well; looking again");
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        call.ctx.cancel.guard(tokio::time::sleep(pause)).await
    }
}

/// Whether all are up.
///
/// # Errors
/// For the first that isn't and won't be.
fn are_all_up(target: &Target, release: &Release, instances: &[Instance]) -> Result<bool> {
    let mut all_up = true;
    for (process, quantity) in target.overlapping(release) {
        for index in 1..=quantity {
            let found = instances
                .iter()
                .find(|i| i.release == target.release && i.name.process == *process && i.name.index == index);
            match found {
                Some(instance) if instance.state == InstanceState::Up => {}
                // What ran before this workflow began may have crashed long ago.
                Some(instance) if has_failed(instance) && index > target.before(process) => {
                    return Err(failure(instance));
                }
                _ => all_up = all_up && index <= target.before(process),
            }
        }
    }
    Ok(all_up)
}

fn has_failed(instance: &Instance) -> bool {
    instance.state == InstanceState::Crashed || instance.restarts > 0
}

fn failure(instance: &Instance) -> Error {
    let reason = instance.reason.as_deref().unwrap_or("it ended before it was well");
    let code = match reason {
        r if r.contains("R10") => ErrorCode::BootTimeout,
        r if r.contains("health check") => ErrorCode::Unhealthy,
        _ => ErrorCode::ProcessCrashed,
    };
    let output = instance.last_exit.as_ref().map(|exit| exit.output.clone()).unwrap_or_default();
    Error::new(code, format!("{} did not start: {reason}", instance.name)).with_output(output)
}
