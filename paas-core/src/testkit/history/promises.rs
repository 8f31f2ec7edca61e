//! What was promised to people: it ran once, and what they were told is so.

use std::collections::{BTreeMap, BTreeSet};

use super::workflows::name;
use super::{Acknowledged, History, Wrong};
use crate::{AppName, EventKind, Version, WorkflowId, WorkflowState};

pub(super) fn release_phases(history: &History, wrong: &mut Wrong) {
    let mut times: BTreeMap<&(AppName, Version), u32> = BTreeMap::new();
    for run in &history.release_phases {
        *times.entry(run).or_default() += 1;
    }
    for ((app, version), times) in times {
        wrong.unless(times == 1, || format!("the release phase of {app} {version} ran {times} times"));
    }
}

/// Whatever was acknowledged is there.
pub(super) fn told(history: &History, wrong: &mut Wrong) {
    if !history.is_whole() {
        return;
    }
    let events = || history.events.iter();
    let asked: BTreeSet<WorkflowId> = events()
        .filter(|event| matches!(event.kind, EventKind::Queued { .. }))
        .filter_map(|event| event.workflow)
        .collect();
    let ends: BTreeMap<WorkflowId, WorkflowState> = events()
        .filter_map(|event| match event.kind {
            EventKind::Ended { state, .. } => Some((event.workflow?, state)),
            _ => None,
        })
        .collect();
    let happened = |app: &AppName, what: &dyn Fn(&EventKind) -> bool| {
        events().any(|event| event.app.as_ref() == Some(app) && what(&event.kind))
    };
    for told in &history.told {
        match told {
            Acknowledged::Made(app) => {
                let made = happened(app, &|kind| matches!(kind, EventKind::AppCreated { .. }));
                wrong.unless(made, || format!("{app} was acknowledged, and is lost"));
            }
            Acknowledged::Queued(id) => {
                wrong.unless(asked.contains(id), || format!("{} was acknowledged, and is lost", name(*id)));
            }
            Acknowledged::Ended(id, state) => {
                wrong.unless(ends.get(id) == Some(state), || {
                    format!("somebody was told that {} has {state}, and it has not", name(*id))
                });
            }
            Acknowledged::Configured(app, key) => {
                let changed = |kind: &EventKind| matches!(kind, EventKind::ConfigChanged { keys, .. } if keys.contains(key));
                wrong.unless(happened(app, &changed), || {
                    format!("a change of {key} of {app} was acknowledged, and is lost")
                });
            }
            Acknowledged::Live(app, version) => {
                let live = |kind: &EventKind| matches!(kind, EventKind::ReleaseLive { version: live, .. } if live == version);
                wrong.unless(happened(app, &live), || {
                    format!("somebody was told that {version} of {app} is live, and it never was")
                });
            }
        }
    }
}
