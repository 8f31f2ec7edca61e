//! What counts as well.

use std::time::Duration;

use paas_core::{Instance, InstanceState, Runtime};
use paas_run::process::ProcessRuntime;

use crate::support::{IDLE, ctx, empty, line, open, spec, until};
use crate::world::{LISTEN, World};

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
