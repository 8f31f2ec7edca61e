//! Apps: their releases and routes only ever go forward, and the rows are where the events led.

use std::collections::{BTreeMap, BTreeSet};

use super::{History, Wrong};
use crate::{AppName, EventKind, Release, ReleaseState, Version};

/// An app by its events.
#[derive(Debug, Default)]
struct Life {
    is_there: bool,
    /// The newest release.
    newest: u32,
    live: Option<Version>,
    was_live: BTreeSet<Version>,
    failed: BTreeSet<Version>,
    generation: u64,
}

pub(super) fn lives(history: &History, wrong: &mut Wrong) {
    if !history.is_whole() {
        return;
    }
    let mut lives: BTreeMap<&AppName, Life> = BTreeMap::new();
    for event in &history.events {
        if let Some(app) = &event.app {
            happens(app, lives.entry(app).or_default(), &event.kind, wrong);
        }
    }
    for (app, life) in &lives {
        ends(app, life, history, wrong);
    }
    for row in history.apps.iter().filter(|row| !lives.contains_key(&row.name)) {
        wrong.unless(false, || format!("{} is there, and no event tells that it was made", row.name));
    }
}

fn happens(app: &AppName, life: &mut Life, kind: &EventKind, wrong: &mut Wrong) {
    match kind {
        EventKind::AppCreated { .. } => {
            wrong.unless(!life.is_there, || format!("{app} was made twice"));
            *life = Life { is_there: true, ..Life::default() };
        }
        EventKind::AppDestroyed => {
            wrong.unless(life.is_there, || format!("{app} was destroyed twice"));
            life.is_there = false;
        }
        EventKind::ReleaseCreated { version, .. } => {
            let expected = life.newest + 1;
            wrong.unless(version.number() == expected, || {
                format!("{app} has a release {version} where v{expected} comes next")
            });
            life.newest = version.number();
        }
        EventKind::ReleaseLive { version, generation } => {
            let before = life.live;
            wrong.unless(Some(*version) >= before, || {
                format!("users of {app} went back from {} to {version}", said(before))
            });
            wrong.unless(version.number() <= life.newest, || format!("{version} of {app} is live unmade"));
            wrong.unless(!life.failed.contains(version), || {
                format!("{version} of {app} is live although it failed")
            });
            life.live = Some(*version);
            life.was_live.insert(*version);
            routed(app, life, *generation, wrong);
        }
        EventKind::RoutesChanged { generation } => routed(app, life, *generation, wrong),
        EventKind::ReleaseFailed { version } => {
            wrong.unless(!life.was_live.contains(version), || {
                format!("{version} of {app} failed although users saw it")
            });
            life.failed.insert(*version);
        }
        _ => {}
    }
}

fn routed(app: &AppName, life: &mut Life, generation: u64, wrong: &mut Wrong) {
    let before = life.generation;
    wrong.unless(generation > before, || format!("the routes of {app} went from {before} to {generation}"));
    life.generation = generation;
}

/// The rows are as the events left them.
fn ends(app: &AppName, life: &Life, history: &History, wrong: &mut Wrong) {
    let row = history.apps.iter().find(|row| row.name == *app);
    let routes = history.routes.iter().find(|routes| routes.app == *app);
    let Some(row) = row else {
        wrong.unless(!life.is_there, || format!("{app} was made, and is lost"));
        wrong.unless(routes.is_none(), || format!("{app} is gone, and its routes are there"));
        return;
    };
    wrong.unless(life.is_there, || format!("{app} was destroyed, and is there"));
    let (live, told) = (row.live.as_ref().map(|live| live.version), life.live);
    wrong.unless(live == told, || {
        format!("{} of {app} is live where the events say {}", said(live), said(told))
    });
    let generation = routes.map_or(0, |routes| routes.generation);
    wrong.unless(generation == life.generation, || {
        format!("the routes of {app} are at {generation} where the events say {}", life.generation)
    });
    let releases: Vec<&Release> =
        history.releases.iter().filter(|release| release.app_id == row.id).collect();
    let numbers: BTreeSet<u32> = releases.iter().map(|release| release.version.number()).collect();
    wrong.unless(numbers == (1..=life.newest).collect(), || {
        format!("{app} has the releases {numbers:?}, and made those up to v{}", life.newest)
    });
    for release in releases {
        let (version, state) = (release.version, release.state);
        let agrees = match state {
            ReleaseState::Pending => false,
            ReleaseState::Succeeded => life.was_live.contains(&version),
            ReleaseState::Failed => life.failed.contains(&version),
        };
        wrong.unless(agrees, || format!("{version} of {app} is {state}, and no event tells so"));
    }
}

fn said(version: Option<Version>) -> String {
    version.map_or_else(|| "nothing".to_owned(), |version| version.to_string())
}
