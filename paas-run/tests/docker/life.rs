//! The life of containers, and who interferes with it.

use paas_core::{ErrorCode, Instance, InstanceState, RunSpec, Runtime};
use paas_docker::bollard::models::HealthConfig;

use crate::support::{IDLE, Kind, LISTEN, World, forced, spec, until, up};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_removes_or_stops_is_started_again() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let runtime = world.runtime().await;
    let image = world.image(&[], |_| {}).await;
    for (app, stop) in [("removed", false), ("stopped", true)] {
        let worker = spec(app, "worker", IDLE, &image);
        runtime.ensure(&world.ctx(), &worker).await.unwrap();
        let before = up(&runtime, app, 1).await;
        let client = world.docker.client();
        if stop {
            let at_once =
                paas_docker::bollard::query_parameters::StopContainerOptions { t: Some(0), signal: None };
            client.stop_container(&before[0].metadata["container"], Some(at_once)).await.unwrap();
        } else {
            client.remove_container(&before[0].metadata["container"], Some(forced())).await.unwrap();
        }
        let again =
            |all: &[Instance]| all[0].state == InstanceState::Up && all[0].metadata != before[0].metadata;
        let after = until(&runtime, app, again).await;
        assert_eq!(after[0].restarts, 1);
        assert_eq!(world.containers().await.len(), 1, "the old one is still there, or one too many is");
        runtime.forget(&world.ctx(), &worker.app).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_command_of_the_apps_runs_its_own_on_the_port_that_it_exposes() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let runtime = world.runtime().await;
    let image = world
        .image(&[], |config| {
            config.exposed_ports = Some(vec!["8123/tcp".into()]);
            config.entrypoint = Some(vec!["httpd".into(), "-f".into()]);
            config.cmd = Some(["-p", "8123", "-h", "/app/www"].map(str::to_owned).into());
        })
        .await;
    runtime.ensure(&world.ctx(), &spec("own", "web", "", &image)).await.unwrap();
    let seen = up(&runtime, "own", 1).await;
    assert_eq!(seen[0].address.unwrap().port(), 8123);
    runtime.forget(&world.ctx(), &"own".parse().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_images_own_health_check_holds_its_instance_back_until_it_passes() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let runtime = world.runtime().await;
    let image = world
        .image(&[], |config| {
            let test = ["CMD-SHELL", "test -e /tmp/warm"].map(str::to_owned).into();
            config.healthcheck = Some(HealthConfig { test: Some(test), ..HealthConfig::default() });
        })
        .await;
    let web = spec("slow", "web", LISTEN, &image);
    runtime.ensure(&world.ctx(), &web).await.unwrap();
    let listens = |all: &[Instance]| all.len() == 1;
    let seen = until(&runtime, "slow", listens).await;
    let container = seen[0].metadata["container"].clone();
    // It answers long before it is well.
    let exec = paas_docker::bollard::exec::CreateExecOptions {
        cmd: Some(vec![
            "sh".into(),
            "-c".into(),
            "until wget -q -O - http://127.0.0.1:5000/; do :; done".into(),
        ]),
        attach_stdout: Some(true),
        ..Default::default()
    };
    world.exec(&container, exec).await;
    assert_eq!(runtime.observe(&web.app).await.unwrap()[0].state, InstanceState::Starting);
    let warm = paas_docker::bollard::exec::CreateExecOptions {
        cmd: Some(vec!["touch".into(), "/tmp/warm".into()]),
        attach_stdout: Some(true),
        ..Default::default()
    };
    world.exec(&container, warm).await;
    up(&runtime, "slow", 1).await;
    runtime.forget(&world.ctx(), &web.app).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_gone_and_a_command_that_is_not_there_are_said_and_leave_nothing() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let runtime = world.runtime().await;
    let mut image = world.image(&[], |_| {}).await;
    let no_shell = world.image(&[], |config| config.entrypoint = Some(vec!["/no/such/program".into()])).await;
    let mut entry = spec("absent", "clock", "", &no_shell);
    runtime.ensure(&world.ctx(), &entry).await.unwrap();
    until(&runtime, "absent", |all| all[0].state == InstanceState::Crashed).await;
    world.line("absent", "exec /no/such/program failed").await;
    entry.quantity = 0;
    runtime.ensure(&world.ctx(), &entry).await.unwrap();
    image.reference = Some(format!("sha256:{}", "0".repeat(64)));
    let gone = spec("absent", "worker", IDLE, &image);
    let error = runtime.ensure(&world.ctx(), &gone).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
    assert!(error.to_string().contains("deploy the app again"), "{error}");
    runtime.forget(&world.ctx(), &gone.app).await.unwrap();
    assert_eq!(world.containers().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_container_is_removed_is_an_error_and_never_run_again() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let image = world.image(&[], |_| {}).await;
    let run = RunSpec::new(spec("lost", "release", &format!("echo begun; {IDLE}"), &image));
    let ctx = world.ctx();
    {
        let runtime = world.runtime().await;
        tokio::select! {
            ended = runtime.run_once(&ctx, &run) => panic!("it ended before it was to be left alone: {ended:?}"),
            _ = world.line("lost", "begun") => {}
        }
    }
    // While no engine looks.
    for id in world.containers().await {
        world.docker.client().remove_container(&id, Some(forced())).await.unwrap();
    }
    let runtime = world.runtime().await;
    for _ in 0..2 {
        let error = runtime.run_once(&ctx, &run).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ReleasePhaseFailed, "{error}");
    }
    let begun = world.lines("lost").await.iter().filter(|line| *line == "begun").count();
    assert_eq!(begun, 1);
    runtime.forget(&world.ctx(), &run.process.app).await.unwrap();
}
