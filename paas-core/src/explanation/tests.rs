//! The words of each state.

use super::*;
use crate::{Error, ErrorCode, Retry, Scope};

fn at(time: &str) -> DateTime<Utc> {
    format!("2026-11-27T{time}Z").parse().unwrap()
}

fn ada() -> Principal {
    Principal::named("ada").unwrap()
}

fn engine() -> OwnerId {
    OwnerId::from("018f0000-0000-7000-8000-00000000000e".parse::<uuid::Uuid>().unwrap())
}

fn id(last: u8) -> WorkflowId {
    WorkflowId::from(format!("018f0000-0000-7000-8000-0000000000{last:02x}").parse::<uuid::Uuid>().unwrap())
}

fn calm() -> Explanation {
    Explanation {
        app: "hello".parse().unwrap(),
        at: at("12:00:00"),
        live: Some(LiveRelease {
            version: Version::new(12).unwrap(),
            description: "Deploy 1a2b3c4d".into(),
            since: at("09:55:00"),
        }),
        processes: vec![count("web", 2, 2), count("worker", 1, 1)],
        ahead: false,
        maintenance: false,
        neglect: None,
        freeze: None,
        last_deploy: Some(LastDeploy {
            workflow: id(1),
            state: WorkflowState::Succeeded,
            at: at("09:56:00"),
            failure: None,
        }),
        open: Vec::new(),
    }
}

fn count(process: &str, up: u32, wanted: u32) -> ProcessCount {
    ProcessCount { process: process.parse().unwrap(), up, wanted, reason: None }
}

fn failure(code: ErrorCode, what: &str, attempt: u32) -> Failure {
    let error = Error::new(code, what).with_retry(Retry::Backoff);
    Failure::of(&error, Some("build".parse().unwrap()), attempt, at("11:59:30"))
}

fn open(waits_for: WaitsFor) -> OpenWorkflow {
    OpenWorkflow {
        id: id(2),
        kind: "deploy".parse().unwrap(),
        subject: Subject::App("hello".parse().unwrap()),
        state: WorkflowState::Running,
        by: ada(),
        asked_at: at("11:57:00"),
        step: Some("build".parse().unwrap()),
        waits_for,
        since: at("11:58:00"),
        attempts: 1,
        failure: None,
        stuck: false,
        takeovers: 0,
        freeze: None,
        remedies: Vec::new(),
    }
}

/// What is said of a workflow, without its headline.
fn said(workflow: OpenWorkflow) -> String {
    let all =
        Explanation { open: vec![workflow], live: None, processes: vec![], last_deploy: None, ..calm() };
    let all = all.to_string();
    let head = "=== hello\n       Nothing is live yet\n\
                -----> deploy (018f0000-0000-7000-8000-000000000002), which ada asked for 3 min ago\n";
    all.strip_prefix(head).unwrap_or_else(|| panic!("{all}")).to_owned()
}

#[test]
fn where_nothing_is_under_way_it_says_what_is_live_and_that_things_just_work() {
    let expected = "=== hello
       v12 is live since 09:55:00 UTC, for 2 h 5 min: Deploy 1a2b3c4d
       web: 2 of 2 up
       worker: 1 of 1 up
       The last deploy succeeded 2 h 4 min ago
       Nothing is under way. Things Just Work
";
    assert_eq!(calm().to_string(), expected);
}

#[test]
fn what_is_not_as_it_should_be_is_marked() {
    let mut worker = count("worker", 0, 1);
    worker.reason = Some("Process exited with status 1".into());
    let freeze = Freeze { scope: Scope::Platform, by: ada(), at: at("08:00:00"), why: "Black Friday".into() };
    let wrong = Explanation {
        processes: vec![count("web", 2, 2), worker],
        ahead: true,
        maintenance: true,
        neglect: Some(Neglect {
            since: at("11:40:00"),
            times: 3,
            last: Failure::of(&Error::new(ErrorCode::Timeout, "the router hangs"), None, 3, at("11:59:30")),
        }),
        freeze: Some(freeze),
        last_deploy: Some(LastDeploy {
            workflow: id(1),
            state: WorkflowState::Failed,
            at: at("11:59:00"),
            failure: Some(failure(ErrorCode::BuildFailed, "gcc ended with status 1", 1)),
        }),
        ..calm()
    };
    let expected = "=== hello
       v12 is live since 09:55:00 UTC, for 2 h 5 min: Deploy 1a2b3c4d
       web: 2 of 2 up
 !     worker: 0 of 1 up: Process exited with status 1
 !     It can't be looked after since 11:40:00 UTC, for 20 min; tried 3 times: [timeout] the router hangs
 !     Users see the maintenance page; set_maintenance ends that
 !     Nothing new goes live: ada froze the platform on 2026-11-27 at 08:00 UTC: Black Friday; unfreeze ends that
 !     Config or add-ons changed since; the next release takes that over
 !     The last deploy failed 1 min ago: [build_failed] build: gcc ended with status 1
       Nothing is under way
";
    assert_eq!(wrong.to_string(), expected);
}

#[test]
fn a_workflow_that_backs_off_says_what_failed_and_when_it_is_tried_again() {
    let mut workflow = open(WaitsFor::Attempt { at: at("12:00:07") });
    workflow.attempts = 2;
    workflow.failure = Some(failure(ErrorCode::Unavailable, "the registry can't be reached", 2));
    workflow.remedies = vec![Remedy::Retry, Remedy::Cancel];
    let expected = "       Waits to try build again since 11:58:00 UTC, for 2 min
       Tried 2 times; failed 30 s ago: [unavailable] build: the registry can't be reached
       Next attempt at 12:00:07 UTC, in 7 s
       retry    has it go on now
       cancel   ends it and undoes what it started
";
    assert_eq!(said(workflow), expected);
}

#[test]
fn a_workflow_that_is_stuck_calls_for_somebody() {
    let mut workflow = open(WaitsFor::Attempt { at: at("12:09:00") });
    (workflow.stuck, workflow.attempts, workflow.state) = (true, 9, WorkflowState::Undoing);
    workflow.remedies = vec![Remedy::Retry, Remedy::Abandon];
    let expected = " !     Stuck: the undo of build fails each time and can't be left out; somebody has to help since 11:58:00 UTC, for 2 min
       Next attempt at 12:09:00 UTC, in 9 min
       retry    has it go on now
       abandon  gives it up and names what it leaves
";
    assert_eq!(said(workflow), expected);
}

#[test]
fn each_wait_has_its_words() {
    let ahead = Ahead { id: id(1), kind: "configure".parse().unwrap(), state: WorkflowState::Running };
    let engine = engine();
    let until = at("12:00:10");
    let answer = || "somebody's approval".to_owned();
    let waits = [
        (WaitsFor::Turn(vec![ahead]), "Waits for its turn since "),
        (
            WaitsFor::Client,
            "Waits until whoever went before has said that it is done, such as git of a push ",
        ),
        (WaitsFor::Engine, "Due: the next free engine takes it "),
        (WaitsFor::Step { engine, here: true, until }, &format!("This engine ({engine}) works on build ")),
        (
            WaitsFor::Step { engine, here: false, until },
            &format!("Another engine ({engine}) works on build "),
        ),
        (
            WaitsFor::Takeover { engine },
            &format!("The engine that worked on build ({engine}) is gone; the next free one goes on "),
        ),
        (WaitsFor::Attempt { at: at("11:59:59") }, "Due: build is tried again "),
        (WaitsFor::Look { at: until, why: "it is being made".into() }, "build waits: it is being made "),
        (WaitsFor::Answer { why: answer() }, "build waits for somebody's approval "),
        (WaitsFor::Program { version: 7 }, "Waits for a program that knows deploy 7: this one doesn't "),
    ];
    for (waits_for, expected) in waits {
        let said = said(open(waits_for));
        assert!(said.starts_with(&format!("       {expected}")), "{said}");
    }
}

#[test]
fn it_names_what_goes_before_when_a_dead_engine_is_followed_and_what_a_freeze_refuses() {
    let ahead = Ahead { id: id(1), kind: "configure".parse().unwrap(), state: WorkflowState::Running };
    let turn = said(open(WaitsFor::Turn(vec![ahead])));
    assert!(
        turn.contains("       Before it: configure (018f0000-0000-7000-8000-000000000001), running\n"),
        "{turn}"
    );
    let step = said(open(WaitsFor::Step { engine: engine(), here: false, until: at("12:00:10") }));
    assert!(
        step.contains("       If its engine dies, another one goes on at 12:00:10 UTC, in 10 s\n"),
        "{step}"
    );
    let mut answer = open(WaitsFor::Answer { why: "somebody's approval".into() });
    answer.takeovers = 3;
    answer.freeze =
        Some(Freeze { scope: Scope::Platform, by: ada(), at: at("08:00:00"), why: "a holiday".into() });
    answer.remedies = vec![Remedy::Signal];
    let answer = said(answer);
    for line in [
        "       Engines that died in the middle of it: 3\n",
        " !     Refused when its turn comes, unless that is ended before: ada froze the platform on ",
        "       signal   gives the answer\n",
    ] {
        assert!(answer.contains(line), "no {line:?} in {answer}");
    }
}

#[test]
fn what_another_day_began_names_the_day_and_long_spans_are_rounded() {
    let mut long = calm();
    if let Some(live) = &mut long.live {
        live.since = "2026-11-20T10:00:00Z".parse().unwrap();
    }
    let said = long.to_string();
    assert!(said.contains("v12 is live since 2026-11-20 10:00:00 UTC, for 7 d 2 h: "), "{said}");
}

#[test]
fn an_explanation_is_data_too() {
    let told = Explanation { open: vec![open(WaitsFor::Engine)], ..calm() };
    let text = serde_json::to_string(&told).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&text).unwrap(), told);
}
