//! A new process takes the place of the platform that runs, and nobody notices.
//!
//! `PAAS_ROUNDS` says how often it is replaced under load, `PAAS_REQUESTS` how many requests each time at least.

use crate::harness::{Connection, Gate, Identity, Process, Repo, Running, Says, World, until};

const APP: &str = "stays";

/// A platform with an app that says `one`.
fn world() -> (World, Repo) {
    let world = World::new();
    let repo = world.repo(APP);
    repo.app("one").commit();
    world.push(&repo, APP).assert_accepted();
    (world, repo)
}

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |number| number.parse().expect("a number"))
}

fn replace(world: &mut World) -> Running {
    let new = world.start_replacing();
    world.replaced_by(new)
}

/// It ended as it should.
#[track_caller]
fn assert_ended_well(mut old: Running) {
    let status = old.end();
    assert!(status.success(), "{status}:\n{}", old.said());
}

fn databases(world: &World) -> Vec<Identity> {
    let is_main = |process: &Process| process.args.contains("bin/postgres -D");
    let mut found: Vec<_> =
        world.processes().into_iter().filter(is_main).map(|process| process.identity).collect();
    found.sort();
    found
}

/// A push that goes on in the old platform until the gate is opened.
fn held_push(world: &World, gate: &Gate, app: &str) -> (Repo, crate::harness::Pushing) {
    let repo = world.repo(app);
    repo.app("held").write("migrate.sh", gate.shell());
    repo.write("Procfile", "web: exec perl server.pl\nrelease: bash migrate.sh\n").commit();
    let push = world.start_push(&repo, app);
    gate.until_asked();
    (repo, push)
}

#[test]
fn a_platform_is_replaced_under_load_without_a_failed_request_and_nothing_is_restarted() {
    let (mut world, repo) = world();
    let (_, app) = world.serving(APP);
    let (rounds, requests) = (number("PAAS_ROUNDS", 3), number("PAAS_REQUESTS", 600));
    let mut total = 0;
    for round in 1..=rounds {
        let users = world.probe_busily(APP);
        until("half of the requests", || (users.count() >= requests / 2).then_some(()));
        let start = tokio::time::Instant::now();
        let old = replace(&mut world);
        let took = start.elapsed();
        until("the other half", || (users.count() >= requests).then_some(()));
        let report = users.stop();
        eprintln!(
            "replacement {round}: {} requests, {} failed; ready after {took:?}",
            report.requests,
            report.failed.len()
        );
        total += report.requests;
        report.assert_served_by(&["one"]);
        assert_ended_well(old);
        assert_eq!(world.serving(APP).1, app, "the app was restarted");
    }
    eprintln!("{rounds} replacements, {total} requests, none failed");
    repo.app("two").commit();
    world.push(&repo, APP).assert_accepted();
    assert_eq!(world.serving(APP).0, "two");
    world.stop();
    until("the end of all processes", || world.processes().is_empty().then_some(()));
}

#[test]
fn a_kept_connection_gets_one_more_answer_by_todays_routes_and_then_the_old_process_ends() {
    let (mut world, repo) = world();
    let host = world.host(APP);
    let mut kept = Connection::open(world.ready().router()).unwrap();
    assert_eq!(kept.get(&host, true).unwrap().0.word(), "one");

    let old = replace(&mut world);
    assert!(Identity::of(old.pid()).is_some(), "it ended with a connection open:\n{}", old.said());
    // The old process answers for an app whose instance it never heard of itself.
    repo.app("two").commit();
    world.push(&repo, APP).assert_accepted();
    let (answer, again) = kept.get(&host, true).unwrap();
    assert_eq!((answer.status, answer.word()), (200, "two"));
    assert!(!again, "the answer doesn't say that it was the last one");
    assert_ended_well(old);
}

#[test]
fn replaced_platforms_with_connections_left_follow_the_newest_one() {
    let (mut world, repo) = world();
    let host = world.host(APP);
    let connect = |world: &World| {
        let mut kept = Connection::open(world.ready().router()).unwrap();
        assert_eq!(kept.get(&host, true).unwrap().0.word(), "one");
        kept
    };
    let mut first = connect(&world);
    let oldest = replace(&mut world);
    let mut second = connect(&world);
    let older = replace(&mut world);
    repo.app("two").commit();
    world.push(&repo, APP).assert_accepted();

    assert_eq!(second.get(&host, true).unwrap().0.word(), "two");
    assert_eq!(first.get(&host, true).unwrap().0.word(), "two");
    assert_ended_well(oldest);
    assert_ended_well(older);
}

#[test]
fn a_database_server_runs_on_and_ends_with_the_new_platform_alone() {
    let mut world = World::not_started();
    world.start_with(&["--http", "127.0.0.1:0", "--git", "127.0.0.1:0"]);
    until("its last words", || world.said().contains("Your platform is up").then_some(()));
    let before = databases(&world);
    if before.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "no database server runs:\n{}", world.said());
        eprintln!("SKIPPED, PostgreSQL is missing");
        return;
    }
    let mut kept = Connection::open(world.ready().router()).unwrap();
    assert_eq!(kept.get("hello.localhost", true).unwrap().0.status, 200);

    let old = replace(&mut world);
    assert_eq!(databases(&world), before, "the database server was restarted");
    assert_eq!(world.get("hello").status, 200);
    // The old process has a connection left, and must neither hold the end up nor start anything again.
    world.stop();
    assert_ended_well(old);
    until("the end of all processes", || world.processes().is_empty().then_some(()));
}

#[test]
fn a_push_under_way_ends_well_and_one_that_comes_meanwhile_waits_for_the_new_process() {
    let (mut world, repo) = world();
    let gate = Gate::new(Says::Hold);
    let users = world.probe(APP);
    let (_, push) = held_push(&world, &gate, "held");
    let mut new = world.start_replacing();
    new.until_says("Taking over from process");
    world.running().until_says("Handing over");
    repo.app("two").commit();
    let late = world.start_push(&repo, APP);

    gate.says(Says::Open);
    push.end().assert_accepted();
    let old = world.replaced_by(new);
    late.end().assert_accepted();
    assert_eq!(world.serving("held").0, "held");
    assert_eq!(world.serving(APP).0, "two");
    let records = world.records();
    until("the end of both deploys", || (records.open_workflows() == 0).then_some(()));
    users.stop().assert_served_by(&["one", "two"]);
    assert_ended_well(old);
}

#[test]
fn one_process_at_a_time_takes_over_and_another_is_told_which() {
    let (mut world, _) = world();
    let gate = Gate::new(Says::Hold);
    let (_, push) = held_push(&world, &gate, "held");
    let mut first = world.start_replacing();
    world.running().until_says("Handing over");

    let mut second = world.start_replacing();
    assert!(!second.end().success());
    let said = second.said();
    assert!(said.contains(&format!("process {} is taking over already", first.pid())), "{said}");
    assert!(!said.contains("ready {"), "{said}");

    gate.says(Says::Open);
    push.end().assert_accepted();
    first.until_ready();
    let old = world.replaced_by(first);
    assert_ended_well(old);
    // And once more, by whoever likes.
    let old = replace(&mut world);
    assert_ended_well(old);
    assert_eq!(world.serving(APP).0, "one");
}

#[test]
fn where_no_platform_runs_replacing_is_starting_and_says_so() {
    let (mut world, _) = world();
    let (_, app) = world.serving(APP);
    world.kill();
    world.start_with(&["--no-demo", "--replace"]);
    let said = world.said();
    assert!(said.contains("No platform runs on"), "{said}");
    assert_eq!(world.serving(APP), ("one".into(), app));
}

#[test]
fn another_address_than_the_running_platforms_is_refused_and_it_goes_on() {
    let (mut world, repo) = world();
    let done = world.command(&["--no-demo", "--replace", "--http", "127.0.0.1:1"]).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && said.contains("--replace takes over"), "{said}");
    world.running().until_says("Going on");
    repo.app("two").commit();
    world.push(&repo, APP).assert_accepted();
}

/// A new process that is killed at this moment; the platform that runs goes on as if nothing had been.
#[track_caller]
fn killed_when(moment: &str) {
    let (mut world, repo) = world();
    let (_, app) = world.serving(APP);
    let users = world.probe(APP);
    let mut new = world.start_replacing();
    new.until_says(moment);
    new.kill();
    let said = new.said();
    world.running().until_says("Going on");
    repo.app("two").commit();
    world.push(&repo, APP).assert_accepted();
    assert_eq!(world.serving(APP).0, "two", "{said}");
    users.stop().assert_served_by(&["one", "two"]);
    until("the old app's end", || (!app.is_alive()).then_some(()));

    let old = replace(&mut world);
    assert_ended_well(old);
    assert_eq!(world.serving(APP).0, "two");
}

#[test]
fn a_new_process_that_is_killed_when_it_asks_leaves_the_old_one_serving() {
    killed_when("Taking over from process");
}

#[test]
fn a_new_process_that_is_killed_when_it_opens_the_store_leaves_the_old_one_serving() {
    killed_when("It has let go");
}

#[test]
fn a_new_process_that_is_killed_while_it_waits_for_a_push_leaves_the_push_and_the_old_one_alone() {
    let (mut world, _) = world();
    let gate = Gate::new(Says::Hold);
    let users = world.probe(APP);
    let (repo, push) = held_push(&world, &gate, "held");
    let mut new = world.start_replacing();
    world.running().until_says("Handing over");
    new.kill();
    gate.says(Says::Open);
    push.end().assert_accepted();
    world.running().until_says("Going on");
    repo.app("again").commit();
    world.push(&repo, "held").assert_accepted();
    users.stop().assert_served_by(&["one"]);
}

/// However far the new one came: either it has taken over, and dies as any platform dies, or nobody notices.
#[test]
fn a_new_process_that_is_killed_at_any_moment_leaves_one_platform() {
    let rounds = number("PAAS_ROUNDS", 6);
    let (mut world, _) = world();
    let (_, app) = world.serving(APP);
    let start = tokio::time::Instant::now();
    let old = replace(&mut world);
    let usual = start.elapsed();
    assert_ended_well(old);
    let (mut kept, mut taken) = (0, 0);
    for round in 1..=rounds {
        let users = world.probe(APP);
        let mut new = world.start_replacing();
        std::thread::sleep(usual * u32::try_from(13 * round).unwrap() / u32::try_from(10 * rounds).unwrap());
        // It may be serving by now.
        users.look_away();
        new.kill();
        let replaced = until("how it ended", || {
            let said = world.said();
            let replaced = said.contains("Replaced");
            let over = said.matches("Handing over").count() == said.matches("Going on").count();
            (replaced || over).then_some(replaced)
        });
        if replaced {
            taken += 1;
            assert_ended_well(world.take_running());
            world.start();
        } else {
            kept += 1;
        }
        users.look();
        users.stop().assert_served_by(&["one"]);
        assert_eq!(world.serving(APP), ("one".into(), app), "round {round}");
    }
    eprintln!("{rounds} kills: {kept} before it served, {taken} after");
}

#[test]
fn a_new_process_goes_on_alone_when_the_old_one_is_killed_in_mid_hand_over() {
    let (mut world, repo) = world();
    let (_, app) = world.serving(APP);
    let gate = Gate::new(Says::Hold);
    let (held, push) = held_push(&world, &gate, "held");
    let new = world.start_replacing();
    world.running().until_says("Handing over");
    world.survived_by(new);
    assert!(!push.end().accepted);
    // Nobody accepts yet, but nobody is refused either.
    let mut early = Connection::open(world.ready().router()).unwrap();
    let answer = early.get(&world.host(APP), true).unwrap().0;
    assert_eq!((answer.status, answer.number("pid")), (200, app.pid));

    let before = world.ready().clone();
    assert_eq!(world.running().until_ready(), before);
    gate.says(Says::Open);
    let records = world.records();
    until("the end of what was cut off", || (records.open_workflows() == 0).then_some(()));
    world.push(&held, "held").assert_accepted();
    repo.app("two").commit();
    world.push(&repo, APP).assert_accepted();
    assert_eq!(world.serving(APP).0, "two");
    world.stop();
    until("the end of all processes", || world.processes().is_empty().then_some(()));
}
