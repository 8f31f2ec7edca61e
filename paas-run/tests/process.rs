//! Local processes, seen from outside and from inside, with the engine killed where it hurts.

#![allow(clippy::unwrap_used, clippy::match_wild_err_arm, reason = "a test ends by panicking")]

mod world;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use paas_core::{
    AppId, Artifact, Cancel, Clock, ConfigVars, Context, ErrorCode, HealthCheck, IdempotencyKey, Instance,
    InstanceState, LogQuery, LogSource, LogWriter, Logs, ProcessSpec, ReleaseId, RunSpec, Runtime, Size,
    SystemClock, Version, WorkflowId,
};
use paas_run::process::ProcessRuntime;
use paas_sandbox::procfs::Stat;
use tokio::time::{sleep, timeout};
use world::{LISTEN, World, slug};

const PATIENCE: Duration = Duration::from_secs(60);

/// A command that does nothing until it is told to end.
const IDLE: &str = "while :; do sleep 0.1; done";

fn ctx(world: &World) -> Context {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let logs = Arc::clone(&world.logs) as _;
    let log = LogWriter::new(logs, Arc::clone(&clock), "test".parse().unwrap(), LogSource::Platform, "test");
    Context::new(IdempotencyKey::new(WorkflowId::new(), "start".parse().unwrap()), Cancel::new(), clock, log)
}

fn spec(app: &str, process: &str, command: &str, artifact: &Artifact) -> ProcessSpec {
    let mut health = HealthCheck::default();
    health.settle = Duration::from_millis(20);
    ProcessSpec::new(
        (app.parse().unwrap(), AppId::new()),
        (ReleaseId::new(), Version::FIRST),
        process.parse().unwrap(),
        command,
        artifact.clone(),
    )
    .with_health(health)
    .with_grace(Duration::from_secs(20))
}

async fn empty(world: &World) -> Artifact {
    slug(&*world.blobs, world.dir.path(), &[]).await
}

async fn until(runtime: &dyn Runtime, app: &str, so: impl Fn(&[Instance]) -> bool) -> Vec<Instance> {
    let app = app.parse().unwrap();
    let reached = async {
        loop {
            let seen = runtime.observe(&app).await.unwrap();
            if so(&seen) {
                return seen;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    match timeout(PATIENCE, reached).await {
        Ok(seen) => seen,
        Err(_elapsed) => panic!("not so: {:#?}", runtime.observe(&app).await.unwrap()),
    }
}

async fn up(runtime: &dyn Runtime, app: &str, count: usize) -> Vec<Instance> {
    until(runtime, app, |all| all.len() == count && all.iter().all(|one| one.state == InstanceState::Up))
        .await
}

async fn lines(world: &World, app: &str) -> Vec<String> {
    let read = world.logs.read(&app.parse().unwrap(), LogQuery::all()).await.unwrap();
    read.map(|line| line.text).collect().await
}

async fn line(world: &World, app: &str, wanted: &str) -> String {
    let found = async {
        loop {
            // The line that names the command holds everything that the command says.
            let mut said =
                lines(world, app).await.into_iter().filter(|line| !line.starts_with("Starting process"));
            if let Some(found) = said.find(|line| line.contains(wanted)) {
                return found;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    match timeout(PATIENCE, found).await {
        Ok(found) => found,
        Err(_elapsed) => panic!("no line says {wanted:?}: {:#?}", lines(world, app).await),
    }
}

fn alive(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| !stat.ended())
}

fn pid_of(instance: &Instance, which: &str) -> u32 {
    instance.metadata[which].parse().unwrap()
}

async fn open(world: &World) -> ProcessRuntime {
    world.runtime().await
}

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
async fn neither_the_engines_data_nor_a_neighbours_files_can_be_read() {
    let world = World::new();
    // Open to the world, so that only the walls keep them.
    fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let key = world.dir.path().join("master.key");
    fs::write(&key, "canary-key").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let runtime = open(&world).await;
    let secret = slug(&*world.blobs, world.dir.path(), &[("secret", "canary-neighbour")]).await;
    let env = ConfigVars::new().with("TOKEN", "canary-environment").unwrap();
    let victim =
        spec("victim", "worker", &format!("echo canary-tmp > /tmp/x; {IDLE}"), &secret).with_env(env);
    runtime.ensure(&ctx(&world), &victim).await.unwrap();
    let neighbour = up(&runtime, "victim", 1).await;
    let (program, shim) = (pid_of(&neighbour[0], "pid"), pid_of(&neighbour[0], "shim"));
    let root = world.dir.path().display();
    let command = format!(
        "cat {root}/master.key; grep -r canary {root} /tmp /var/tmp /app 2>/dev/null; \
         for p in {program} {shim} $PPID; do cat /proc/$p/environ /proc/$p/root{root}/master.key \
         /proc/$p/cwd/secret; ls /proc/$p/fd; kill -9 $p; done; echo looked everywhere"
    );
    let attacker = spec("attacker", "release", &command, &empty(&world).await);
    let exit = runtime.run_once(&ctx(&world), &RunSpec::new(attacker)).await.unwrap();
    assert!(exit.output.iter().any(|line| line == "looked everywhere"), "{exit:#?}");
    let found: Vec<_> = exit.output.iter().filter(|line| line.contains("canary")).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert!(alive(program) && alive(shim), "a neighbour was killed");
    runtime.forget(&ctx(&world), &victim.app).await.unwrap();
}

#[tokio::test]
async fn a_neighbour_that_answers_on_the_port_does_not_make_an_instance_healthy() {
    let world = World::new();
    let runtime = ProcessRuntime::open(world.config().ports(31_990..31_999)).await.unwrap();
    // Tells which port it was given, and lets another one have it.
    let mut spec = spec("squatted", "web", &format!("echo port $PORT; {IDLE}"), &empty(&world).await);
    spec.health.timeout = Duration::from_secs(2);
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    let said = line(&world, "squatted", "port ").await;
    let port: u16 = said.strip_prefix("port ").unwrap().parse().unwrap();
    let _squatter = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let late =
        |all: &[Instance]| all.iter().any(|one| one.reason.is_some() || one.state == InstanceState::Up);
    let seen = until(&runtime, "squatted", late).await;
    assert!(seen[0].reason.as_ref().is_some_and(|why| why.contains("R10")), "{seen:#?}");
    line(&world, "squatted", "Stopping process with SIGKILL").await;
    line(&world, "squatted", "Process exited with status 137").await;
    line(&world, "squatted", "State changed from starting to crashed").await;
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
}

#[tokio::test]
async fn a_health_path_that_answers_with_an_error_is_not_well() {
    let world = World::new();
    let runtime = open(&world).await;
    let broken = LISTEN.replace("200 OK", "500 Sorry");
    let mut spec = spec("broken", "web", &broken, &empty(&world).await);
    spec.health.path = Some("/health".into());
    spec.health.timeout = Duration::from_secs(1);
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    let seen = until(&runtime, "broken", |all| all.iter().any(|one| one.reason.is_some())).await;
    let why = seen[0].reason.clone().unwrap();
    assert_eq!(why, "health check failed: GET /health answered 500, for 1 seconds since launch");
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
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

#[tokio::test]
async fn a_command_whose_end_is_lost_is_an_error_and_never_run_again() {
    let world = World::new();
    let runtime = open(&world).await;
    let spec =
        RunSpec::new(spec("lost", "release", &format!("echo begun $PPID; {IDLE}"), &empty(&world).await));
    let ctx = ctx(&world);
    let run = runtime.run_once(&ctx, &spec);
    let (ended, ()) = tokio::join!(run, async {
        let said = line(&world, "lost", "begun ").await;
        // The parent of the program is its shim.
        let shim: i32 = said.strip_prefix("begun ").unwrap().parse().unwrap();
        kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    });
    assert_eq!(ended.unwrap_err().code(), ErrorCode::ReleasePhaseFailed);
    let again = runtime.run_once(&ctx, &spec).await.unwrap_err();
    assert_eq!(again.code(), ErrorCode::ReleasePhaseFailed);
    let said = lines(&world, "lost").await;
    assert_eq!(said.iter().filter(|line| line.starts_with("begun")).count(), 1, "{said:#?}");
}

#[tokio::test]
async fn an_instance_whose_shim_is_killed_is_started_again_and_nothing_is_left_of_it() {
    let world = World::new();
    let runtime = open(&world).await;
    let spec = spec("shimless", "worker", IDLE, &empty(&world).await);
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    let before = up(&runtime, "shimless", 1).await;
    kill(Pid::from_raw(pid_of(&before[0], "shim").cast_signed()), Signal::SIGKILL).unwrap();
    let again = |all: &[Instance]| all[0].restarts == 1 && all[0].state == InstanceState::Up;
    let after = until(&runtime, "shimless", again).await;
    assert_eq!(after[0].reason, None, "an instance that is up is not to be blamed any more");
    assert_ne!(after[0].metadata, before[0].metadata);
    assert!(!alive(pid_of(&before[0], "pid")), "what the shim started is still there");
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
}

#[tokio::test]
async fn a_program_whose_shim_died_before_it_could_tell_is_ended_by_the_next_engine() {
    let world = World::new();
    let runtime = open(&world).await;
    if !world.helper.abilities().unwrap().groups {
        assert!(std::env::var_os("CI").is_none(), "CI must have control groups");
        eprintln!("SKIPPED: this machine has no control groups");
        return;
    }
    let spec = spec("untold", "worker", IDLE, &empty(&world).await);
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    let seen = up(&runtime, "untold", 1).await;
    drop(runtime);
    let launch = fs::read_dir(world.data().join("launches")).unwrap().next().unwrap().unwrap();
    fs::remove_file(launch.path().join("shim.json")).unwrap();
    kill(Pid::from_raw(pid_of(&seen[0], "shim").cast_signed()), Signal::SIGKILL).unwrap();
    while alive(pid_of(&seen[0], "shim")) {
        sleep(Duration::from_millis(1)).await;
    }
    let runtime = open(&world).await;
    let crashed = runtime.observe(&spec.app).await.unwrap();
    assert_eq!(crashed[0].state, InstanceState::Crashed);
    assert!(!alive(pid_of(&seen[0], "pid")), "the program goes on without its shim");
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
}

#[tokio::test]
async fn however_often_the_machine_is_restarted_what_should_run_is_started_at_once_and_has_not_crashed() {
    let world = World::new();
    let spec = spec("rebooted", "worker", IDLE, &empty(&world).await);
    let mut runtime = open(&world).await;
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    for _ in 0..3 {
        let before = up(&runtime, "rebooted", 1).await;
        drop(runtime);
        // As after a restart: what is written down is of another boot, and nothing of it runs.
        let launches = fs::read_dir(world.data().join("launches")).unwrap();
        let told = launches.map(|launch| launch.unwrap().path().join("shim.json")).find(|path| path.exists());
        let told = told.expect("it was told what was started");
        let text = fs::read_to_string(&told).unwrap();
        assert!(text.contains(&paas_sandbox::procfs::boot_id()), "{text}");
        fs::write(&told, text.replace(&paas_sandbox::procfs::boot_id(), "another boot")).unwrap();
        for what in ["shim", "pid"] {
            kill(Pid::from_raw(pid_of(&before[0], what).cast_signed()), Signal::SIGKILL).unwrap();
        }
        while alive(pid_of(&before[0], "shim")) || alive(pid_of(&before[0], "pid")) {
            sleep(Duration::from_millis(1)).await;
        }
        runtime = open(&world).await;
        let found = runtime.observe(&spec.app).await.unwrap();
        assert_ne!(found[0].state, InstanceState::Crashed, "{found:?}");
        runtime.ensure(&ctx(&world), &spec).await.unwrap();
    }
    up(&runtime, "rebooted", 1).await;
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
}

#[tokio::test]
async fn no_line_is_lost_or_torn_while_engines_come_and_go() {
    let world = World::new();
    let mut runtime = open(&world).await;
    let command =
        "i=0; while [ $i -lt 3000 ]; do echo line $i is whole; i=$((i+1)); done; echo all said; sleep 600";
    let spec = spec("chatty", "worker", command, &empty(&world).await);
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    for _ in 0..5 {
        drop(runtime);
        runtime = open(&world).await;
    }
    line(&world, "chatty", "all said").await;
    let said: Vec<_> =
        lines(&world, "chatty").await.into_iter().filter(|line| line.starts_with("line ")).collect();
    let wanted: Vec<_> = (0..3000).map(|i| format!("line {i} is whole")).collect();
    assert_eq!(said, wanted);
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
}

/// What the engine that gets killed is told through its environment.
const DATA: &str = "PAAS_TEST_ENGINE_DATA";

fn web_of_the_killed_engine(artifact: &Artifact) -> ProcessSpec {
    let mut spec = spec("killed", "web", LISTEN, artifact).with_quantity(2);
    // The same in each engine.
    spec.app_id = AppId::from(uuid::Uuid::from_u128(7));
    spec.release = ReleaseId::from(uuid::Uuid::from_u128(8));
    spec
}

/// Not a test: the engine that [`an_engine_that_is_killed_at_any_moment_doubles_and_loses_nothing`] kills.
#[tokio::test]
#[ignore = "started by another test"]
async fn the_engine_that_is_killed() {
    let Some(data) = std::env::var_os(DATA) else { return };
    let world = World::at(data.into());
    let runtime = open(&world).await;
    let spec = web_of_the_killed_engine(&empty(&world).await);
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    up(&runtime, "killed", 2).await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn an_engine_that_is_killed_at_any_moment_doubles_and_loses_nothing() {
    let world = World::new();
    let artifact = empty(&world).await;
    // From before the first instruction to after both are up, in uneven steps.
    for delay in [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 100, 150, 200, 300] {
        let mut engine = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_engine_that_is_killed", "--ignored"])
            .env(DATA, world.dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(delay)).await;
        engine.kill().unwrap();
        engine.wait().unwrap();
    }
    let runtime = open(&world).await;
    let spec = web_of_the_killed_engine(&artifact);
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    let seen = up(&runtime, "killed", 2).await;
    let known: BTreeSet<u32> = seen.iter().map(|one| pid_of(one, "pid")).collect();
    let launched: BTreeSet<u32> = programs(&world);
    assert_eq!(launched, known, "a process runs that the runtime doesn't know, or the other way round");
    for instance in &seen {
        assert!(std::net::TcpStream::connect(instance.address.unwrap()).is_ok());
    }
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
    assert_eq!(programs(&world), BTreeSet::new());
}

/// The programs that run below this world's shims, found without the runtime: each shim has its order's folder open.
fn programs(world: &World) -> BTreeSet<u32> {
    let launches = world.data().join("launches");
    let holds_lock = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|path| path.starts_with(&launches))
    };
    let all = paas_sandbox::procfs::processes();
    let shims: BTreeSet<u32> = all
        .iter()
        .map(|(pid, _)| *pid)
        .filter(|pid| *pid != std::process::id() && holds_lock(*pid))
        .collect();
    all.iter()
        .filter(|(_, stat)| shims.contains(&stat.parent) && !stat.ended())
        .map(|(pid, _)| *pid)
        .collect()
}

#[tokio::test]
async fn two_supervisors_never_share_a_folder() {
    let world = World::new();
    let first = open(&world).await;
    let second = ProcessRuntime::open(world.config()).await.unwrap_err();
    assert_eq!(second.code(), ErrorCode::Unavailable, "{second}");
    drop(first);
    open(&world).await;
}

#[tokio::test]
async fn secrets_are_on_no_disk_and_in_no_arguments() {
    let world = World::new();
    let runtime = open(&world).await;
    let env = ConfigVars::new().with("TOKEN", "canary-4b1e77").unwrap();
    let spec = spec("discreet", "worker", IDLE, &empty(&world).await).with_env(env);
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    let seen = up(&runtime, "discreet", 1).await;
    let grep = Command::new("grep").args(["-rl", "canary-4b1e77"]).arg(world.dir.path()).output().unwrap();
    assert!(grep.stdout.is_empty(), "{}", String::from_utf8_lossy(&grep.stdout));
    for which in ["pid", "shim"] {
        let arguments = fs::read(format!("/proc/{}/cmdline", pid_of(&seen[0], which))).unwrap();
        assert!(!String::from_utf8_lossy(&arguments).contains("canary"));
    }
    assert!(!format!("{runtime:?}").contains("canary"));
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
}
