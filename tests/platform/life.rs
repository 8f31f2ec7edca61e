//! From start to end: one platform a folder, what stops with it, and what is found again.

use crate::harness::{Process, World, has, until};

/// What runs for the data folder but the platform itself.
fn others(world: &World, platform: Option<u32>) -> Vec<Process> {
    let mut all = world.processes();
    all.retain(|process| Some(process.identity.pid) != platform);
    all
}

fn assert_nothing_runs(world: &World) {
    // git's own children may still be ending.
    until("the end of all processes", || {
        let left = others(world, None);
        left.is_empty().then_some(())
    });
}

#[test]
fn a_second_platform_on_the_same_folder_is_refused_and_names_the_first() {
    let world = World::new();
    let second =
        world.command(&["--no-demo", "--http", "127.0.0.1:0", "--git", "127.0.0.1:0"]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);

    assert!(!second.status.success(), "{said}");
    assert!(said.contains(&format!("pid {}", world.pid())), "{said}");
    assert!(!String::from_utf8_lossy(&second.stdout).contains("ready"), "it said that it was ready");
    let repo = world.repo("still-fine");
    repo.app("one").commit();
    world.push(&repo, "still-fine").assert_accepted();
    assert_eq!(world.serving("still-fine").0, "one");
}

#[test]
fn what_was_live_is_started_again_after_a_stop_with_the_same_token_and_ports() {
    let mut world = World::new();
    let app = "comes-back";
    let repo = world.repo(app);
    repo.app("one").write("Procfile", "web: exec perl server.pl\nworker: exec sleep 1000\n");
    repo.write("app.json", r#"{ "healthchecks": { "worker": { "settle": "200ms" } } }"#).commit();
    world.push(&repo, app).assert_accepted();
    let (ready, (_, before)) = (world.ready().clone(), world.serving(app));

    world.stop();
    assert!(!before.is_alive(), "the app outlived a platform that was told to stop");
    assert_nothing_runs(&world);

    world.start();
    assert_eq!(*world.ready(), ready, "token and ports changed");
    // The very first request is held until the app is up.
    assert_eq!(world.get(app).status, 200);
    let (word, after) = world.serving(app);
    assert_eq!(word, "one");
    assert_ne!(after, before);
    until("the worker", || {
        others(&world, None).iter().any(|p| p.instance() == Some("worker.1")).then_some(())
    });
    repo.app("two").commit();
    world.push(&repo, app).assert_accepted();
    assert_eq!(world.serving(app).0, "two");
}

#[test]
fn an_app_learns_its_name_its_release_and_its_commit() {
    let world = World::new();
    let app = "curious";
    let repo = world.repo(app);
    repo.app("one").commit();
    world.push(&repo, app).assert_accepted();
    repo.app("two").commit();
    world.push(&repo, app).assert_accepted();
    let web = until("its second release alone", || {
        let mut webs = others(&world, None);
        webs.retain(|process| process.variable("HEROKU_RELEASE_VERSION").is_some_and(|v| v != "v1"));
        webs.pop()
    });
    let learns = |key| web.variable(key).map(str::to_owned);
    assert_eq!(learns("HEROKU_APP_NAME").as_deref(), Some(app));
    assert_eq!(learns("HEROKU_RELEASE_VERSION").as_deref(), Some("v2"));
    assert_eq!(learns("HEROKU_BUILD_COMMIT"), Some(repo.head()));
    assert_eq!(learns("DYNO").as_deref(), Some("web.1"));
}

#[test]
fn kept_apps_run_on_and_are_adopted_by_the_next_start() {
    let mut world = World::not_started();
    world.start_with(&["--no-demo", "--keep-apps", "--http", "127.0.0.1:0", "--git", "127.0.0.1:0"]);
    let app = "kept";
    let repo = world.repo(app);
    repo.app("one").commit();
    world.push(&repo, app).assert_accepted();
    let (_, before) = world.serving(app);
    let direct =
        std::net::SocketAddr::from(([127, 0, 0, 1], world.get(app).number("port").try_into().unwrap()));

    world.stop();
    assert!(before.is_alive(), "the app was stopped");
    let answer = crate::harness::get(direct, "kept.localhost").unwrap();
    assert_eq!((answer.status, answer.number("pid")), (200, before.pid), "it runs, but doesn't answer");

    world.start();
    assert_eq!(world.serving(app), ("one".into(), before), "it was started again");
    let webs = others(&world, None);
    let webs: Vec<_> =
        webs.iter().filter(|p| p.instance() == Some("web.1") && p.parent != before.pid).collect();
    assert_eq!(webs.len(), 1, "{webs:?}");
    world.stop();
    assert_nothing_runs(&world);
}

#[test]
fn the_sample_app_is_deployed_with_a_database_and_all_of_it_ends_with_the_platform() {
    let mut world = World::not_started();
    world.start_with(&["--http", "127.0.0.1:0", "--git", "127.0.0.1:0"]);
    until("its last words", || world.said().contains("Your platform is up").then_some(()));
    let said = world.said();
    assert!(said.contains("http://hello.localhost:"), "{said}");

    let page = world.get("hello");
    assert_eq!(page.status, 200, "{page:?}");
    if said.contains("comes without a database") {
        assert!(std::env::var_os("CI").is_none(), "{said}");
        eprintln!("SKIPPED its database, PostgreSQL is missing");
    } else {
        assert!(page.body.contains("PostgreSQL") && !page.body.contains("No database yet"), "{}", page.body);
        assert!(others(&world, None).iter().any(|p| p.args.contains("postgres")), "no database server runs");
    }

    world.stop();
    assert_nothing_runs(&world);
    world.start_with(&[]);
    until("its last words", || world.said().contains("Your platform is up").then_some(()));
    until("the sample app", || (world.get("hello").status == 200).then_some(()));
    assert_eq!(world.records().releases("hello").len(), 1, "it was deployed again");
    world.stop();
    assert_nothing_runs(&world);
}

#[test]
fn the_first_build_sees_what_app_json_asks_for_and_the_app_runs_with_the_same() {
    if !has("npm") {
        return;
    }
    let world = World::new();
    let repo = world.repo("seeded");
    repo.app("one")
        .write("app.json", r#"{ "env": { "MODE": { "value": "sober" }, "SECRET": { "generator": "secret" } } }"#)
        .write("package.json", r#"{ "name": "x", "scripts": { "build": "env | grep -E '^(MODE|SECRET)=.' | sort >built-with" } }"#)
        .write("Procfile", "web: env | grep -E '^(MODE|SECRET)=' | sort | cmp - built-with && exec perl server.pl\n")
        .commit();
    world.push(&repo, "seeded").assert_accepted();
    assert_eq!(world.get("seeded").word(), "one");
    let built = world.processes().into_iter().find(|process| process.instance() == Some("web.1")).unwrap();
    assert_eq!(built.variable("MODE"), Some("sober"));
    assert!(built.variable("SECRET").is_some());
}
