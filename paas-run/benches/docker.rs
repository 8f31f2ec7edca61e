//! What many containers cost the engine: `cargo bench -p paas-run --features docker --bench docker`.
//!
//! Ten apps with twenty workers each, on the daemon for tests. Told are the time until all are up, the memory that each
//! instance takes, the time to look at all of them, the time for the next engine to take all over, and what an idle
//! engine costs of a core. Other numbers: `-- APPS EACH SECONDS`.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a measurement ends by panicking, and is no exact figure"
)]

use std::sync::Arc;
use std::time::Duration;

use paas_core::{
    AppId, Artifact, ArtifactKind, Cancel, Clock, Context, DirBlobs, HealthCheck, IdempotencyKey,
    InstanceState, LogSource, LogWriter, Logs, ProcessSpec, ReleaseId, Runtime, Size, SystemClock, Version,
    WorkflowId,
};
use paas_docker::Docker;
use paas_docker::testkit::{BaseImage, TestDaemon};
use paas_run::docker::{DockerRuntime, DockerRuntimeConfig};
use paas_run::logs::{FileLogs, LogBounds};
use tokio::time::{Instant, sleep};

/// Resident memory of this process, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Time on a core, in hundredths of a second.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn context(logs: &Arc<FileLogs>) -> Context {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let logs: Arc<dyn Logs> = Arc::clone(logs) as _;
    let log =
        LogWriter::new(logs, Arc::clone(&clock), "bench".parse().unwrap(), LogSource::Platform, "bench");
    Context::new(IdempotencyKey::new(WorkflowId::new(), "start".parse().unwrap()), Cancel::new(), clock, log)
}

async fn all_up(runtime: &DockerRuntime, specs: &[ProcessSpec], each: u32) {
    for spec in specs {
        loop {
            let seen = runtime.observe(&spec.app).await.unwrap();
            if seen.iter().filter(|one| one.state == InstanceState::Up).count() == each as usize {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|text| text.parse::<u32>().ok());
    let (apps, each) = (numbers.next().unwrap_or(10), numbers.next().unwrap_or(20));
    let seconds = numbers.next().unwrap_or(30);
    let Some(daemon) = TestDaemon::shared().await else { return };
    let image = daemon.image(BaseImage::Busybox).await.unwrap();
    let docker = Docker::connect(daemon.config().platform("bench".parse().unwrap())).await.unwrap();
    let id = docker.client().inspect_image(image).await.unwrap().id.unwrap();
    let now = SystemClock::new().now();
    let mut artifact =
        Artifact::new(ArtifactKind::Image, id.parse().unwrap(), 0, "bench".parse().unwrap(), now);
    artifact.reference = Some(id);

    let dir = tempfile::tempdir().unwrap();
    let logs = Arc::new(FileLogs::open(dir.path().join("logs"), LogBounds::default()).unwrap());
    let blobs = Arc::new(DirBlobs::open(dir.path().join("blobs")).unwrap());
    let config = || {
        let (docker, logs) = (docker.clone(), Arc::clone(&logs) as Arc<dyn Logs>);
        let clock = Arc::new(SystemClock::new());
        DockerRuntimeConfig::new(docker, dir.path().join("data"), Arc::clone(&blobs) as _, logs, clock)
    };
    let mut health = HealthCheck::default();
    health.settle = Duration::from_millis(20);
    let specs: Vec<ProcessSpec> = (0..apps)
        .map(|number| {
            let app = (format!("bench-{number}").parse().unwrap(), AppId::new());
            let release = (ReleaseId::new(), Version::FIRST);
            let command = "echo started; exec sleep 100000";
            ProcessSpec::new(app, release, "worker".parse().unwrap(), command, artifact.clone())
                .with_quantity(each)
                .with_size(Size::unlimited("bench"))
                .with_health(health.clone())
                .with_grace(Duration::from_secs(1))
        })
        .collect();
    let count = u64::from(apps * each);

    let runtime = DockerRuntime::open(config()).await.unwrap();
    let before = memory();
    let begun = Instant::now();
    for spec in &specs {
        runtime.ensure(&context(&logs), spec).await.unwrap();
    }
    all_up(&runtime, &specs, each).await;
    println!("{count} instances up after {:.1} s", begun.elapsed().as_secs_f64());
    println!("memory: {} KiB, {:.1} KiB each", memory(), (memory() - before) as f64 / count as f64);

    let begun = Instant::now();
    let mut seen = 0;
    for spec in &specs {
        seen += runtime.observe(&spec.app).await.unwrap().len() as u64;
    }
    assert_eq!(seen, count);
    println!("all observed in {:.2} ms", begun.elapsed().as_secs_f64() * 1000.0);

    drop(runtime);
    let begun = Instant::now();
    let runtime = DockerRuntime::open(config()).await.unwrap();
    all_up(&runtime, &specs, each).await;
    println!("all adopted by the next engine in {:.0} ms", begun.elapsed().as_secs_f64() * 1000.0);

    sleep(Duration::from_secs(5)).await;
    let (used, begun) = (ticks(), Instant::now());
    sleep(Duration::from_secs(seconds.into())).await;
    let share = (ticks() - used) as f64 / begun.elapsed().as_secs_f64();
    println!("idle: {share:.2} % of a core, over {seconds} s; memory {} KiB", memory());

    let begun = Instant::now();
    for spec in &specs {
        runtime.forget(&context(&logs), &spec.app).await.unwrap();
    }
    println!("all ended and removed after {:.1} s", begun.elapsed().as_secs_f64());
}
