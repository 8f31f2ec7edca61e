//! Workflows: each has one life, and those of one subject take turns.

use std::collections::BTreeMap;

use super::{History, Wrong};
use crate::{Event, EventKind, StepState, Workflow, WorkflowId, WorkflowState};

/// How far a workflow is, by its events.
#[derive(Debug, Default)]
struct Life {
    queued: bool,
    claim: u64,
    ended: Option<WorkflowState>,
}

/// Each is asked for once, claimed by ever newer claims, and ends once; nothing comes after its end.
pub(super) fn lives(history: &History, wrong: &mut Wrong) {
    let mut lives: BTreeMap<WorkflowId, Life> = BTreeMap::new();
    let mut last = 0;
    for event in &history.events {
        wrong.unless(event.seq > last, || format!("the event {} comes after the event {last}", event.seq));
        last = event.seq;
        let Some(id) = event.workflow else { continue };
        let life = lives.entry(id).or_default();
        if let Some(ended) = life.ended {
            wrong.unless(false, || format!("{} goes on although it has {ended}: {}", name(id), event.kind));
        }
        match &event.kind {
            EventKind::Queued { .. } => {
                wrong.unless(!life.queued, || format!("{} was asked for twice", name(id)));
                life.queued = true;
                continue;
            }
            EventKind::Claimed { claim } => {
                let before = life.claim;
                wrong.unless(*claim > before, || {
                    format!("{} was claimed by the claim {claim} after the claim {before}", name(id))
                });
                life.claim = *claim;
            }
            EventKind::Ended { state, .. } => {
                let begun = life.claim > 0;
                wrong.unless(!begun || *state != WorkflowState::Superseded, || {
                    format!("{} was superseded although it had begun", name(id))
                });
                life.ended = Some(*state);
            }
            _ => {}
        }
        let known = life.queued || !history.is_whole();
        wrong.unless(known, || format!("{} was never asked for, and yet: {}", name(id), event.kind));
    }
    let rows: BTreeMap<WorkflowId, &Workflow> = history.workflows.iter().map(|row| (row.id, row)).collect();
    for (id, life) in &lives {
        let lost = life.ended.is_none() && !rows.contains_key(id);
        wrong.unless(!lost, || format!("{} was asked for and is lost", name(*id)));
    }
    for row in history.workflows.iter().filter(|row| history.is_whole() || lives.contains_key(&row.id)) {
        let told = lives.get(&row.id).and_then(|life| life.ended);
        let state = row.state;
        // Whoever waits for somebody outside is at rest.
        let rests = state.is_ended() || state == WorkflowState::Parked;
        wrong.unless(rests, || format!("{} has not ended: it is {state}", name(row.id)));
        wrong.unless(told == Some(state) || !state.is_ended(), || {
            let told = told.map_or_else(|| "none".to_owned(), |told| told.to_string());
            format!("{} has {state}, and its events tell of another end: {told}", name(row.id))
        });
    }
}

/// From a claim until the workflow ends or is parked, no other of its subject does anything.
pub(super) fn turns(history: &History, wrong: &mut Wrong) {
    let subjects: BTreeMap<WorkflowId, String> =
        history.workflows.iter().map(|row| (row.id, row.subject.to_string())).collect();
    let mut at_work: BTreeMap<String, WorkflowId> = BTreeMap::new();
    for event in &history.events {
        let Some(id) = event.workflow else { continue };
        // Of workflows that were collected the app is known still.
        let named = event.app.as_ref().map(|app| format!("app/{app}"));
        let Some(subject) = subjects.get(&id).cloned().or(named) else { continue };
        let other = at_work.get(&subject).copied().filter(|other| *other != id);
        match &event.kind {
            EventKind::Claimed { .. } => {
                if let Some(other) = other {
                    wrong.unless(false, || {
                        format!("of {subject} {} begins while {} is at work", name(id), name(other))
                    });
                }
                at_work.insert(subject, id);
            }
            EventKind::Ended { .. } | EventKind::Parked { .. } if other.is_none() => {
                at_work.remove(&subject);
            }
            kind if is_work(kind) => {
                let has_turn = at_work.get(&subject) == Some(&id) || !history.is_whole();
                wrong.unless(has_turn, || {
                    format!("{} of {subject} does something out of its turn: {kind}", name(id))
                });
            }
            _ => {}
        }
    }
}

/// Whether only whoever has the turn may do this.
fn is_work(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::StepStarted { .. }
            | EventKind::StepFinished { .. }
            | EventKind::StepFailed { .. }
            | EventKind::StepUndone { .. }
            | EventKind::ReleaseCreated { .. }
            | EventKind::ReleaseLive { .. }
            | EventKind::ReleaseFailed { .. }
            | EventKind::AppDestroyed
    )
}

/// What the rows say of each step, the events say, too.
pub(super) fn rows(history: &History, wrong: &mut Wrong) {
    if !history.is_whole() {
        return;
    }
    let mut by_workflow: BTreeMap<WorkflowId, Vec<&Event>> = BTreeMap::new();
    for event in &history.events {
        if let Some(id) = event.workflow {
            by_workflow.entry(id).or_default().push(event);
        }
    }
    for row in &history.workflows {
        let events = by_workflow.get(&row.id).map_or(&[][..], Vec::as_slice);
        for step in &row.steps {
            let told = |what: fn(&EventKind) -> Option<&crate::StepName>| {
                events.iter().any(|event| what(&event.kind) == Some(&step.name))
            };
            let (started, finished, undone) = (told(started), told(finished), told(undone));
            let agrees = match step.state {
                StepState::Pending | StepState::Skipped | StepState::Left => true,
                StepState::Done => started && finished,
                StepState::Undone => undone,
                StepState::Started
                | StepState::Retrying
                | StepState::Waiting
                | StepState::Failed
                | StepState::Undoing => started,
            };
            wrong.unless(agrees, || {
                format!("{} of {} is {:?}, and no event tells so", step.name, name(row.id), step.state)
            });
        }
    }
}

fn started(kind: &EventKind) -> Option<&crate::StepName> {
    if let EventKind::StepStarted { step, .. } = kind { Some(step) } else { None }
}

fn finished(kind: &EventKind) -> Option<&crate::StepName> {
    if let EventKind::StepFinished { step } = kind { Some(step) } else { None }
}

fn undone(kind: &EventKind) -> Option<&crate::StepName> {
    if let EventKind::StepUndone { step } = kind { Some(step) } else { None }
}

pub(super) fn name(id: WorkflowId) -> String {
    format!("the workflow {id}")
}
