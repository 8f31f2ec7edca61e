//! A Docker daemon for tests with the base images, that lives until its input ends or somebody interrupts it:
//!
//! ```text
//! $ cargo run --package paas-docker --features testkit --example test_daemon
//! export PAAS_TEST_DOCKER=unix:///tmp/paas-docker-0123456789ab/docker.sock
//! ```

use paas_docker::testkit::{BaseImage, DaemonOptions, TestDaemon};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let daemon = TestDaemon::start(DaemonOptions::new().with_network()).await?;
    for image in [BaseImage::Busybox, BaseImage::Stack, BaseImage::Postgres] {
        daemon.image(image).await?;
    }
    println!("export {}={}", TestDaemon::HOST, daemon.host());
    let (ended, input) = tokio::sync::oneshot::channel();
    // A thread of its own: nothing else can stop waiting for input.
    std::thread::spawn(move || {
        let read = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        ended.send(read)
    });
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
        _ = input => {}
    }
    Ok(())
}
