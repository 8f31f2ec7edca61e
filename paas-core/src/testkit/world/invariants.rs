//! What always holds once an engine has come to rest, whatever happened before.

use std::collections::BTreeSet;

use super::World;
use crate::testkit::history::Violation;
use crate::{AppName, Engine, InstanceState, ReleaseState, Result, Subject};

/// Everything that is wrong with this app, in words; nothing is wrong when it is empty.
///
/// # Errors
/// When the engine can't be asked.
pub async fn check(world: &World, engine: &Engine, name: &AppName) -> Result<Vec<Violation>> {
    let mut wrong = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            wrong.push(Violation(what));
        }
    };
    let app = engine.app(name).await?;
    let releases = engine.releases(name).await?;
    let open = engine.open_workflows(&Subject::App(name.clone())).await?;
    let instances: Vec<_> = world.instances().into_iter().filter(|i| i.app == *name).collect();
    must(open.is_empty(), format!("workflows of {name} are still open: {open:?}"));

    let numbers: Vec<u32> = releases.iter().rev().map(|release| release.version.number()).collect();
    let count = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
    must(numbers == (1..=count).collect::<Vec<_>>(), format!("release numbers have gaps: {numbers:?}"));
    let pending = releases.iter().any(|release| release.state == ReleaseState::Pending);
    must(!pending, "a release is pending although nothing works on it".into());

    let live = app.live.as_ref().map(|live| live.release);
    let stray = instances.iter().filter(|i| Some(i.release) != live).count();
    must(stray == 0, format!("{stray} instances belong to no live release"));
    let names: BTreeSet<_> = instances.iter().map(|i| (i.release, i.name.clone())).collect();
    must(names.len() == instances.len(), "an instance runs twice".into());
    if let Some(live) = &app.live {
        for (process, scale) in &live.formation {
            let up = instances
                .iter()
                .filter(|i| i.name.process == *process && i.state == InstanceState::Up)
                .count();
            must(up == scale.quantity as usize, format!("{up} of {} {process} are up", scale.quantity));
        }
        let succeeded = releases.iter().any(|r| r.id == live.release && r.state == ReleaseState::Succeeded);
        must(succeeded, format!("the live release {} has not succeeded", live.version));
        let routes = world.routes(name);
        let backends = routes.as_ref().map(|routes| routes.backends.clone()).unwrap_or_default();
        let web = live
            .formation
            .iter()
            .find(|(process, _)| process.is_web())
            .map_or(0, |(_, scale)| scale.quantity);
        must(backends.len() == web as usize, format!("{} of {web} web instances are routed", backends.len()));
        let dead =
            backends.iter().filter(|b| !instances.iter().any(|i| i.address == Some(b.address))).count();
        must(dead == 0, format!("{dead} routed backends don't run"));
    }
    let mut generation = 0;
    for applied in world.history().iter().filter_map(|e| e.strip_prefix(&format!("route {name} "))) {
        let next = applied.parse().unwrap_or(0);
        must(next > generation, format!("routes went back from {generation} to {next}"));
        generation = next;
    }
    // A resource that nobody is bound to may be anybody's.
    let made: BTreeSet<_> = world
        .addons()
        .into_iter()
        .filter(|(_, apps)| apps.is_empty() || apps.contains(name))
        .map(|(id, _)| id)
        .collect();
    let known: BTreeSet<_> = engine.addons(name).await?.into_iter().map(|addon| addon.id).collect();
    must(made == known, format!("the resources {made:?} exist for the add-ons {known:?}"));
    Ok(wrong)
}
