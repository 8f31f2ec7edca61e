//! The checker of histories finds nothing in a true one, and every lie in one that was changed.

use paas_core::testkit::history::{Acknowledged, History};
use paas_core::testkit::world::{Fault, TestPlatform};
use paas_core::{
    AddonOrder, ConfigEdit, ConfigVars, ErrorCode, EventKind, ReleaseState, RollbackOrder, Scale, StepState,
    Version, WorkflowId, WorkflowState,
};

use crate::{Bench, WEB_AND_WORKER, hello, me};

/// A platform on which all kinds of things happened, and what was told of them.
async fn eventful() -> History {
    let bench = Bench::new().await;
    let (engine, by) = (&bench.engine, me());
    let mut told = vec![Acknowledged::Made(hello())];
    let first = bench.deploy(WEB_AND_WORKER).await.unwrap();
    told.extend([Acknowledged::Ended(first.id, first.state), Acknowledged::Live(hello(), Version::FIRST)]);
    bench.deploy("web: two\nrelease: migrate\n").await.unwrap();
    bench.platform.world.plan("build", [Fault::Fail(ErrorCode::BuildFailed)]);
    bench.deploy("web: three\n").await.unwrap_err();
    bench.platform.world.crash("bad");
    bench.deploy("web: four\nbad: work\n").await.unwrap_err();
    let vars = ConfigVars::new().with("COLOR", "blue").unwrap();
    let configured = engine.configure(&hello(), ConfigEdit::set(vars), &by).await.unwrap();
    told.push(Acknowledged::Configured(hello(), "COLOR".parse().unwrap()));
    told.push(Acknowledged::Queued(configured.id()));
    configured.succeeded().await.unwrap();
    let web = [(paas_core::ProcessType::web(), Scale::of(2))].into();
    engine.scale(&hello(), web, &by).await.unwrap().succeeded().await.unwrap();
    let order = AddonOrder::new("fakesql".parse().unwrap());
    let (addon, made) = engine.add_addon(&hello(), order, &by).await.unwrap();
    made.succeeded().await.unwrap();
    engine.rotate_addon(addon, &by).await.unwrap().succeeded().await.unwrap();
    let back = RollbackOrder::to(Version::FIRST);
    engine.rollback(&hello(), back, &by).await.unwrap().succeeded().await.unwrap();
    bench.platform.world.plan("build", [Fault::Hang]);
    let running = TestPlatform::deploy(engine, &hello(), "web: five\n").await.unwrap();
    while bench.platform.world.planned("build") > 0 {
        tokio::task::yield_now().await;
    }
    let old = TestPlatform::deploy(engine, &hello(), "web: six\n").await.unwrap();
    let new = TestPlatform::deploy(engine, &hello(), "web: seven\n").await.unwrap();
    engine.cancel(running.id(), "enough", &by).await.unwrap();
    assert_eq!(running.ended().await.unwrap().state, WorkflowState::Cancelled);
    assert_eq!(old.ended().await.unwrap().state, WorkflowState::Superseded);
    assert_eq!(new.ended().await.unwrap().state, WorkflowState::Succeeded);
    engine.ensure_app(&"other".parse().unwrap(), &by).await.unwrap();
    engine.destroy_app(&"other".parse().unwrap(), &by).await.unwrap().succeeded().await.unwrap();
    engine.shutdown().await;
    let mut history = History::read(bench.store.as_ref()).await.unwrap();
    history.told = told;
    history.ran([(hello(), Version::FIRST.next())])
}

/// Where in the history the first event like this is.
fn find(history: &History, what: impl Fn(&EventKind) -> bool) -> usize {
    history.events.iter().position(|event| what(&event.kind)).unwrap()
}

/// The first event like this is gone, and nobody can tell by the places.
fn forget(history: &mut History, what: impl Fn(&EventKind) -> bool) {
    let at = find(history, what);
    history.events.remove(at);
}

fn is_ended(kind: &EventKind, by: WorkflowState) -> bool {
    matches!(kind, EventKind::Ended { state, .. } if *state == by)
}

/// A change of a history, and what is said of it.
type Lie = (&'static str, fn(&mut History));

const LIES: &[Lie] = &[
    ("comes after the event", |history| history.events.swap(3, 4)),
    ("was asked for twice", |history| {
        let at = find(history, |kind| matches!(kind, EventKind::Queued { .. }));
        history.events.insert(at, history.events[at].clone());
    }),
    ("was never asked for", |history| forget(history, |kind| matches!(kind, EventKind::Queued { .. }))),
    ("was claimed by the claim 1 after the claim 1", |history| {
        let at = find(history, |kind| matches!(kind, EventKind::Claimed { .. }));
        history.events.insert(at, history.events[at].clone());
    }),
    ("goes on although it has succeeded", |history| {
        let at = find(history, |kind| is_ended(kind, WorkflowState::Succeeded));
        history.events.insert(at, history.events[at].clone());
    }),
    ("superseded although it had begun", |history| {
        let at = find(history, |kind| is_ended(kind, WorkflowState::Failed));
        history.events[at].kind = EventKind::Ended { state: WorkflowState::Superseded, failure: None };
    }),
    ("was asked for and is lost", |history| {
        forget(history, |kind| is_ended(kind, WorkflowState::Cancelled));
        history.workflows.retain(|row| row.state != WorkflowState::Cancelled);
    }),
    ("has not ended: it is running", |history| history.workflows[0].state = WorkflowState::Running),
    ("its events tell of another end: cancelled", |history| {
        let at = find(history, |kind| is_ended(kind, WorkflowState::Succeeded));
        history.events[at].kind = EventKind::Ended { state: WorkflowState::Cancelled, failure: None };
    }),
    ("its events tell of another end: none", |history| {
        forget(history, |kind| is_ended(kind, WorkflowState::Succeeded));
    }),
    ("begins while the workflow", |history| {
        // The first deploy ends only after the second has begun.
        let end = find(history, |kind| is_ended(kind, WorkflowState::Succeeded));
        let end = history.events.remove(end);
        let claimed = |kind: &EventKind| matches!(kind, EventKind::Claimed { .. });
        let second = history.events.iter().rposition(|event| claimed(&event.kind)).unwrap();
        history.events.insert(second + 1, end);
    }),
    ("does something out of its turn", |history| {
        forget(history, |kind| matches!(kind, EventKind::Claimed { .. }));
    }),
    ("and no event tells so", |history| {
        forget(history, |kind| matches!(kind, EventKind::StepFinished { .. }));
    }),
    ("no event tells so", |history| {
        let failed = history.workflows.iter_mut().find(|row| row.state == WorkflowState::Failed).unwrap();
        failed.steps.last_mut().unwrap().state = StepState::Undone;
    }),
    ("hello was made twice", |history| {
        let at = find(history, |kind| matches!(kind, EventKind::AppCreated { .. }));
        history.events.insert(at, history.events[at].clone());
    }),
    ("hello was made, and is lost", |history| history.apps.clear()),
    ("other was destroyed twice", |history| {
        let at = find(history, |kind| matches!(kind, EventKind::AppDestroyed));
        history.events.insert(at, history.events[at].clone());
    }),
    ("hello was destroyed, and is there", |history| {
        let at = find(history, |kind| matches!(kind, EventKind::AppDestroyed));
        history.events[at].app = Some(hello());
    }),
    ("has a release v2 where v1 comes next", |history| {
        forget(history, |kind| matches!(kind, EventKind::ReleaseCreated { .. }));
    }),
    ("is live unmade", |history| {
        let at = find(history, |kind| matches!(kind, EventKind::ReleaseLive { .. }));
        let version = Version::new(40).unwrap();
        history.events[at].kind = EventKind::ReleaseLive { version, generation: 2 };
    }),
    ("users of hello went back from v7 to v1", |history| {
        let live = |kind: &EventKind| matches!(kind, EventKind::ReleaseLive { .. });
        let last = history.events.iter().rposition(|event| live(&event.kind)).unwrap();
        let version = Version::FIRST;
        history.events[last].kind = EventKind::ReleaseLive { version, generation: 1000 };
    }),
    ("is live although it failed", |history| {
        let at = find(history, |kind| matches!(kind, EventKind::ReleaseFailed { .. }));
        let version = Version::FIRST;
        history.events.insert(3, history.events[at].clone());
        history.events[3].kind = EventKind::ReleaseFailed { version };
    }),
    ("failed although users saw it", |history| {
        let at = find(history, |kind| matches!(kind, EventKind::ReleaseFailed { .. }));
        history.events[at].kind = EventKind::ReleaseFailed { version: Version::FIRST };
    }),
    ("the routes of hello went from", |history| {
        let live = |kind: &EventKind| matches!(kind, EventKind::ReleaseLive { .. });
        let last = history.events.iter().rposition(|event| live(&event.kind)).unwrap();
        if let EventKind::ReleaseLive { generation, .. } = &mut history.events[last].kind {
            *generation = 1;
        }
    }),
    ("nothing of hello is live where the events say v8", |history| history.apps[0].live = None),
    ("the routes of hello are at", |history| history.routes[0].generation += 1),
    ("hello has the releases", |history| drop(history.releases.remove(1))),
    ("v1 of hello is pending, and no event", |history| history.releases[0].state = ReleaseState::Pending),
    ("v1 of hello is failed, and no event", |history| history.releases[0].state = ReleaseState::Failed),
    ("the release phase of hello v2 ran 2 times", |history| {
        history.release_phases.push((hello(), Version::FIRST.next()));
    }),
    ("was acknowledged, and is lost", |history| {
        history.told.push(Acknowledged::Queued(WorkflowId::new()));
    }),
    ("third was acknowledged, and is lost", |history| {
        history.told.push(Acknowledged::Made("third".parse().unwrap()));
    }),
    ("and it has not", |history| {
        history.told.push(Acknowledged::Ended(history.workflows[0].id, WorkflowState::Cancelled));
    }),
    ("a change of SIZE of hello was acknowledged", |history| {
        history.told.push(Acknowledged::Configured(hello(), "SIZE".parse().unwrap()));
    }),
    ("somebody was told that v40 of hello is live", |history| {
        history.told.push(Acknowledged::Live(hello(), Version::new(40).unwrap()));
    }),
];

#[tokio::test]
async fn a_true_history_breaks_no_promise_and_every_lie_about_it_is_found_and_named() {
    let history = eventful().await;
    assert_eq!(history.check(), []);
    for (words, lie) in LIES {
        let mut broken = history.clone();
        lie(&mut broken);
        // A lie may shift everything behind it by a place; that is not what is to be found.
        if *words != "comes after the event" {
            for (place, event) in (1..).zip(&mut broken.events) {
                event.seq = place;
            }
        }
        let found = broken.check();
        assert!(found.iter().any(|violation| violation.0.contains(words)), "{words}: {found:#?}");
    }
}

#[tokio::test]
async fn what_began_before_the_oldest_event_that_is_kept_is_not_judged() {
    let mut history = eventful().await;
    history.events.drain(..20);
    assert_eq!(history.check(), []);
}
