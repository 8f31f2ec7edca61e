//! Engines, shims and machines that end while apps run.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use paas_core::{
    AppId, Artifact, ErrorCode, IdempotencyKey, Instance, InstanceState, ProcessSpec, ReleaseId, RunSpec,
    Runtime, WorkflowId,
};
use paas_run::process::ProcessRuntime;
use tokio::time::sleep;

use crate::support::{IDLE, alive, ctx, empty, line, lines, open, pid_of, spec, until, up};
use crate::world::{LISTEN, World};

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
async fn an_instance_that_is_retired_the_moment_after_it_was_adopted_is_ended() {
    let world = World::new();
    let spec = spec("adopted", "worker", IDLE, &empty(&world).await);
    let runtime = open(&world).await;
    runtime.ensure(&ctx(&world), &spec).await.unwrap();
    let before = up(&runtime, "adopted", 1).await;
    drop(runtime);
    // With one thread, nothing that adopting began has had its turn yet.
    let runtime = open(&world).await;
    runtime.retire(&ctx(&world), &spec.app, spec.release).await.unwrap();
    assert!(!alive(pid_of(&before[0], "pid")), "it goes on, and nobody knows of it");
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
        let told =
            launches.map(|launch| launch.unwrap().path().join("launch.json")).find(|path| path.exists());
        let told = told.expect("it is kept what was to be started");
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

#[tokio::test]
async fn two_supervisors_never_share_a_folder() {
    let world = World::new();
    let first = open(&world).await;
    let second = ProcessRuntime::open(world.config()).await.unwrap_err();
    assert_eq!(second.code(), ErrorCode::Unavailable, "{second}");
    drop(first);
    open(&world).await;
}

/// What the engine that gets killed is told through its environment.
const DATA: &str = "PAAS_TEST_ENGINE_DATA";
const NUMBER: &str = "PAAS_TEST_COMMAND";

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
            .args(["--exact", "deaths::the_engine_that_is_killed", "--ignored"])
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
        assert_eq!(instance.restarts, 0, "to be cut off is no crash: {instance:?}");
    }
    runtime.forget(&ctx(&world), &spec.app).await.unwrap();
    assert_eq!(programs(&world), BTreeSet::new());
}

/// The command that the killed engine of this number runs.
fn command_of_the_killed_engine(artifact: &Artifact, number: u128) -> (IdempotencyKey, RunSpec) {
    let command = format!("echo command {number} ran; sleep 0.03");
    let mut spec = spec("cut-off", "release", &command, artifact);
    spec.app_id = AppId::from(uuid::Uuid::from_u128(9));
    let workflow = WorkflowId::from(uuid::Uuid::from_u128(number));
    (IdempotencyKey::new(workflow, "release_phase".parse().unwrap()), RunSpec::new(spec))
}

/// Not a test: the engine that [`a_command_whose_engine_is_killed_at_any_moment_runs_once`] kills.
#[tokio::test]
#[ignore = "started by another test"]
async fn the_engine_that_is_killed_in_a_command() {
    let Some(data) = std::env::var_os(DATA) else { return };
    let world = World::at(data.into());
    let runtime = open(&world).await;
    let number = std::env::var(NUMBER).unwrap().parse().unwrap();
    let (key, run) = command_of_the_killed_engine(&empty(&world).await, number);
    let mut ctx = ctx(&world);
    ctx.key = key;
    runtime.run_once(&ctx, &run).await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_command_whose_engine_is_killed_at_any_moment_runs_once() {
    let world = World::new();
    let artifact = empty(&world).await;
    for delay in [5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 100, 150, 200, 300] {
        let mut engine = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "deaths::the_engine_that_is_killed_in_a_command", "--ignored"])
            .env(DATA, world.dir.path())
            .env(NUMBER, delay.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_millis(delay)).await;
        engine.kill().unwrap();
        engine.wait().unwrap();

        let runtime = open(&world).await;
        let (key, run) = command_of_the_killed_engine(&artifact, delay.into());
        let mut ctx = ctx(&world);
        ctx.key = key;
        let exit = runtime.run_once(&ctx, &run).await.unwrap();
        assert_eq!(exit.status, 0, "{exit:?}");
        let wanted = format!("command {delay} ran");
        let ran = lines(&world, "cut-off").await.into_iter().filter(|line| *line == wanted).count();
        assert_eq!(ran, 1, "{wanted}");
    }
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
