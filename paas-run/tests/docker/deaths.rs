//! Engines that are killed while containers come and go.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use paas_core::{
    AppId, Artifact, ErrorCode, IdempotencyKey, ProcessSpec, ReleaseId, RunSpec, Runtime, WorkflowId,
};
use paas_run::docker::DockerRuntime;
use tokio::time::sleep;
use uuid::Uuid;

use crate::support::{IDLE, Kind, LISTEN, World, spec, up};

/// What the engine that gets killed is told through its environment.
const IMAGE: &str = "PAAS_TEST_IMAGE";
const ROUND: &str = "PAAS_TEST_ROUND";

/// How many times: more by `PAAS_TEST_KILLS`.
const ROUNDS: u64 = 18;

/// What every engine wants of this round: two instances, which change every few rounds, and a command.
fn wanted(image: &Artifact, round: u64) -> (ProcessSpec, IdempotencyKey, RunSpec) {
    let mut web = spec("killed", "web", LISTEN, image).with_quantity(2);
    web.app_id = AppId::from(Uuid::from_u128(7));
    web.release = ReleaseId::from(Uuid::from_u128(u128::from(round / 4) + 1));
    let mut command = spec("killed", "release", &format!("echo command {round} ran; sleep 0.1"), image);
    command.app_id = web.app_id;
    command.release = web.release;
    let workflow = WorkflowId::from(Uuid::from_u128(u128::from(round) + 1));
    (web, IdempotencyKey::new(workflow, "release_phase".parse().unwrap()), RunSpec::new(command))
}

async fn carry_out(world: &World, runtime: &dyn Runtime, image: &Artifact, round: u64) {
    let (web, key, command) = wanted(image, round);
    let mut ctx = world.ctx();
    ctx.key = key;
    let exit = runtime.run_once(&ctx, &command).await.unwrap();
    assert_eq!(exit.status, 0, "{exit:?}");
    runtime.ensure(&world.ctx(), &web).await.unwrap();
    let old: BTreeSet<ReleaseId> = {
        let all = runtime.observe(&web.app).await.unwrap();
        all.into_iter().map(|one| one.release).filter(|release| *release != web.release).collect()
    };
    for release in old {
        runtime.retire(&world.ctx(), &web.app, release).await.unwrap();
    }
    let seen = up(runtime, "killed", 2).await;
    assert!(seen.iter().all(|one| one.restarts == 0), "to be cut off is no crash: {seen:?}");
}

/// Not a test: the engine that [`an_engine_that_is_killed_at_any_moment_leaves_no_orphan_and_doubles_nothing`] kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test"]
async fn the_engine_that_is_killed() {
    let Some(world) = World::others().await else { return };
    let runtime = world.runtime().await;
    let image = world.image_again(&std::env::var(IMAGE).unwrap());
    carry_out(&world, &runtime, &image, std::env::var(ROUND).unwrap().parse().unwrap()).await;
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_killed_at_any_moment_leaves_no_orphan_and_doubles_nothing() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let image = world.image(&[], |_| {}).await;
    let rounds =
        std::env::var("PAAS_TEST_KILLS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS);
    for round in 0..rounds {
        let mut engine = Command::new(std::env::current_exe().unwrap());
        world.share(&mut engine);
        let mut engine = engine
            .args(["--exact", "deaths::the_engine_that_is_killed", "--ignored"])
            .env(IMAGE, image.reference.as_ref().unwrap())
            .env(ROUND, round.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // From before its first request to after all is up, in uneven steps.
        sleep(Duration::from_millis(20 + round * 137 % 1400)).await;
        engine.kill().unwrap();
        engine.wait().unwrap();
        // Each third time another one is killed before anybody has tidied up.
        if round % 3 == 2 {
            continue;
        }
        let runtime = world.runtime().await;
        carry_out(&world, &runtime, &image, round).await;
        let known = runtime.observe(&"killed".parse().unwrap()).await.unwrap();
        let there = settled(&world, known.len()).await;
        assert!(known.len() == 2 && there.len() == 2, "round {round}: known {known:#?}, there {there:#?}");
    }
    let runtime = world.runtime().await;
    carry_out(&world, &runtime, &image, rounds).await;
    let said = world.lines("killed").await;
    for round in 0..=rounds {
        let ran = said.iter().filter(|line| **line == format!("command {round} ran")).count();
        // What was cut off in a round that nobody finished may not have begun.
        assert!(ran == 1 || (ran == 0 && round % 3 == 2), "command {round} ran {ran} times");
    }
    runtime.forget(&world.ctx(), &"killed".parse().unwrap()).await.unwrap();
    assert_eq!(world.containers().await, Vec::<String>::new());
}

/// The instances' containers, once there are so many: what a killed engine asked for last may come late.
async fn settled(world: &World, wanted: usize) -> Vec<String> {
    for _ in 0..200 {
        let there = world.instances().await;
        if there.len() == wanted {
            return there;
        }
        sleep(Duration::from_millis(50)).await;
    }
    world.instances().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_supervisors_never_share_a_folder_and_one_that_leaves_hands_its_instances_over() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let image = world.image(&[], |_| {}).await;
    let worker = spec("handed", "worker", IDLE, &image);
    let first = world.runtime().await;
    first.ensure(&world.ctx(), &worker).await.unwrap();
    let before = up(&first, "handed", 1).await;
    let second = DockerRuntime::open(world.config()).await.unwrap_err();
    assert_eq!(second.code(), ErrorCode::Unavailable, "{second}");
    first.close().await.unwrap();
    let second = world.runtime().await;
    assert_eq!(up(&second, "handed", 1).await[0].metadata, before[0].metadata);
    second.forget(&world.ctx(), &worker.app).await.unwrap();
}
