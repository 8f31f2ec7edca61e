//! After the storm: everything ends, everything works, and no promise is broken.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::Storm;
use super::fleet::Fleet;
use super::users::Users;
use crate::store::{ListQuery, QueueState, Store, Table};
use crate::testkit::history::{History, Violation};
use crate::testkit::random::Random;
use crate::testkit::world::{TestPlatform, check};
use crate::{AppName, Engine, Principal, Result, WorkflowState};

/// What is wrong when all is over.
pub(super) async fn judge(
    storm: &Storm,
    platform: &TestPlatform,
    fleet: Fleet<'_>,
    users: &mut Users,
    store: &impl AsyncFn() -> Arc<dyn Store>,
) -> Vec<Violation> {
    fleet.calm();
    users.story.push("calm".into());
    let mut wrong = Vec::new();
    let store = store().await;
    let (_, engine) = fleet.any(&mut Random::new(storm.seed)).expect("an engine that is awake");
    // What waits for a roll-out that failed in the storm waits for the next one; so people deploy once more.
    let deployed = match tokio::time::timeout(storm.patience, deploy_all(&engine)).await {
        Ok(Ok(failed)) => failed,
        Ok(Err(error)) => vec![Violation(format!("the engine doesn't work after the storm: {error}"))],
        Err(_) => vec![Violation("a deploy after the storm doesn't end".into())],
    };
    wrong.extend(deployed);
    if tokio::time::timeout(storm.patience, rest(store.as_ref(), storm.lease / 100)).await.is_err() {
        wrong.push(Violation(format!("there is no rest after the storm: {:#?}", open(store.as_ref()).await)));
        return wrong;
    }
    if tokio::time::timeout(storm.patience, rotated(storm, platform, &engine)).await.is_err() {
        wrong.push(Violation("a rotation of the master key after the storm doesn't end well".into()));
    }
    if storm.fakes {
        wrong.extend(settled(storm, platform, &engine).await);
    }
    if !fleet.stop().await {
        wrong.push(Violation("an engine doesn't stop".into()));
    }
    match History::read(store.as_ref()).await {
        Ok(mut history) => {
            history.told.append(&mut users.told);
            wrong.extend(history.ran(platform.world.release_phases()).check());
        }
        Err(error) => wrong.push(Violation(format!("the history can't be read: {error}"))),
    }
    wrong
}

/// Deploys each app that is there and stays.
async fn deploy_all(engine: &Engine) -> Result<Vec<Violation>> {
    let mut handles = Vec::new();
    for app in engine.apps().await?.into_iter().filter(|app| !app.destroying) {
        let code = "web: last\n";
        handles.push((app.name.clone(), TestPlatform::deploy(engine, &app.name, code).await?));
    }
    let mut wrong = Vec::new();
    for (app, handle) in handles {
        let ended = handle.ended().await?;
        if ended.state != WorkflowState::Succeeded {
            let why = ended.failure.map(|failure| failure.message).unwrap_or_default();
            wrong.push(Violation(format!("a deploy of {app} after the storm has {}: {why}", ended.state)));
        }
    }
    Ok(wrong)
}

/// Moves to another master key, after which nothing needs an older one. Engines that died in the storm don't know it, and
/// count until their leases have ended.
async fn rotated(storm: &Storm, platform: &TestPlatform, engine: &Engine) {
    let once = async || -> Result<bool> {
        platform.keys().add_key()?;
        let ended = engine.rotate_key(&Principal::platform()).await?.ended().await?;
        Ok(ended.state == WorkflowState::Succeeded && engine.key_state().await?.behind == 0)
    };
    while !once().await.is_ok_and(|done| done) {
        tokio::time::sleep(storm.lease).await;
    }
}

/// Waits until no workflow is open.
async fn rest(store: &dyn Store, pause: Duration) {
    while !open(store).await.is_empty() {
        tokio::time::sleep(pause).await;
    }
}

async fn open(store: &dyn Store) -> Vec<String> {
    let query = ListQuery::all().states([QueueState::Queued, QueueState::Active, QueueState::Parked]);
    let rows = store.list(Table::Workflows, &query).await;
    rows.unwrap_or_default().into_iter().map(|row| row.body).collect()
}

/// What is wrong with the world, once the reconcilers have had time for their last word.
async fn settled(storm: &Storm, platform: &TestPlatform, engine: &Engine) -> Vec<Violation> {
    let mut wrong = Vec::new();
    for _ in 0..200 {
        wrong = world(platform, engine)
            .await
            .unwrap_or_else(|error| vec![Violation(format!("the engine can't be asked: {error}"))]);
        if wrong.is_empty() {
            return wrong;
        }
        tokio::time::sleep(storm.lease / 20).await;
    }
    wrong
}

async fn world(platform: &TestPlatform, engine: &Engine) -> Result<Vec<Violation>> {
    let world = &platform.world;
    let mut wrong = Vec::new();
    let (mut apps, mut addons) = (BTreeSet::<AppName>::new(), BTreeSet::new());
    for app in engine.apps().await? {
        if app.destroying {
            wrong.push(Violation(format!("{} is to be destroyed, and nobody does it", app.name)));
        }
        wrong.extend(check(world, engine, &app.name).await?);
        addons.extend(engine.addons(&app.name).await?.into_iter().map(|addon| addon.id));
        apps.insert(app.name);
    }
    let left: BTreeSet<_> = world.addons().into_keys().filter(|id| !addons.contains(id)).collect();
    if !left.is_empty() {
        wrong.push(Violation(format!("the resources {left:?} belong to nobody")));
    }
    let stray = world.instances().into_iter().filter(|instance| !apps.contains(&instance.app));
    wrong.extend(stray.map(|i| Violation(format!("{} of {} runs, and the app is gone", i.name, i.app))));
    // An add-on whose app is destroyed while it is made may be made again before that is seen, and is unmade then.
    let once = ["run ", "rotate ", "revoke "];
    let twice =
        platform.repeated().into_keys().filter(|effect| once.iter().any(|one| effect.starts_with(one)));
    wrong.extend(twice.map(|effect| Violation(format!("it happened twice: {effect}"))));
    Ok(wrong)
}
