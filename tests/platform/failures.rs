//! What goes wrong with a push is told to who pushed, and users never notice.

use crate::harness::{Gate, Ground, Repo, Says, World};

/// Deploys a good commit, pushes one that fails while the gate is shut, and the same one once it is open. While users
/// send requests all the time.
#[track_caller]
fn fails_while_shut(
    ground: &dyn Ground,
    app: &str,
    prepare: impl FnOnce(&Repo, &Gate) -> bool,
    because: &[&str],
) {
    let world = ground.world();
    let gate = Gate::new(Says::Shut);
    let repo = world.repo(app);
    ground.app(&repo, "one");
    let good = repo.commit();
    world.push(&repo, app).assert_accepted();
    let users = world.probe(app);
    let (_, before) = ground.serving(app);

    ground.app(&repo, "two");
    if !prepare(&repo, &gate) {
        return;
    }
    let bad = repo.commit();
    world.push(&repo, app).assert_refused(because);

    assert_eq!(world.branch(app, "main"), Some(good), "the branch moved");
    assert_eq!(ground.serving(app), ("one".into(), before), "the old release was touched");
    users.stop().assert_served_by(&["one"]);

    gate.says(Says::Open);
    let users = world.probe(app);
    let again = world.push(&repo, app);
    again.assert_accepted();
    assert_eq!(world.branch(app, "main"), Some(bad));
    assert_eq!(ground.serving(app).0, "two");
    users.stop().assert_served_by(&["one", "two"]);
}

pub(crate) fn in_build(ground: &dyn Ground) {
    let because = ["Push rejected", "the registry says shut"];
    fails_while_shut(ground, "fails-to-build", |repo, gate| ground.build_asks(repo, gate), &because);
}

pub(crate) fn in_release_phase(ground: &dyn Ground) {
    let prepare = |repo: &Repo, gate: &Gate| {
        repo.write("migrate.sh", ground.ask(gate));
        repo.write("Procfile", format!("web: {}\nrelease: {} migrate.sh\n", ground.serve(), ground.shell()));
        true
    };
    let because = ["Push rejected", "release", "the registry says shut"];
    fails_while_shut(ground, "fails-to-release", prepare, &because);
}

pub(crate) fn by_never_binding(ground: &dyn Ground) {
    let prepare = |repo: &Repo, gate: &Gate| {
        let (ask, serve) = (ground.ask(gate), ground.serve());
        repo.write("boot.sh", format!("echo warming up\n({ask}) || sleep 1000\n{serve}\n"));
        repo.write("Procfile", format!("web: exec {} boot.sh\n", ground.shell()));
        repo.write("app.json", r#"{ "healthchecks": { "web": { "timeout": 5 } } }"#);
        true
    };
    let because = ["Push rejected", "web.1", "5 seconds", "warming up", "the registry says shut"];
    fails_while_shut(ground, "never-binds", prepare, &because);
}

pub(crate) fn by_crashing_at_boot(ground: &dyn Ground) {
    let prepare = |repo: &Repo, gate: &Gate| {
        repo.write("boot.sh", format!("{}\n{}\n", ground.ask(gate), ground.serve()));
        repo.write("Procfile", format!("web: exec {} boot.sh\n", ground.shell()));
        true
    };
    let because = ["Push rejected", "web.1", "status 1", "the registry says shut"];
    fails_while_shut(ground, "crashes-at-boot", prepare, &because);
}

/// More memory than a process may have, which is 512 MiB.
#[cfg(feature = "docker")]
pub(crate) fn by_taking_too_much_memory(ground: &dyn Ground) {
    let prepare = |repo: &Repo, gate: &Gate| {
        let (ask, serve) = (ground.ask(gate), ground.serve());
        let boot = format!("({ask}) || exec dd if=/dev/zero of=/dev/null bs=600M\n{serve}\n");
        repo.write("boot.sh", boot);
        repo.write("Procfile", format!("web: exec {} boot.sh\n", ground.shell()));
        true
    };
    let because = ["Push rejected", "web.1", "R15", "Memory quota", "the registry says shut"];
    fails_while_shut(ground, "takes-too-much", prepare, &because);
}

pub(crate) fn by_a_crashing_worker(ground: &dyn Ground) {
    let prepare = |repo: &Repo, gate: &Gate| {
        repo.write("work.sh", format!("{}\nexec sleep 1000\n", ground.ask(gate)));
        repo.write("Procfile", format!("web: {}\nworker: exec {} work.sh\n", ground.serve(), ground.shell()));
        true
    };
    let because = ["Push rejected", "worker.1", "status 1", "the registry says shut"];
    fails_while_shut(ground, "worker-crashes", prepare, &because);
}

#[test]
fn a_build_that_fails_leaves_the_old_release_serving() {
    in_build(&World::new());
}

#[test]
fn a_release_phase_that_fails_leaves_the_old_release_serving() {
    in_release_phase(&World::new());
}

#[test]
fn an_app_that_never_binds_leaves_the_old_release_serving() {
    by_never_binding(&World::new());
}

#[test]
fn an_app_that_crashes_at_boot_leaves_the_old_release_serving() {
    by_crashing_at_boot(&World::new());
}

#[test]
fn a_worker_that_crashes_while_web_is_fine_leaves_the_old_release_serving() {
    by_a_crashing_worker(&World::new());
}

#[test]
fn an_app_that_nothing_can_build_is_refused_and_says_what_was_looked_for() {
    let world = World::new();
    let repo = world.repo("unknown");
    repo.app("one").commit();
    world.push(&repo, "unknown").assert_accepted();
    let users = world.probe("unknown");

    repo.remove("Procfile").commit();
    world.push(&repo, "unknown").assert_refused(&["Push rejected", "Procfile", "package.json"]);

    users.stop().assert_served_by(&["one"]);
    repo.write("Procfile", "web: exec perl server.pl\n").write("word", "two\n").commit();
    world.push(&repo, "unknown").assert_accepted();
    assert_eq!(world.serving("unknown").0, "two");
}
