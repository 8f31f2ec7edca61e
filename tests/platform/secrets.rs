//! A config var reaches the app that it is for, and nobody else.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::harness::{World, until};

/// Made up anew, so that nothing else on this machine holds it.
fn canary() -> String {
    format!("canary-{}", uuid::Uuid::new_v4().simple())
}

#[test]
fn a_config_var_is_in_its_app_alone() {
    let mut world = World::new();
    let app = "secretive";
    let repo = world.repo(app);
    // The platform makes it up: a value in app.json would lie in the repository, in the open.
    repo.app("one").write("app.json", r#"{ "env": { "CANARY": { "generator": "secret" } } }"#);
    repo.write("Procfile", "web: exec perl server.pl\nworker: sleep 1000\nrelease: echo $CANARY\n");
    repo.commit();
    let first = world.push(&repo, app);
    first.assert_accepted();
    let worker = until("the worker", || {
        world
            .processes()
            .into_iter()
            .find(|p| p.instance() == Some("worker.1") && p.variable("CANARY").is_some())
    });
    let secret = worker.variable("CANARY").unwrap().to_owned();
    assert!(secret.len() >= 32, "a secret of {} characters", secret.len());
    assert!(!first.said.contains(&secret), "the pusher read it:\n{}", first.said);

    // An app that fails while it holds the secret.
    repo.app("two").write("Procfile", "web: echo it is $CANARY; exit 3\n").commit();
    let second = world.push(&repo, app);
    second.assert_refused(&["status 3"]);
    assert!(!second.said.contains(&secret), "the pusher read it:\n{}", second.said);
    let another = world.repo("curious");
    another.app("three").commit();
    world.push(&another, "curious").assert_accepted();

    let everybody: Vec<_> =
        crate::harness::all_processes().filter(|process| process.holds(&secret)).collect();
    for process in &everybody {
        assert!(!process.args.contains(&secret), "it is an argument: {process:?}");
        assert!(
            matches!(process.instance(), Some("web.1" | "worker.1")) && process.variable("CANARY").is_some(),
            "it is in a stranger's environment: {process:?}"
        );
    }
    assert!(everybody.len() >= 2, "the app's own processes have it");
    assert_only_sealed(&world, &secret);
    assert!(!world.said().contains(&secret), "the platform printed it");
    world.stop();
    assert_only_sealed(&world, &secret);
}

#[test]
fn a_platform_that_crashes_leaves_no_core_dump() {
    let limit = getrlimit(Resource::Core);
    setrlimit(Resource::Core, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let mut world = World::new();
    let repo = world.repo("app");
    repo.app("one").commit();
    world.push(&repo, "app").assert_accepted();
    let started = world.processes().into_iter().map(|process| process.identity.pid);
    for pid in started.chain([world.pid()]) {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        // Of the platform, its databases and the parents of instances; apps have none at all.
        assert!(matches!(core.split_whitespace().nth(4), Some("0" | "1")), "{core} of process {pid}");
    }
    let crash = |pid: u32| {
        assert!(Command::new("kill").args(["-s", "ABRT", &pid.to_string()]).status().unwrap().success());
    };
    crash(world.pid());
    let status = world.take_running().end();
    assert_eq!(status.signal(), Some(6), "{status}");
    assert!(!status.core_dumped(), "{status}");

    let folder = tempfile::tempdir().unwrap();
    let mut other = Command::new("sleep").arg("1000").current_dir(&folder).spawn().unwrap();
    crash(other.id());
    if !other.wait().unwrap().core_dumped() {
        eprintln!("this machine dumps the memory of no program: what shows here are the limits");
    }
}

/// It is in no file but the app's own log, where the app itself printed it.
#[track_caller]
fn assert_only_sealed(world: &World, secret: &str) {
    for file in files_with(&world.data, secret) {
        assert!(Path::new(&file).starts_with(world.data.join("logs")), "it lies in the open in {file}");
        let log = fs::read_to_string(&file).unwrap();
        let told = format!("it is {secret}");
        for line in log.lines().filter(|line| line.contains(secret)) {
            assert!(line.contains(&told), "it lies in the open in {file}: {line}");
        }
    }
}

#[test]
fn a_value_from_app_json_reaches_no_other_process() {
    let world = World::new();
    let (app, secret) = ("outspoken", canary());
    let repo = world.repo(app);
    let env = format!(r#"{{ "env": {{ "CANARY": "{secret}" }} }}"#);
    repo.app("one").write("app.json", env).commit();
    world.push(&repo, app).assert_accepted();
    let web = world.serving(app).1;

    for process in crate::harness::all_processes().filter(|process| process.holds(&secret)) {
        assert!(process.identity == web || process.parent == web.pid, "a stranger holds it: {process:?}");
        assert!(!process.args.contains(&secret), "it is an argument: {process:?}");
    }
}

/// The files below a folder that hold this text.
fn files_with(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(files_with(&path, text));
        } else if kind.is_file() {
            // What is removed meanwhile holds nothing.
            let bytes = fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}
