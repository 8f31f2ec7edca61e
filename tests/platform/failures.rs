//! What goes wrong with a push is told to who pushed, and users never notice.

use crate::harness::{Gate, Repo, Says, World, has};

/// Deploys a good commit, pushes one that fails while the gate is shut, and the same one once it is open. While users
/// send requests all the time.
#[track_caller]
fn fails_while_shut(app: &str, prepare: impl FnOnce(&Repo, &Gate), because: &[&str]) {
    let world = World::new();
    let gate = Gate::new(Says::Shut);
    let repo = world.repo(app);
    let good = repo.app("one").commit();
    world.push(&repo, app).assert_accepted();
    let users = world.probe(app);
    let (_, before) = world.serving(app);

    repo.app("two");
    prepare(&repo, &gate);
    let bad = repo.commit();
    world.push(&repo, app).assert_refused(because);

    assert_eq!(world.branch(app, "main"), Some(good), "the branch moved");
    assert_eq!(world.serving(app), ("one".into(), before), "the old release was touched");
    users.stop().assert_served_by(&["one"]);

    gate.says(Says::Open);
    let users = world.probe(app);
    let again = world.push(&repo, app);
    again.assert_accepted();
    assert_eq!(world.branch(app, "main"), Some(bad));
    assert_eq!(world.serving(app).0, "two");
    users.stop().assert_served_by(&["one", "two"]);
}

#[test]
fn a_build_that_fails_leaves_the_old_release_serving() {
    if !has("npm") {
        return;
    }
    let prepare = |repo: &Repo, gate: &Gate| {
        repo.write("build.sh", gate.shell()).write(
            "package.json",
            r#"{ "name": "web", "version": "1.0.0", "scripts": { "build": "bash build.sh" } }"#,
        );
    };
    let because = ["Push rejected", "the registry says shut"];
    fails_while_shut("fails-to-build", prepare, &because);
}

#[test]
fn a_release_phase_that_fails_leaves_the_old_release_serving() {
    let prepare = |repo: &Repo, gate: &Gate| {
        repo.write("migrate.sh", gate.shell());
        repo.write("Procfile", "web: exec perl server.pl\nrelease: bash migrate.sh\n");
    };
    let because = ["Push rejected", "release", "the registry says shut"];
    fails_while_shut("fails-to-release", prepare, &because);
}

#[test]
fn an_app_that_never_binds_leaves_the_old_release_serving() {
    let prepare = |repo: &Repo, gate: &Gate| {
        repo.write(
            "boot.sh",
            format!("echo warming up\n({}) || sleep 1000\nexec perl server.pl\n", gate.shell()),
        );
        repo.write("Procfile", "web: exec bash boot.sh\n");
        repo.write("app.json", r#"{ "healthchecks": { "web": { "timeout": 5 } } }"#);
    };
    let because = ["Push rejected", "web.1", "5 seconds", "warming up", "the registry says shut"];
    fails_while_shut("never-binds", prepare, &because);
}

#[test]
fn an_app_that_crashes_at_boot_leaves_the_old_release_serving() {
    let prepare = |repo: &Repo, gate: &Gate| {
        repo.write("boot.sh", format!("{}\nexec perl server.pl\n", gate.shell()));
        repo.write("Procfile", "web: exec bash boot.sh\n");
    };
    let because = ["Push rejected", "web.1", "status 1", "the registry says shut"];
    fails_while_shut("crashes-at-boot", prepare, &because);
}

#[test]
fn a_worker_that_crashes_while_web_is_fine_leaves_the_old_release_serving() {
    let prepare = |repo: &Repo, gate: &Gate| {
        repo.write("work.sh", format!("{}\nexec sleep 1000\n", gate.shell()));
        repo.write("Procfile", "web: exec perl server.pl\nworker: exec bash work.sh\n");
    };
    let because = ["Push rejected", "worker.1", "status 1", "the registry says shut"];
    fails_while_shut("worker-crashes", prepare, &because);
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
