//! What is removed, and what never is.

use std::collections::BTreeSet;

use paas_core::{ErrorCode, Mount, RunSpec, Runtime};
use paas_docker::bollard::models::{ContainerCreateBody, NetworkCreateRequest, VolumeCreateRequest};
use paas_docker::bollard::query_parameters::{
    CommitContainerOptions, CreateContainerOptions, ListContainersOptions, ListImagesOptions,
    ListNetworksOptions, ListVolumesOptions,
};
use paas_docker::testkit::DaemonOptions;
use paas_docker::{bollard, label};

use crate::support::{IDLE, Kind, World, slug_of, spec, up};

/// Everything on the daemon by name or id.
async fn inventory(client: &bollard::Docker) -> BTreeSet<String> {
    let containers = ListContainersOptions { all: true, ..Default::default() };
    let containers = client.list_containers(Some(containers)).await.unwrap();
    let images = ListImagesOptions { all: true, ..Default::default() };
    let images = client.list_images(Some(images)).await.unwrap();
    let networks = client.list_networks(None::<ListNetworksOptions>).await.unwrap();
    let containers = containers.into_iter().map(|one| format!("container {:?} {:?}", one.names, one.state));
    let images = images.into_iter().map(|one| format!("image {} {:?}", one.id, one.repo_tags));
    let networks = networks.into_iter().map(|one| format!("network {:?} {:?}", one.name, one.id));
    let volumes = client.list_volumes(None::<ListVolumesOptions>).await.unwrap().volumes.unwrap_or_default();
    let volumes = volumes.into_iter().map(|one| format!("volume {}", one.name));
    containers.chain(images).chain(networks).chain(volumes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_platform_did_not_make_stays_and_of_what_it_made_nothing_does() {
    // Of its own, so that what is there can be counted.
    let Some(world) = World::own_of(DaemonOptions::new(), Kind::Slug).await else { return };
    let (client, platform) = (world.docker.client(), world.docker.platform().to_string());
    let (image, slug) = (world.image(&[], |_| {}).await, slug_of(&world).await);
    // Of somebody, of another platform, and such that only look like ours.
    let other =
        [(label::PLATFORM, format!("{platform}-too")), (label::LAUNCH, uuid::Uuid::now_v7().to_string())];
    let other: std::collections::HashMap<String, String> =
        other.map(|(key, value)| (key.to_owned(), value)).into();
    let mut running = Vec::new();
    for (name, labels) in [
        (format!("{platform}.tidy.web.1.v1.{}", uuid::Uuid::now_v7()), None),
        ("somebodys".to_owned(), None),
        ("others".to_owned(), Some(other.clone())),
    ] {
        let body = ContainerCreateBody {
            image: image.reference.clone(),
            cmd: Some(["sh", "-c", IDLE].map(str::to_owned).into()),
            labels: labels.clone(),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
        let id = client.create_container(Some(options), body).await.unwrap().id;
        client.start_container(&id, None::<bollard::query_parameters::StartContainerOptions>).await.unwrap();
        let options = CommitContainerOptions {
            container: Some(id.clone()),
            repo: Some(format!("paas-slug/{platform}/tidy-{}", running.len())),
            ..CommitContainerOptions::default()
        };
        let config = bollard::models::ContainerConfig { labels: labels.clone(), ..Default::default() };
        client.commit_container(options, config).await.unwrap();
        let network = NetworkCreateRequest {
            name: format!("{platform}.tidy-{}", running.len()),
            labels: labels.clone(),
            ..NetworkCreateRequest::default()
        };
        client.create_network(network).await.unwrap();
        let name = Some(format!("paas-{platform}-{}-data", uuid::Uuid::now_v7()));
        let volume = VolumeCreateRequest { name, labels, ..VolumeCreateRequest::default() };
        client.create_volume(volume).await.unwrap();
        running.push(id);
    }
    let before = inventory(client).await;
    {
        let runtime = world.runtime().await;
        let keeps = vec![Mount::new("data".parse().unwrap(), "/data".parse().unwrap())];
        let first = spec("tidy", "worker", IDLE, &image).with_volumes(keeps);
        runtime.ensure(&world.ctx(), &first).await.unwrap();
        up(&runtime, "tidy", 1).await;
    }
    let runtime = world.runtime().await;
    let second = spec("tidy", "worker", IDLE, &slug);
    runtime.ensure(&world.ctx(), &second).await.unwrap();
    let both = up(&runtime, "tidy", 2).await;
    let first = both.iter().map(|one| one.release).find(|release| *release != second.release).unwrap();
    runtime.retire(&world.ctx(), &second.app, first).await.unwrap();
    let command = RunSpec::new(spec("tidy", "release", "exit 1", &slug));
    runtime.run_once(&world.ctx(), &command).await.unwrap();
    assert!(inventory(client).await.is_superset(&before));
    runtime.forget(&world.ctx(), &second.app).await.unwrap();
    let after = inventory(client).await;
    assert_eq!(after, before, "left: {:#?}, lost: {:#?}", &after - &before, &before - &after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slugs_image_is_made_once_and_goes_with_the_last_release_that_needs_it() {
    let Some(world) = World::shared(Kind::Slug).await else { return };
    let runtime = world.runtime().await;
    let slug = slug_of(&world).await;
    let images = async || {
        let options = ListImagesOptions { filters: Some(world.docker.ours(&[])), ..Default::default() };
        world.docker.client().list_images(Some(options)).await.unwrap().len()
    };
    let first = spec("shared", "worker", IDLE, &slug).with_quantity(3);
    runtime.ensure(&world.ctx(), &first).await.unwrap();
    up(&runtime, "shared", 3).await;
    assert_eq!(images().await, 1);
    let mut second = spec("shared", "worker", IDLE, &slug);
    second.app_id = first.app_id;
    runtime.ensure(&world.ctx(), &second).await.unwrap();
    up(&runtime, "shared", 4).await;
    runtime.retire(&world.ctx(), &first.app, first.release).await.unwrap();
    assert_eq!(images().await, 1, "the second release needs it still");
    runtime.retire(&world.ctx(), &first.app, second.release).await.unwrap();
    assert_eq!(images().await, 0);
    runtime.forget(&world.ctx(), &first.app).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_one_instance_holds_is_given_to_no_second_one() {
    let Some(world) = World::shared(Kind::Image).await else { return };
    let runtime = world.runtime().await;
    let image = world.image(&[], |_| {}).await;
    let keeps = || vec![Mount::new("data".parse().unwrap(), "/data".parse().unwrap())];
    let first = spec("holder", "worker", IDLE, &image).with_volumes(keeps());
    runtime.ensure(&world.ctx(), &first).await.unwrap();
    up(&runtime, "holder", 1).await;
    let mut second = spec("holder", "worker", IDLE, &image).with_volumes(keeps());
    second.app_id = first.app_id;
    let error = runtime.ensure(&world.ctx(), &second).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    assert!(error.message().contains("the volume data of holder is held by the container"), "{error}");
    runtime.retire(&world.ctx(), &first.app, first.release).await.unwrap();
    runtime.ensure(&world.ctx(), &second).await.unwrap();
    up(&runtime, "holder", 1).await;
    runtime.forget(&world.ctx(), &second.app).await.unwrap();
}
