//! Routes that are applied at once.

use async_trait::async_trait;

use super::World;
use crate::{
    AppName, AppRoutes, Context, DrainRequest, Error, ErrorCode, Result, Router, RouterCapabilities,
};

/// A router whose routes are entries of a [`World`].
#[derive(Debug, Clone)]
pub struct FakeRouter(World);

impl FakeRouter {
    /// Routes in this world.
    pub fn new(world: &World) -> Self {
        Self(world.clone())
    }
}

#[async_trait]
impl Router for FakeRouter {
    fn capabilities(&self) -> RouterCapabilities {
        RouterCapabilities::draining()
    }

    async fn apply(&self, ctx: &Context, routes: &AppRoutes) -> Result<()> {
        self.0.stalled(&routes.app, "apply", Some(ctx)).await;
        self.0
            .act(ctx, "apply", |world| {
                let mut state = world.lock();
                let known = state.routes.get(&routes.app).filter(|known| known.app_id == routes.app_id);
                match known.map(|known| known.generation) {
                    Some(known) if known > routes.generation => {
                        let what = format!(
                            "generation {} of {} is older than {known}",
                            routes.generation, routes.app
                        );
                        return Err(Error::new(ErrorCode::StaleGeneration, what));
                    }
                    Some(known) if known == routes.generation => return Ok(()),
                    _ => {}
                }
                state.routes.insert(routes.app.clone(), routes.clone());
                drop(state);
                world.effect(format!("route {} {}", routes.app, routes.generation));
                Ok(())
            })
            .await
    }

    async fn observe(&self, app: &AppName) -> Result<Option<AppRoutes>> {
        Ok(self.0.routes(app))
    }

    async fn drain(&self, ctx: &Context, _: &DrainRequest) -> Result<u64> {
        self.0.act(ctx, "drain", |_| Ok(0)).await
    }
}
