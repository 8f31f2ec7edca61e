//! finish: what remains to be said.

use async_trait::async_trait;

use crate::Result;
use crate::engine::kind::{Step, StepCall, StepOutput};
use crate::engine::kinds::Platform;
use crate::engine::rollout::Target;

#[derive(Debug)]
pub(crate) struct Finish(pub(crate) Platform);

#[async_trait]
impl Step for Finish {
    fn is_needed(&self, call: &StepCall) -> bool {
        Target::is_there(call)
    }

    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        if let Some(target) = Target::of(call)? {
            let log = self.0.get()?.log(crate::engine::rollout::app_name(call)?, "release");
            let by = &call.workflow.by;
            if target.is_scale() {
                let sizes: Vec<_> =
                    target.formation.iter().map(|(p, s)| format!("{p}={}", s.quantity)).collect();
                log.line(format!("Scaled to {} by {by}", sizes.join(" ")));
            } else {
                log.line(format!("Release {} created by {by}", target.version));
            }
        }
        Ok(StepOutput::done())
    }
}
