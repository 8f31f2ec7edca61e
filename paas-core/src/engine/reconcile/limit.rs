//! Calls of providers beside workflows, which have steps' time limits: none of them takes for ever.

use std::fmt::Display;
use std::time::Duration;

use crate::engine::Inner;
use crate::{
    AppName, Cancel, CancelReason, Context, Error, ErrorCode, IdempotencyKey, Result, Retry, StepName,
    WorkflowId,
};

/// The calls that one pass over an app makes.
pub(super) struct Calls<'a> {
    inner: &'a Inner,
    cancel: Cancel,
    pub(super) ctx: Context,
}

impl Inner {
    pub(super) fn calls(&self, app: &AppName) -> Calls<'_> {
        let step = StepName::new("reconcile").expect("a constant");
        let key = IdempotencyKey::new(WorkflowId::from(uuid::Uuid::nil()), step);
        let cancel = Cancel::new();
        let log = self.log(app.clone(), "reconcile");
        let ctx = Context::new(key, cancel.clone(), self.clock.clone(), log);
        Calls { inner: self, cancel, ctx }
    }

    /// A look, which nobody can be told to stop.
    pub(super) async fn look<T>(
        &self,
        what: impl Display,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.limit(what, &Cancel::new(), Duration::ZERO, call).await
    }

    async fn limit<T>(
        &self,
        what: impl Display,
        cancel: &Cancel,
        grace: Duration,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let limit = self.options.call_timeout;
        let mut call = std::pin::pin!(call);
        let reason = tokio::select! {
            result = &mut call => return result,
            reason = self.shutdown.cancelled() => reason,
            () = tokio::time::sleep(limit) => CancelReason::Timeout,
        };
        cancel.cancel(reason);
        // It gets time to stop what it started; then it is dropped, which must stop it too.
        match (tokio::time::timeout(grace, call).await, reason) {
            (Ok(Ok(answer)), _) => Ok(answer),
            (_, CancelReason::Timeout) => {
                let what = format!("{what} was not answered within {limit:?}: cut off");
                Err(Error::new(ErrorCode::Timeout, what).with_retry(Retry::Backoff))
            }
            (Ok(Err(error)), _) => Err(error),
            (Err(_), reason) => Err(reason.into()),
        }
    }
}

impl Calls<'_> {
    /// A call that gets this context.
    pub(super) async fn make<T>(
        &self,
        what: impl Display,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.inner.limit(what, &self.cancel, self.inner.options.stop_grace, call).await
    }
}
