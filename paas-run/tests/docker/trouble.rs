//! A daemon that is restarted, killed or full.

use std::collections::BTreeSet;

use paas_core::{ErrorCode, Instance, InstanceState, Retry, Runtime};
use paas_docker::testkit::DaemonOptions;

use crate::support::{IDLE, LISTEN, World, spec, until, up};

fn identity(all: &[Instance]) -> BTreeSet<String> {
    all.iter().map(|one| one.metadata["container"].clone()).collect()
}

/// All are up, in containers other than these, and have not crashed.
async fn back(world: &World, runtime: &dyn Runtime, before: &[Instance]) {
    let app = before[0].app.as_str();
    let again = |all: &[Instance]| {
        let up = all.iter().filter(|one| one.state == InstanceState::Up);
        up.count() == before.len() && identity(all).is_disjoint(&identity(before))
    };
    let after = until(runtime, app, again).await;
    assert!(after.iter().all(|one| one.restarts == 0), "to be cut off is no crash: {after:#?}");
    assert_eq!(world.containers().await.len(), before.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_come_back_after_the_daemon_is_restarted_or_killed_and_that_is_no_crash_of_theirs() {
    let Some(mut world) = World::own(DaemonOptions::new()).await else { return };
    let runtime = world.runtime().await;
    let image = world.image(&[], |_| {}).await;
    let (web, worker) = (spec("shaken", "web", LISTEN, &image), spec("shaken", "worker", IDLE, &image));
    runtime.ensure(&world.ctx(), &web).await.unwrap();
    runtime.ensure(&world.ctx(), &worker.with_quantity(2)).await.unwrap();
    for kill in [false, true, false, true] {
        let before = up(&runtime, "shaken", 3).await;
        if kill {
            world.daemon.kill();
        } else {
            world.daemon.stop();
        }
        world.daemon.start_again().await.unwrap();
        back(&world, &runtime, &before).await;
    }
    let seen = up(&runtime, "shaken", 3).await;
    let address = seen.iter().find_map(|one| one.address).unwrap();
    tokio::net::TcpStream::connect(address).await.unwrap();
    runtime.forget(&world.ctx(), &web.app).await.unwrap();
    assert_eq!(world.containers().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_in_the_middle_of_a_deploy_doubles_nothing() {
    let Some(mut world) = World::own(DaemonOptions::new()).await else { return };
    let runtime = world.runtime().await;
    let image = world.image(&[], |_| {}).await;
    // The app's network is there before: a bridge that a killed daemon was just making would stay on this machine.
    let worker = spec("torn", "worker", IDLE, &image).with_quantity(1);
    runtime.ensure(&world.ctx(), &worker).await.unwrap();
    up(&runtime, "torn", 1).await;
    runtime.retire(&world.ctx(), &worker.app, worker.release).await.unwrap();
    for delay in [0, 40, 80, 120, 200, 300] {
        let worker = spec("torn", "worker", IDLE, &image).with_quantity(3);
        let ctx = world.ctx();
        let ensured = runtime.ensure(&ctx, &worker);
        let (ensured, ()) = tokio::join!(ensured, async {
            tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
            world.daemon.kill();
        });
        if let Err(e) = ensured {
            assert_ne!(e.retry(), Retry::Never, "{e:?}");
        }
        world.daemon.start_again().await.unwrap();
        // As the engine does: again until it works.
        while let Err(e) = runtime.ensure(&world.ctx(), &worker).await {
            assert_ne!(e.retry(), Retry::Never, "{e:?}");
        }
        up(&runtime, "torn", 3).await;
        let only = async {
            while world.containers().await.len() != 3 {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(crate::support::PATIENCE, only).await.expect("one container for each instance");
        runtime.retire(&world.ctx(), &worker.app, worker.release).await.unwrap();
    }
    runtime.forget(&world.ctx(), &worker.app).await.unwrap();
    assert_eq!(world.containers().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_what_waited_for_it_starts_once_there_is_room() {
    let Some(world) = World::own(DaemonOptions::new().with_disk(48 << 20)).await else { return };
    let runtime = world.runtime().await;
    let image = world.image(&[], |_| {}).await;
    let worker = spec("crowded", "worker", IDLE, &image);
    let filler = world.daemon.data().join("filler");
    world.fill(&filler);
    let error = runtime.ensure(&world.ctx(), &worker).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DiskFull, "{error:?}");
    std::fs::remove_file(&filler).unwrap();
    runtime.ensure(&world.ctx(), &worker).await.unwrap();
    up(&runtime, "crowded", 1).await;
    runtime.forget(&world.ctx(), &worker.app).await.unwrap();
    assert_eq!(world.containers().await, Vec::<String>::new());
}
