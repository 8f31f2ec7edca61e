//! The narrow waist: every step of every workflow passes one boxed tower service, which embedders may wrap.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt};

use super::kind::{StepAction, StepCall, StepOutput, WorkflowKind};
use crate::vault::Vault;
use crate::{Error, ErrorCode, KindName, Result};

/// The kinds that an engine knows, by name and version.
pub(crate) type Kinds = BTreeMap<(KindName, u32), Arc<WorkflowKind>>;

/// The tower service that every step of every workflow passes: what a layer of
/// [`EngineBuilder::step_layer`](crate::EngineBuilder::step_layer) wraps.
pub type Waist = BoxCloneSyncService<StepCall, StepOutput, BoxError>;

/// The innermost service: finds the step and does it.
#[derive(Debug, Clone)]
pub(crate) struct Steps {
    kinds: Arc<Kinds>,
    vault: Arc<Vault>,
}

impl Steps {
    pub(crate) fn new(kinds: Arc<Kinds>, vault: Arc<Vault>) -> Self {
        Self { kinds, vault }
    }

    /// Opens what earlier steps sealed: only here, behind every layer.
    fn open(&self, call: &mut StepCall) -> Result<()> {
        for step in &call.workflow.steps {
            if let Some(sealed) = &step.sealed {
                call.secrets.insert(step.name.clone(), self.vault.platform()?.open_vars(sealed)?);
            }
        }
        Ok(())
    }
}

impl Service<StepCall> for Steps {
    type Response = StepOutput;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<StepOutput, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut call: StepCall) -> Self::Future {
        let key = (call.workflow.kind.clone(), call.workflow.kind_version);
        let step = self.kinds.get(&key).and_then(|kind| kind.get(&call.step)).map(|def| def.step.clone());
        let opened = self.open(&mut call);
        Box::pin(async move {
            opened?;
            let Some(step) = step else {
                let what = format!("this engine has no step {} for a {}", call.step, call.workflow.kind);
                return Err(Error::new(ErrorCode::Unsupported, what).into());
            };
            match call.action {
                StepAction::Run => Ok(step.run(&call).await?),
                StepAction::Undo => Ok(step.undo(&call).await.map(|()| StepOutput::done())?),
            }
        })
    }
}

/// Sends a call through the waist. Layers turn errors into boxes; ours is taken out again, and another one
/// says which layer's word it is.
pub(crate) async fn pass(waist: &Waist, call: StepCall) -> Result<StepOutput> {
    let step = call.step.clone();
    waist.clone().oneshot(call).await.map_err(|error| match error.downcast::<Error>() {
        Ok(ours) => *ours,
        Err(theirs) => {
            let what = format!("a layer around the step {step} refused it");
            Error::new(ErrorCode::Forbidden, what).with_source(theirs)
        }
    })
}
