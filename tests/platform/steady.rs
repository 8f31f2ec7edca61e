//! Deploys one after another while people use the app in every way.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Lasting, World};

const APP: &str = "steady";

/// How long it lasts: `PAAS_SECONDS`, or ten.
fn lasts() -> Duration {
    let seconds = std::env::var("PAAS_SECONDS").map_or(10, |number| number.parse().expect("a number"));
    Duration::from_secs(seconds)
}

#[test]
fn a_deploy_every_second_costs_no_request_no_message_and_no_upload() {
    let world = World::new();
    let repo = world.repo(APP);
    repo.app("v1").commit();
    world.push(&repo, APP).assert_accepted();
    let (router, host) = (world.ready().router(), world.host(APP));
    let users = world.probe_busily(APP);
    let sockets = Lasting::on_sockets(8, router, &host);
    let uploads = Lasting::uploading(4, router, &host);

    let (mut words, start) = (vec!["v1".to_owned()], Instant::now());
    while start.elapsed() < lasts() {
        let due = Instant::now() + Duration::from_secs(1);
        let word = format!("v{}", words.len() + 1);
        repo.app(&word).commit();
        world.push(&repo, APP).assert_accepted();
        assert_eq!(world.serving(APP).0, word);
        words.push(word);
        std::thread::sleep(due - Instant::now());
    }
    let took = start.elapsed();
    let (sockets, uploads, report) = (sockets.stop(), uploads.stop(), users.stop());
    eprintln!(
        "{} deploys in {took:?}: {} requests, {} messages on sockets that moved {} times, {} uploads; failed: {}",
        words.len() - 1,
        report.requests,
        sockets.done,
        sockets.moved,
        uploads.done,
        report.failed.len() + sockets.failed.len() + uploads.failed.len()
    );
    report.assert_served_by(&words.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(sockets.failed.is_empty() && uploads.failed.is_empty(), "{sockets:?} {uploads:?}");
    assert!(sockets.moved > 0 && sockets.done > 0 && uploads.done > 0, "{sockets:?} {uploads:?}");
}
