//! `switch_route`, the pivot: the transaction that begins it makes the release live; then the router is told.

use async_trait::async_trait;

use crate::engine::Inner;
use crate::engine::environment::is_single;
use crate::engine::kind::{Changes, Moment, Step, StepCall, StepOutput};
use crate::engine::kinds::Platform;
use crate::engine::ledger::{put_app, put_release, put_routes};
use crate::engine::rollout::{Target, app_name};
use crate::routing::is_page;
use crate::store::Expect;
use crate::{
    App, AppRoutes, Error, ErrorCode, EventKind, Instance, InstanceState, Live, ProcessType, Release,
    ReleaseId, ReleaseState, Result, Retry, RouteState,
};

#[derive(Debug)]
pub(crate) struct SwitchRoute(pub(crate) Platform);

#[async_trait]
impl Step for SwitchRoute {
    fn is_needed(&self, call: &StepCall) -> bool {
        Target::is_there(call)
    }

    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let Some(target) = Target::of(call)? else { return Ok(StepOutput::done()) };
        let name = app_name(call)?;
        inner.publish(&call.ctx, &name).await?;
        if !target.is_scale() {
            call.ctx.log.line(format!("       Released {}", target.version));
            call.ctx.log.line(format!("       {} deployed", inner.url(&name)?));
        }
        Ok(StepOutput::done())
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let (Moment::Intent, Some(target)) = (moment, Target::of(call)?) else { return Ok(Changes::none()) };
        let inner = self.0.get()?;
        let name = app_name(call)?;
        let (app, release) = inner.rollout(&name, &target).await?;
        let (app_rev, mut app) = (app.rev, app.value);
        let live = app.live.as_ref();
        if live.is_some_and(|live| live.release == target.release && live.formation == target.formation) {
            // It is live already; the router has yet to hear of it. The number of the attempt can't tell: an intent that
            // was refused counts as one, too.
            return Ok(Changes::none());
        }
        let (release_rev, mut release) = (release.rev, release.value);
        if target.restores && app.head.rev == target.head {
            app.head.config = release.config.clone();
            app.head.rev += 1;
        }
        let head = if target.restores { app.head.rev } else { target.head };
        app.live = Some(Live {
            release: target.release,
            version: target.version,
            head,
            formation: target.formation.clone(),
            error_page: inner.page(&app, &release, "ERROR_PAGE_URL").await?,
            maintenance_page: inner.page(&app, &release, "MAINTENANCE_PAGE_URL").await?,
        });
        let stored = inner.ledger.routes(&name).await?;
        let routes = inner.routes_for(&app, stored.as_ref().map(|stored| &stored.value)).await?;
        let web = target.formation.get(&ProcessType::web()).map_or(0, |scale| scale.quantity);
        let single = is_single(&release.artifact, &ProcessType::web());
        if web > 0 && !single && routes.backends.is_empty() {
            let what = "no web process is up any more; trying again";
            return Err(Error::new(ErrorCode::Unhealthy, what).with_retry(Retry::Backoff));
        }
        let expect = stored.map_or(Expect::Absent, |stored| Expect::Rev(stored.rev));
        let mut changes = Changes::none()
            .write(put_app(&app, Expect::Rev(app_rev))?)
            .write(put_routes(&routes, expect)?)
            .event(EventKind::ReleaseLive { version: target.version, generation: routes.generation });
        if release.state == ReleaseState::Pending {
            release.state = ReleaseState::Succeeded;
            changes = changes.write(put_release(&release, Expect::Rev(release_rev))?);
        }
        Ok(changes)
    }
}

/// Whether the web processes of a release are about to be up: none has crashed or is lost.
fn is_starting(instances: &[Instance], release: ReleaseId) -> bool {
    let mut web = instances.iter().filter(|i| i.release == release && i.name.process.is_web());
    web.all(|i| matches!(i.state, InstanceState::Starting | InstanceState::Stopping))
}

impl Inner {
    /// The routes of an app as they should be now, one generation after the stored ones.
    pub(crate) async fn routes_for(&self, app: &App, stored: Option<&AppRoutes>) -> Result<AppRoutes> {
        let generation =
            stored.filter(|routes| routes.app_id == app.id).map_or(0, |routes| routes.generation) + 1;
        let mut routes = AppRoutes::new(app.name.clone(), app.id, generation);
        routes.domains.push(self.default_domain(&app.name)?);
        routes.domains.extend(app.domains.iter().cloned());
        routes.settings = app.routing.clone();
        let Some(live) = &app.live else { return Ok(routes) };
        let pages = [
            (&mut routes.settings.error_page, &live.error_page),
            (&mut routes.settings.maintenance_page, &live.maintenance_page),
        ];
        for (page, var) in pages {
            if var.is_some() {
                page.clone_from(var);
            }
        }
        let web = live.formation.get(&ProcessType::web()).map_or(0, |scale| scale.quantity);
        if self.home_elsewhere(app).is_some() {
            Self::routes_elsewhere(app, stored, &mut routes);
            return Ok(routes);
        }
        let instances = self.runtime.observe(&app.name).await?;
        routes.version = Some(live.version);
        routes.backends = Self::backends(&instances, live.release, web);
        routes.state = match web {
            _ if app.maintenance => RouteState::Maintenance,
            _ if app.paused => RouteState::Paused,
            0 => RouteState::Stopped,
            _ if routes.backends.is_empty() && is_starting(&instances, live.release) => RouteState::Starting,
            _ => RouteState::Serving,
        };
        Ok(routes)
    }

    /// The page that the owner's config names in this var; what is no URL of a page is left out.
    async fn page(&self, app: &App, release: &Release, var: &str) -> Result<Option<String>> {
        if !release.config.keys().any(|key| key.as_str() == var) {
            return Ok(None);
        }
        let (vars, _) = self.environment(app, release).await?;
        let page =
            vars.iter().find(|(key, _)| key.as_str() == var).map(|(_, value)| value.expose().to_owned());
        Ok(page.filter(|page| is_page(page)))
    }

    /// Tells the router what the store says of an app's routes.
    pub(crate) async fn publish(&self, ctx: &crate::Context, app: &crate::AppName) -> Result<()> {
        loop {
            let Some(stored) = self.ledger.routes(app).await? else { return Ok(()) };
            match self.router.apply(ctx, &stored.value).await {
                // Somebody was faster with newer ones: look again whether there are newer ones still.
                Err(error) if error.code() == ErrorCode::StaleGeneration => {
                    let newest = self.ledger.routes(app).await?.map(|routes| routes.value.generation);
                    if newest.is_none_or(|newest| newest <= stored.value.generation) {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }
}
