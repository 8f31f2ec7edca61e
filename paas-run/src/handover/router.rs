//! Routes of two processes at once, for as long as the old one has connections.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use paas_core::{AppName, AppRoutes, Context, DrainRequest, Result, Router, RouterCapabilities};
use tokio::time::Instant;

use super::Message;
use super::predecessor::Shared;

/// How long the old process may take to apply routes.
const PATIENCE: Duration = Duration::from_secs(10);

/// This process's router, and that of the one before it.
#[derive(Debug)]
pub(super) struct Both {
    own: Arc<dyn Router>,
    before: Arc<Shared>,
}

impl Both {
    pub(super) fn new(own: Arc<dyn Router>, before: Arc<Shared>) -> Self {
        Self { own, before }
    }
}

#[async_trait]
impl Router for Both {
    fn capabilities(&self) -> RouterCapabilities {
        self.own.capabilities()
    }

    async fn apply(&self, ctx: &Context, routes: &AppRoutes) -> Result<()> {
        self.own.apply(ctx, routes).await?;
        let told = self.before.ask(|id| Message::Apply { id, routes: routes.clone() }, PATIENCE);
        ctx.cancel.guard(told).await?.map(drop)
    }

    async fn observe(&self, app: &AppName) -> Result<Option<AppRoutes>> {
        self.own.observe(app).await
    }

    async fn drain(&self, ctx: &Context, request: &DrainRequest) -> Result<u64> {
        let millis = u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX);
        let (app, backends) = (request.app.clone(), request.backends.clone());
        let message = |id| Message::Drain { id, app, backends, millis };
        let theirs = self.before.ask(message, request.timeout.saturating_add(PATIENCE));
        let (own, theirs) =
            tokio::try_join!(self.own.drain(ctx, request), async { ctx.cancel.guard(theirs).await? })?;
        Ok(own + theirs)
    }

    fn serve_until(&self, until: Option<Instant>) -> Result<()> {
        self.own.serve_until(until)
    }
}
