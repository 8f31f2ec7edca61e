//! The daemons that tests get.

use std::path::Path;
use std::process::Command;

use paas_core::ErrorCode;
use paas_docker::bollard::models::ContainerCreateBody;
use paas_docker::bollard::query_parameters::CreateContainerOptions;
use paas_docker::testkit::{BaseImage, DaemonOptions, TestDaemon};
use paas_docker::{Docker, bollard, failed};

/// Starts a container that sleeps, and says which.
async fn sleeping(client: &bollard::Docker, image: &str) -> String {
    let command = ["sleep", "1000"].map(str::to_owned).to_vec();
    let body =
        ContainerCreateBody { image: Some(image.to_owned()), cmd: Some(command), ..Default::default() };
    let made = client.create_container(None::<CreateContainerOptions>, body).await.expect("a container");
    let none = None::<bollard::query_parameters::StartContainerOptions>;
    client.start_container(&made.id, none).await.expect("a started container");
    made.id
}

fn mounts_below(folder: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the table of mounts");
    table.lines().filter(|line| line.contains(&*folder.to_string_lossy())).count()
}

fn processes_that_name(folder: &Path) -> Vec<String> {
    let listed = Command::new("ps").args(["-eo", "args"]).output().expect("a list of processes").stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    listed.lines().filter(|line| line.contains(&*folder.to_string_lossy())).map(str::to_owned).collect()
}

#[tokio::test]
async fn nothing_is_left_of_a_daemon_that_was_killed_with_a_container_running() {
    let Some(mut daemon) = TestDaemon::own(DaemonOptions::new().with_disk(64 << 20)).await else { return };
    let folder = daemon.data().parent().expect("a folder").to_owned();
    let image = daemon.image(BaseImage::Busybox).await.expect("an image");
    sleeping(&daemon.client(), image).await;
    assert!(mounts_below(&folder) > 0);
    daemon.kill();
    assert!(!processes_that_name(&folder).is_empty(), "the container's own processes outlive the daemon");

    drop(daemon);

    assert_eq!(processes_that_name(&folder), [""; 0]);
    assert_eq!(mounts_below(&folder), 0);
    assert!(!folder.exists());
}

#[tokio::test]
async fn a_daemon_that_was_killed_comes_back_on_its_data() {
    let Some(mut daemon) = TestDaemon::own(DaemonOptions::new()).await else { return };
    let docker = Docker::connect(daemon.config()).await.expect("a connection");
    let image = daemon.image(BaseImage::Busybox).await.expect("an image");
    daemon.kill();
    let error = docker.client().inspect_image(image).await.expect_err("nobody is there");
    assert_eq!(failed("can't look at an image", error).code(), ErrorCode::Unavailable);

    daemon.start_again().await.expect("it starts again");

    docker.client().inspect_image(image).await.expect("the image is still there");
}

#[tokio::test]
async fn a_full_disk_is_told_as_one() {
    let Some(daemon) = TestDaemon::own(DaemonOptions::new().with_disk(16 << 20)).await else { return };
    let error = daemon.image(BaseImage::Stack).await.expect_err("it has ten times that");
    assert_eq!(error.code(), ErrorCode::DiskFull, "{error}");
}
