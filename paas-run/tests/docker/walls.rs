//! What stands around a container.

use paas_core::{ConfigVars, Instance, InstanceState, RunSpec, Runtime, Size};
use paas_docker::bollard::errors::Error;

use crate::support::{IDLE, Kind, LISTEN, World, spec, until, up};

#[tokio::test(flavor = "multi_thread")]
async fn an_app_reaches_its_own_containers_and_neither_another_apps_nor_the_daemon() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let runtime = world.runtime().await;
    let image = world.image(&[], |_| {}).await;
    let web = spec("guarded", "web", LISTEN, &image);
    runtime.ensure(&world.ctx(), &web).await.unwrap();
    let address = up(&runtime, "guarded", 1).await[0].address.unwrap();
    let (ip, port) = (address.ip(), address.port());
    // Whoever drops our packets says nothing: a few seconds of silence are a wall.
    let look = format!(
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 3 nc {ip} {port} | grep hello || echo walled; \
         ls /var/run/docker.sock /run/docker.sock; exit 0"
    );
    let mut own = spec("guarded", "release", &look, &image);
    own.app_id = web.app_id;
    let own = runtime.run_once(&world.ctx(), &RunSpec::new(own)).await.unwrap();
    assert!(own.output.iter().any(|line| line.contains("hello")), "{own:?}");
    let other = RunSpec::new(spec("curious", "release", &look, &image));
    let other = runtime.run_once(&world.ctx(), &other).await.unwrap();
    assert!(other.output.iter().any(|line| line == "walled"), "{other:?}");
    for exit in [own, other] {
        let sockets = exit.output.iter().filter(|line| line.contains("docker.sock: No such file")).count();
        assert_eq!(sockets, 2, "{exit:?}");
    }
    for app in ["guarded", "curious"] {
        runtime.forget(&world.ctx(), &app.parse().unwrap()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_too_much_memory_is_ended_and_that_is_told_apart_from_a_crash() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let runtime = world.runtime().await;
    let image = world.image(&[], |_| {}).await;
    let small = Size::unlimited("small").with_memory(24 << 20);
    let greedy = spec("greedy", "worker", "sleep 1; tail /dev/zero", &image).with_size(small.clone());
    runtime.ensure(&world.ctx(), &greedy).await.unwrap();
    let seen = until(&runtime, "greedy", |all| all[0].last_exit.is_some() && all[0].reason.is_some()).await;
    assert!(seen[0].reason.as_ref().unwrap().contains("R15"), "{seen:?}");
    world.line("greedy", "Error R14 (Memory quota exceeded)").await;
    world.line("greedy", "Error R15 (Memory quota vastly exceeded)").await;
    let clumsy = spec("clumsy", "worker", "sleep 1; kill -9 $$", &image).with_size(small);
    runtime.ensure(&world.ctx(), &clumsy).await.unwrap();
    let seen = until(&runtime, "clumsy", |all| all[0].last_exit.is_some() && all[0].reason.is_some()).await;
    assert_eq!(seen[0].last_exit.as_ref().unwrap().status, 137);
    assert!(!seen[0].reason.as_ref().unwrap().contains("R15"), "{seen:?}");
    for spec in [greedy, clumsy] {
        runtime.forget(&world.ctx(), &spec.app).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_gets_no_new_privileges_and_few_old_ones() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let runtime = world.runtime().await;
    let image = world.image(&[], |_| {}).await;
    let look =
        "grep -E 'NoNewPrivs|CapEff|CapBnd' /proc/self/status; ulimit -c; mount -t tmpfs x /mnt; exit 0";
    let run = RunSpec::new(spec("humble", "release", look, &image));
    let seen = runtime.run_once(&world.ctx(), &run).await.unwrap().output.join(" ");
    assert!(seen.contains("NoNewPrivs:\t1"), "{seen}");
    // chown, dac_override, fowner, kill, setgid, setuid, net_bind_service.
    assert!(seen.contains("CapBnd:\t00000000000004eb"), "{seen}");
    assert!(seen.contains("permission denied") || seen.contains("Operation not permitted"), "{seen}");
    runtime.forget(&world.ctx(), &"humble".parse().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_runs_as_nobodys_root_and_writes_where_only_it_reads() {
    let Some(world) = World::shared(Kind::Slug).await else { return };
    let runtime = world.runtime().await;
    let slug = crate::world::slug(&*world.blobs, world.scratch(), &[("data/kept.txt", "kept\n")]).await;
    let command =
        "cat data/*.txt; echo more > data/more.txt; id -u; grep CapBnd /proc/self/status; pwd; echo $HOME";
    for _ in 0..2 {
        let run = RunSpec::new(spec("plain", "release", command, &slug));
        let seen = runtime.run_once(&world.ctx(), &run).await.unwrap();
        assert_eq!(seen.output, ["kept", "1000", "CapBnd:\t0000000000000000", "/app", "/app"], "{seen:?}");
    }
    runtime.forget(&world.ctx(), &"plain".parse().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_says_it_can_bear_it_gets_a_root_that_nobody_writes_to() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let runtime = world.runtime().await;
    let image = world
        .image(&[], |config| {
            config.labels.get_or_insert_default().insert("paas.read-only".into(), "true".into());
        })
        .await;
    let command = "echo x > /tmp/x && echo tmp; (echo x > /x) || echo sealed";
    let run = RunSpec::new(spec("sealed", "release", command, &image));
    let seen = runtime.run_once(&world.ctx(), &run).await.unwrap();
    assert!(
        seen.output.contains(&"tmp".to_owned()) && seen.output.contains(&"sealed".to_owned()),
        "{seen:?}"
    );
    runtime.forget(&world.ctx(), &"sealed".parse().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_no_label_name_or_end() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let runtime = world.runtime().await;
    let image = world.image(&[], |_| {}).await;
    let secret = "canary-4d21f70b9a";
    let env = ConfigVars::new().with("API_TOKEN", secret).unwrap();
    let worker =
        spec("discreet", "worker", &format!("echo token $API_TOKEN; {IDLE}"), &image).with_env(env.clone());
    let crash = spec("discreet", "clock", "echo token $API_TOKEN; exit 1", &image).with_env(env);
    runtime.ensure(&world.ctx(), &worker).await.unwrap();
    runtime.ensure(&world.ctx(), &crash).await.unwrap();
    let ended = |all: &[Instance]| all.iter().any(|one| one.state == InstanceState::Crashed);
    let seen = until(&runtime, "discreet", ended).await;
    assert!(!format!("{seen:?}").contains(secret), "{seen:?}");
    assert!(format!("{seen:?}").contains("token [redacted]"), "{seen:?}");
    let mut looked_at = 0;
    for id in world.containers().await {
        let inspect = None::<paas_docker::bollard::query_parameters::InspectContainerOptions>;
        let mut found = match world.docker.client().inspect_container(&id, inspect).await {
            Ok(found) => found,
            // What crashed is cleared away at a moment of the runtime's choosing.
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        looked_at += 1;
        let config = found.config.as_mut().unwrap();
        let env = config.env.take().unwrap();
        assert!(env.iter().any(|pair| pair.contains(secret)), "the app itself has it");
        assert!(!format!("{found:?}").contains(secret), "{found:?}");
    }
    assert!(looked_at > 0, "the worker is there all the while");
    runtime.forget(&world.ctx(), &worker.app).await.unwrap();
}
