//! Two pushes at once, other branches, what is live already, and who may push.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Ground, Pushing, World};

/// Two people push at the same time: one wins, the other is told before anything is built.
pub(crate) fn two_at_once(ground: &dyn Ground, app: &str) {
    let world = ground.world();
    let first = world.repo("first");
    ground.app(&first, "one");
    let base = first.commit();
    world.push(&first, app).assert_accepted();
    let users = world.probe(app);
    let second = first.copy(world.scratch().join("second"));
    for (repo, word) in [(&first, "two"), (&second, "three")] {
        ground.app(repo, word);
        repo.commit();
    }

    let both = [world.start_push(&first, app), world.start_push(&second, app)];
    let [a, b] = both.map(Pushing::end);
    assert_ne!(a.accepted, b.accepted, "one of two wins:\n{}\n{}", a.said, b.said);
    let (winner, loser, word, late) =
        if a.accepted { (&first, &b, "two", &second) } else { (&second, &a, "three", &first) };
    loser.assert_refused(&[]);
    assert!(!loser.said.contains("Compressing"), "the second was built:\n{}", loser.said);
    assert_eq!(world.branch(app, "main"), Some(winner.head()));
    assert_eq!(ground.serving(app).0, word);
    let words: Vec<_> = world.records().releases(app).iter().map(|r| r.revision.id.clone()).collect();
    assert_eq!(words, [Some(base), Some(winner.head())], "the loser made a release");

    // Who lost does as told.
    late.run(&["fetch", "--quiet", &world.remote(app), "main"]);
    late.run(&["reset", "--quiet", "--hard", "FETCH_HEAD"]);
    ground.app(late, "four");
    late.commit();
    world.push(late, app).assert_accepted();
    users.stop().assert_served_by(&["one", word, "four"]);
}

#[test]
fn of_two_pushes_at_once_one_wins_and_the_other_is_told() {
    two_at_once(&World::new(), "two-pushes");
}

#[test]
fn of_two_pushes_at_once_one_wins_also_when_git_is_slow_to_move_the_branch() {
    let mut world = World::not_started();
    let programs = world.scratch().join("programs");
    slow_git(&programs);
    world = world.with_programs(&programs);
    world.start_first();
    two_at_once(&world, "two-slow-pushes");
}

/// A git whose pre-receive hook returns a second after it has decided: the branch moves that late.
fn slow_git(dir: &std::path::Path) {
    let hooks = dir.join("hooks");
    fs::create_dir_all(&hooks).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let git = std::env::split_paths(&path).map(|dir| dir.join("git")).find(|git| git.is_file()).unwrap();
    let write = |name: &str, text: String| {
        fs::write(dir.join(name), text).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let hooks = hooks.display();
    write(
        "git",
        format!(
            "#!/bin/bash\nargs=()\nfor arg in \"$@\"; do\n  case $arg in\n    core.hooksPath=*)\n      \
             echo \"${{arg#*=}}\" > '{hooks}/real'; args+=(\"core.hooksPath={hooks}\") ;;\n    \
             *) args+=(\"$arg\") ;;\n  esac\ndone\nexec '{}' \"${{args[@]}}\"\n",
            git.display()
        ),
    );
    write(
        "hooks/pre-receive",
        format!("#!/bin/bash\n\"$(cat '{hooks}/real')/pre-receive\"\nstatus=$?\nsleep 1\nexit $status\n"),
    );
}

#[test]
fn only_main_and_master_are_deployed_and_what_is_live_is_not_deployed_again() {
    let world = World::new();
    let app = "branches";
    let repo = world.repo(app);
    let live = repo.app("one").commit();
    world.push(&repo, app).assert_accepted();
    let (_, before) = world.serving(app);

    let wip = repo.app("two").commit();
    let other = repo.push(&world.remote(app), "HEAD:wip");
    other.assert_accepted();
    assert!(other.said.to_lowercase().contains("skipping deploy"), "{}", other.said);
    assert_eq!(world.branch(app, "wip"), Some(wip));

    let again = repo.push(&world.remote(app), &format!("{live}:refs/heads/master"));
    again.assert_accepted();
    assert!(again.said.contains("live already"), "{}", again.said);
    assert_eq!(world.branch(app, "master"), Some(live));
    assert_eq!(world.serving(app), ("one".into(), before));
    assert_eq!(world.records().releases(app).len(), 1);
}

#[test]
fn nobody_pushes_or_reads_without_the_token() {
    let world = World::new();
    let app = "locked";
    let repo = world.repo(app);
    let live = repo.app("one").commit();
    world.push(&repo, app).assert_accepted();
    repo.app("two").commit();

    for who in ["", "x:wrong@", "x:@"] {
        repo.push(&world.remote_for(app, who), "HEAD:main").assert_refused(&[]);
        repo.push(&world.remote_for("another", who), "HEAD:main").assert_refused(&[]);
        let mut reading = crate::harness::git(world.scratch());
        assert!(!reading.args(["ls-remote", &world.remote_for(app, who)]).output().unwrap().status.success());
    }
    let wrong = repo.push(&world.remote_for(app, "x:wrong@"), "HEAD:main");
    wrong.assert_refused(&["token"]);
    assert_eq!(world.branch(app, "main"), Some(live));
    assert!(world.records().app("another").is_none(), "a stranger made an app");
}
