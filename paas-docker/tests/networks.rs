//! Networks of apps.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use paas_core::{AppName, ErrorCode};
use paas_docker::bollard::query_parameters::ListNetworksOptions;
use paas_docker::testkit::{DaemonOptions, TestDaemon};
use paas_docker::{Docker, Subnets};

async fn subnets(docker: &Docker) -> Vec<String> {
    let options = ListNetworksOptions { filters: Some(docker.ours(&[])) };
    let networks = docker.client().list_networks(Some(options)).await.unwrap();
    networks.into_iter().filter_map(|one| one.ipam?.config?.remove(0).subnet).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_apps_have_a_network_each() {
    let Some(daemon) = TestDaemon::own(DaemonOptions::new()).await else { return };
    let range = Subnets::new("10.240.0.0/15", 26).unwrap();
    let docker = Docker::connect(daemon.config().subnets(range)).await.unwrap();
    let apps: Vec<AppName> = (0..300).map(|number| format!("app-{number}").parse().unwrap()).collect();
    // Twice at once: an app has one, however many of its processes start together.
    let made = try_join_all(apps.iter().chain(&apps).map(|app| docker.network(app))).await.unwrap();
    assert_eq!(made.iter().collect::<BTreeSet<_>>().len(), 300);
    let all = subnets(&docker).await;
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (300, 300));
    let kept: BTreeSet<&AppName> = apps[..2].iter().collect();
    docker.keep_networks(|app| kept.contains(app)).await.unwrap();
    assert_eq!(subnets(&docker).await.len(), 2);
    for app in &apps[..3] {
        docker.remove_network(app).await.unwrap();
    }
    assert_eq!(subnets(&docker).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_used_up_is_said_and_two_platforms_share_one() {
    let Some(daemon) = TestDaemon::own(DaemonOptions::new()).await else { return };
    let range = Subnets::new("10.242.0.0/26", 28).unwrap();
    let connect = |name: &str| {
        let config = daemon.config().platform(name.parse().unwrap()).subnets(range);
        async { Docker::connect(config).await.unwrap() }
    };
    let (one, two) = (connect("one").await, connect("two").await);
    let app = |number: u32| format!("app-{number}").parse::<AppName>().unwrap();
    for number in 0..2 {
        one.network(&app(number)).await.unwrap();
        two.network(&app(number)).await.unwrap();
    }
    let full = one.network(&app(2)).await.unwrap_err();
    assert_eq!(full.code(), ErrorCode::LimitExceeded, "{full}");
    assert!(full.to_string().contains("10.242.0.0/26"), "{full}");
    two.remove_network(&app(0)).await.unwrap();
    one.network(&app(2)).await.unwrap();
    assert_eq!((subnets(&one).await.len(), subnets(&two).await.len()), (3, 1));
}
