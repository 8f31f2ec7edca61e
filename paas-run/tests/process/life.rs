//! How a process begins and how it is ended: prepared, asked, killed.

use std::fs;
use std::time::Duration;

use paas_core::{ConfigVars, Runtime, Size};

use crate::support::{alive, ctx, empty, line, lines, open, spec, until, up};
use crate::world::{World, slug};

#[tokio::test]
async fn the_app_is_prepared_as_heroku_does_it() {
    let world = World::new();
    let files = [
        (".profile.d/010_first.sh", "export ORDER=first:$GIVEN\nfalse\n"),
        (".profile.d/020_second.sh", "export ORDER=$ORDER:second\nreturn 3\n"),
        (".profile", "export ORDER=$ORDER:profile\n"),
        ("data/file", "in the slug\n"),
    ];
    let artifact = slug(&*world.blobs, world.dir.path(), &files).await;
    let runtime = open(&world).await;
    let command = "echo \"order $ORDER\"; echo \"at $PWD home $HOME dyno $DYNO\"; cat data/file; \
                   echo changed > data/file && cat data/file; echo done $DYNO; while :; do sleep 0.1; done";
    let env = ConfigVars::new().with("GIVEN", "config").unwrap();
    let spec = spec("prepared", "worker", command, &artifact).with_env(env).with_quantity(2);
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    up(&runtime, "prepared", 2).await;
    line(&world, "prepared", "order first:config:second:profile").await;
    line(&world, "prepared", "at /app home /app dyno worker.2").await;
    for name in ["worker.1", "worker.2"] {
        line(&world, "prepared", &format!("done {name}")).await;
    }
    // Each instance has a copy of its own: both found the slug as it was.
    let said = lines(&world, "prepared").await;
    assert_eq!(said.iter().filter(|line| *line == "in the slug").count(), 2, "{said:#?}");
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
    let left: Vec<_> = fs::read_dir(world.data().join("launches")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_daemon_that_hides_ends_with_its_app() {
    let world = World::new();
    let runtime = open(&world).await;
    let command = "setsid bash -c 'trap \"\" TERM; echo daemon $BASHPID; while :; do sleep 0.1; done' & \
                   disown -a; while :; do sleep 0.1; done";
    let spec =
        spec("daemons", "worker", command, &empty(&world).await).with_grace(Duration::from_millis(100));
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    let said = line(&world, "daemons", "daemon ").await;
    let daemon: u32 = said.strip_prefix("daemon ").unwrap().parse().unwrap();
    assert!(alive(daemon));
    runtime.ensure(&ctx(&world), &spec.clone().with_quantity(0)).await.unwrap();
    assert!(!alive(daemon), "the daemon outlived its app");
    line(&world, "daemons", "Error R12 (Exit timeout)").await;
    line(&world, "daemons", "Stopping remaining processes with SIGKILL").await;
}

#[tokio::test]
async fn every_process_is_asked_to_end_before_any_is_killed() {
    let world = World::new();
    let runtime = open(&world).await;
    let command = "(trap 'echo child asked; exit' TERM; : > /tmp/set; while :; do sleep 0.05; done) & \
                   trap 'echo parent asked; wait; echo parent ends; exit 0' TERM; \
                   until [ -e /tmp/set ]; do sleep 0.01; done; echo ready; while :; do sleep 0.05; done";
    let spec = spec("polite", "worker", command, &empty(&world).await);
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    line(&world, "polite", "ready").await;
    runtime.retire(&ctx(&world), &spec.app, spec.release).await.unwrap();
    let said = lines(&world, "polite").await;
    for wanted in
        ["Stopping all processes with SIGTERM", "child asked", "parent ends", "Process exited with status 0"]
    {
        assert!(said.iter().any(|line| line == wanted), "{wanted}: {said:#?}");
    }
    assert!(!said.iter().any(|line| line.contains("R12")), "{said:#?}");
}

#[tokio::test]
async fn whoever_takes_too_much_memory_is_killed_and_told_so() {
    let world = World::new();
    let runtime = open(&world).await;
    if !runtime.capabilities().limits {
        assert!(std::env::var_os("CI").is_none(), "CI must be able to limit memory");
        eprintln!("SKIPPED: this machine can't limit memory");
        return;
    }
    let hog = "exec perl -e 'my $x = \"x\" x 300_000_000; sleep 60'";
    let spec =
        spec("hungry", "worker", hog, &empty(&world).await).with_size(Size::standard().with_memory(64 << 20));
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    let seen = until(&runtime, "hungry", |all| all[0].reason.is_some()).await;
    assert!(seen[0].reason.as_ref().unwrap().contains("R15"), "{seen:#?}");
    line(&world, "hungry", "Error R15 (Memory quota vastly exceeded)").await;
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
}
