//! What to do next with a workflow. Pure: no clock, no I/O, no lock; everything it may look at is an argument.

use chrono::{DateTime, Utc};

use crate::{Ending, StepState, Transition, Workflow, WorkflowState};

/// What a workflow's kind says about one of its steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StepRule {
    /// It can be undone.
    pub(crate) undo: bool,
    /// This binary has the step.
    pub(crate) known: bool,
}

/// What a workflow's kind says about the workflow.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    /// One for each step of the workflow.
    pub(crate) steps: Vec<StepRule>,
    /// From the moment this step has begun, things only go forward.
    pub(crate) pivot: Option<usize>,
    /// After a wait, things begin again with this step.
    pub(crate) restart: Option<usize>,
    /// An engine may take a workflow this often without finishing a step.
    pub(crate) max_takeovers: u32,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Move {
    /// Begin this step, or begin it again.
    Run(usize),
    /// Undo this step, or undo it again.
    Undo(usize),
    /// The state changes.
    Turn(Transition),
    /// It was given up, and users see the new state: what remains is left as it is.
    Leave,
    /// It was taken over too often without progress: it fails.
    GiveUp,
    /// This binary doesn't have this step, which must not be skipped.
    Unknown(usize),
    /// Nothing before this time.
    Wait(DateTime<Utc>),
    /// Nothing by itself.
    Rest,
}

/// Whether the pivot has begun: users may see the new state of things.
pub(crate) fn is_past_pivot(workflow: &Workflow, rules: &Rules) -> bool {
    let pivot = rules.pivot.and_then(|index| workflow.steps.get(index));
    pivot.is_some_and(|step| step.state != StepState::Pending)
}

/// What to do next.
pub(crate) fn decide(workflow: &Workflow, rules: &Rules, now: DateTime<Utc>) -> Move {
    let past_pivot = is_past_pivot(workflow, rules);
    let given_up = workflow.abandoned.is_some();
    let stopped = (workflow.cancel.is_some() || workflow.failure.is_some() || given_up) && !past_pivot;
    let due = workflow.not_before.filter(|at| *at > now);
    match workflow.state {
        WorkflowState::Running | WorkflowState::Rewinding if stopped => Move::Turn(Transition::Fault),
        WorkflowState::Running if given_up => Move::Leave,
        WorkflowState::Running => due.map_or_else(|| forward(workflow, rules, past_pivot), Move::Wait),
        WorkflowState::Rewinding => due.map_or_else(
            || back(workflow, rules, rules.restart.unwrap_or(usize::MAX), Transition::Rewound),
            Move::Wait,
        ),
        WorkflowState::Undoing => {
            let end = match (&workflow.failure, &workflow.cancel) {
                _ if given_up => Transition::GivenUp,
                (None, Some(_)) => Transition::Undone(Ending::Cancelled),
                _ => Transition::Undone(Ending::Failed),
            };
            due.map_or_else(|| back(workflow, rules, 0, end), Move::Wait)
        }
        WorkflowState::Queued
        | WorkflowState::Parked
        | WorkflowState::Succeeded
        | WorkflowState::Failed
        | WorkflowState::Cancelled
        | WorkflowState::Superseded
        | WorkflowState::Abandoned => Move::Rest,
    }
}

fn forward(workflow: &Workflow, rules: &Rules, past_pivot: bool) -> Move {
    if workflow.takeovers > rules.max_takeovers && !past_pivot {
        return Move::GiveUp;
    }
    let open = |state| !matches!(state, StepState::Done | StepState::Skipped);
    let Some(index) = workflow.steps.iter().position(|step| open(step.state)) else {
        return Move::Turn(Transition::Succeeded);
    };
    let step = &workflow.steps[index];
    match step.state {
        _ if !rules.steps.get(index).is_some_and(|rule| rule.known) => Move::Unknown(index),
        StepState::Failed => Move::Turn(Transition::Fault),
        // What users see already isn't taken back for a wait.
        StepState::Waiting if step.signal.is_none() && past_pivot => Move::Turn(Transition::Rewound),
        StepState::Waiting if step.signal.is_none() => Move::Turn(Transition::Yield),
        StepState::Pending
        | StepState::Started
        | StepState::Retrying
        | StepState::Waiting
        | StepState::Done
        | StepState::Skipped
        | StepState::Undoing
        | StepState::Undone
        | StepState::Left => Move::Run(index),
    }
}

/// Undoes what was begun at or after the step `first`, the newest first, and then `then`.
fn back(workflow: &Workflow, rules: &Rules, first: usize, then: Transition) -> Move {
    let begun = |state| {
        matches!(
            state,
            StepState::Started
                | StepState::Retrying
                | StepState::Done
                | StepState::Failed
                | StepState::Undoing
        )
    };
    let undoable = |index: usize| rules.steps.get(index).is_some_and(|rule| rule.undo);
    let newest = workflow.steps.iter().enumerate().rev();
    let next = newest
        .take_while(|(index, _)| *index >= first)
        .find(|(index, step)| begun(step.state) && undoable(*index));
    next.map_or(Move::Turn(then), |(index, _)| Move::Undo(index))
}

#[cfg(test)]
mod tests;
