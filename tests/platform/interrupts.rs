//! Ctrl-C on a push takes back what it started, whenever it comes.

use std::time::Duration;

use crate::harness::{Gate, Ground, Pushing, Repo, Says, World, until};

/// Interrupts a push at some moment, and sees that nothing is left of it and that it can be made again.
#[track_caller]
fn interrupted(
    ground: &dyn Ground,
    app: &str,
    prepare: impl FnOnce(&Repo, &Gate) -> bool,
    moment: impl FnOnce(&Pushing, &Gate),
) {
    let world = ground.world();
    let gate = Gate::new(Says::Hold);
    let repo = world.repo(app);
    ground.app(&repo, "one");
    let good = repo.commit();
    world.push(&repo, app).assert_accepted();
    let (_, before) = ground.serving(app);
    let alone = ground.runs(app);
    let users = world.probe(app);

    ground.app(&repo, "two");
    if !prepare(&repo, &gate) {
        return;
    }
    let stopped = repo.commit();
    let pushing = world.start_push(&repo, app);
    moment(&pushing, &gate);
    pushing.interrupt();
    let push = pushing.end();
    assert!(!push.accepted, "{}", push.said);

    let records = world.records();
    until("the end of what was interrupted", || (records.open_workflows_of(app) == 0).then_some(()));
    until("the end of all that it started", || ground.runs(app).is_subset(&alone).then_some(()));
    assert_eq!(world.branch(app, "main"), Some(good), "the branch moved");
    assert_eq!(ground.serving(app), ("one".into(), before), "the old release was touched");
    users.stop().assert_served_by(&["one"]);

    gate.says(Says::Open);
    let users = world.probe(app);
    world.push(&repo, app).assert_accepted();
    assert_eq!(world.branch(app, "main"), Some(stopped));
    assert_eq!(ground.serving(app).0, "two");
    users.stop().assert_served_by(&["one", "two"]);
}

fn asked(_: &Pushing, gate: &Gate) {
    gate.until_asked();
}

pub(crate) fn in_its_build(ground: &dyn Ground) {
    interrupted(ground, "stops-building", |repo, gate| ground.build_asks(repo, gate), asked);
}

pub(crate) fn in_its_boot(ground: &dyn Ground) {
    let prepare = |repo: &Repo, gate: &Gate| {
        repo.write("boot.sh", format!("{}\n{}\n", ground.ask(gate), ground.serve()));
        repo.write("Procfile", format!("web: exec {} boot.sh\n", ground.shell()));
        true
    };
    interrupted(ground, "stops-booting", prepare, asked);
}

#[test]
fn a_push_interrupted_in_its_build_is_taken_back() {
    in_its_build(&World::new());
}

#[test]
fn a_push_interrupted_in_its_release_phase_is_taken_back() {
    let prepare = |repo: &Repo, gate: &Gate| {
        repo.write("migrate.sh", gate.shell());
        repo.write("Procfile", "web: exec perl server.pl\nrelease: bash migrate.sh\n");
        true
    };
    interrupted(&World::new(), "stops-releasing", prepare, asked);
}

#[test]
fn a_push_interrupted_while_its_app_boots_is_taken_back() {
    in_its_boot(&World::new());
}

#[test]
fn a_push_interrupted_while_its_worker_settles_is_taken_back() {
    let prepare = |repo: &Repo, gate: &Gate| {
        gate.says(Says::Open);
        repo.write("app.json", r#"{ "healthchecks": { "worker": { "settle": "10s" } } }"#);
        repo.write("Procfile", "web: exec perl server.pl\nworker: echo at work; exec sleep 1000\n");
        true
    };
    // The first push is stopped long before the worker has settled; the second takes its 10 seconds.
    let launched = |pushing: &Pushing, _: &Gate| pushing.until_says("Launching");
    interrupted(&World::new(), "stops-settling", prepare, launched);
}

#[test]
fn a_push_interrupted_at_any_moment_is_whole_or_nothing() {
    let world = World::new();
    let app = "any-moment";
    let repo = world.repo(app);
    repo.app("r0").commit();
    world.push(&repo, app).assert_accepted();
    let users = world.probe(app);
    let (mut words, mut live) = (vec!["r0".to_owned()], repo.head());
    for round in 1..=12 {
        let word = format!("r{round}");
        let commit = repo.app(&word).commit();
        words.push(word);
        let pushing = world.start_push(&repo, app);
        std::thread::sleep(Duration::from_millis(round * 60));
        pushing.interrupt();
        let push = pushing.end();
        let records = world.records();
        until("the end of the deploy", || (records.open_workflows() == 0).then_some(()));
        let now = records.live(app).unwrap().0;
        assert!(now == commit || (now == live && !push.accepted), "round {round}: {}", push.said);
        until("the branch at what is live", || (world.branch(app, "main")? == now).then_some(()));
        live = now;
    }
    repo.app("last").commit();
    world.push(&repo, app).assert_accepted();
    words.push("last".into());
    users.stop().assert_served_by(&words.iter().map(String::as_str).collect::<Vec<_>>());
}
