//! All that can be decided: every state with every standing of its steps.

use super::*;
use crate::{
    Abandonment, CancelRequest, Error, ErrorCode, Failure, Principal, StepName, StepRecord, Subject,
    WorkflowId,
};

const STATES: [WorkflowState; 10] = [
    WorkflowState::Queued,
    WorkflowState::Running,
    WorkflowState::Undoing,
    WorkflowState::Rewinding,
    WorkflowState::Parked,
    WorkflowState::Succeeded,
    WorkflowState::Failed,
    WorkflowState::Cancelled,
    WorkflowState::Superseded,
    WorkflowState::Abandoned,
];

const STEPS: [StepState; 10] = [
    StepState::Pending,
    StepState::Started,
    StepState::Retrying,
    StepState::Waiting,
    StepState::Done,
    StepState::Skipped,
    StepState::Failed,
    StepState::Undoing,
    StepState::Undone,
    StepState::Left,
];

fn workflow(state: WorkflowState) -> Workflow {
    let step = |name: &str| StepRecord::new(name.parse::<StepName>().unwrap(), true);
    Workflow {
        id: WorkflowId::new(),
        kind: "deploy".parse().unwrap(),
        kind_version: 1,
        subject: Subject::Platform,
        state,
        input: serde_json::Value::Null,
        by: Principal::platform(),
        created_at: DateTime::UNIX_EPOCH,
        steps: ["one", "two", "three"].map(step).into(),
        failure: None,
        cancel: None,
        abandoned: None,
        takeovers: 0,
        not_before: None,
        held: None,
        turn: None,
        ended_at: None,
    }
}

/// The workflow with what people and failures may have left on it.
fn marked(mut workflow: Workflow, marks: u8) -> Workflow {
    let (by, at, why) = (Principal::platform(), DateTime::UNIX_EPOCH, String::new());
    let error = Error::new(ErrorCode::Internal, "it failed");
    workflow.failure = (marks & 1 > 0).then(|| Failure::of(&error, None, 1, at));
    workflow.cancel = (marks & 2 > 0).then(|| CancelRequest { by: by.clone(), at, why: why.clone() });
    workflow.abandoned = (marks & 4 > 0).then(|| Abandonment { by, at, why, left: Vec::new() });
    workflow.steps[1].signal = (marks & 8 > 0).then_some(serde_json::Value::Null);
    workflow.takeovers = if marks & 16 > 0 { 9 } else { 0 };
    workflow
}

#[test]
fn whatever_is_decided_is_legal_and_what_is_under_way_never_rests() {
    for state in STATES {
        for steps in 0..1000 {
            for marks in 0..32 {
                let mut workflow = marked(workflow(state), marks);
                for (step, index) in workflow.steps.iter_mut().zip([steps % 10, steps / 10 % 10, steps / 100])
                {
                    step.state = STEPS[index];
                }
                for known in [true, false] {
                    let steps = vec![StepRule { undo: true, known }; 3];
                    let rules = Rules { steps, pivot: Some(1), restart: Some(0), max_takeovers: 5 };
                    let next = decide(&workflow, &rules, DateTime::UNIX_EPOCH);
                    if let Move::Turn(transition) = next {
                        state.apply(transition).unwrap_or_else(|error| panic!("{error}: {workflow:#?}"));
                    }
                    assert_eq!(next == Move::Rest, !state.is_active(), "{workflow:#?}");
                    let past_pivot = is_past_pivot(&workflow, &rules);
                    if past_pivot && state == WorkflowState::Running {
                        let back =
                            matches!(next, Move::Undo(_) | Move::GiveUp | Move::Turn(Transition::Yield));
                        assert!(!back, "{next:?} after the pivot: {workflow:#?}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_given_up_is_undone_before_the_pivot_and_left_after_it() {
    let rules = |undo| Rules {
        steps: vec![StepRule { undo, known: true }; 3],
        pivot: Some(1),
        restart: None,
        max_takeovers: 5,
    };
    let now = DateTime::UNIX_EPOCH;
    let mut given_up = marked(workflow(WorkflowState::Running), 4);
    given_up.steps[0].state = StepState::Done;
    assert_eq!(decide(&given_up, &rules(true), now), Move::Turn(Transition::Fault));
    given_up.state = WorkflowState::Undoing;
    assert_eq!(decide(&given_up, &rules(true), now), Move::Undo(0));
    given_up.steps[0].state = StepState::Left;
    assert_eq!(decide(&given_up, &rules(true), now), Move::Turn(Transition::GivenUp));

    let mut live = marked(workflow(WorkflowState::Running), 4);
    (live.steps[0].state, live.steps[1].state) = (StepState::Done, StepState::Done);
    assert_eq!(decide(&live, &rules(true), now), Move::Leave);
}
