//! Orders for the runtime, and waiting for what they bring about.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use paas_core::{
    AppId, Artifact, Cancel, Clock, Context, HealthCheck, IdempotencyKey, Instance, InstanceState, LogQuery,
    LogSource, LogWriter, Logs, ProcessSpec, ReleaseId, Runtime, SystemClock, Version, WorkflowId,
};
use paas_run::process::ProcessRuntime;
use paas_sandbox::procfs::Stat;
use tokio::time::{sleep, timeout};

use crate::world::{World, slug};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A command that does nothing until it is told to end.
pub(crate) const IDLE: &str = "while :; do sleep 0.1; done";

pub(crate) fn ctx(world: &World) -> Context {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let logs = Arc::clone(&world.logs) as _;
    let log = LogWriter::new(logs, Arc::clone(&clock), "test".parse().unwrap(), LogSource::Platform, "test");
    Context::new(IdempotencyKey::new(WorkflowId::new(), "start".parse().unwrap()), Cancel::new(), clock, log)
}

pub(crate) fn spec(app: &str, process: &str, command: &str, artifact: &Artifact) -> ProcessSpec {
    let mut health = HealthCheck::default();
    health.settle = Duration::from_millis(20);
    ProcessSpec::new(
        (app.parse().unwrap(), AppId::new()),
        (ReleaseId::new(), Version::FIRST),
        process.parse().unwrap(),
        command,
        artifact.clone(),
    )
    .with_health(health)
    .with_grace(Duration::from_secs(20))
}

pub(crate) async fn empty(world: &World) -> Artifact {
    slug(&*world.blobs, world.dir.path(), &[]).await
}

pub(crate) async fn open(world: &World) -> ProcessRuntime {
    world.runtime().await
}

pub(crate) async fn until(
    runtime: &dyn Runtime,
    app: &str,
    so: impl Fn(&[Instance]) -> bool,
) -> Vec<Instance> {
    let app = app.parse().unwrap();
    let reached = async {
        loop {
            let seen = runtime.observe(&app).await.unwrap();
            if so(&seen) {
                return seen;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    match timeout(PATIENCE, reached).await {
        Ok(seen) => seen,
        Err(_elapsed) => panic!("not so: {:#?}", runtime.observe(&app).await.unwrap()),
    }
}

pub(crate) async fn up(runtime: &dyn Runtime, app: &str, count: usize) -> Vec<Instance> {
    until(runtime, app, |all| all.len() == count && all.iter().all(|one| one.state == InstanceState::Up))
        .await
}

pub(crate) async fn lines(world: &World, app: &str) -> Vec<String> {
    let read = world.logs.read(&app.parse().unwrap(), LogQuery::all()).await.unwrap();
    read.map(|line| line.text).collect().await
}

pub(crate) async fn line(world: &World, app: &str, wanted: &str) -> String {
    let found = async {
        loop {
            // The line that names the command holds everything that the command says.
            let mut said =
                lines(world, app).await.into_iter().filter(|line| !line.starts_with("Starting process"));
            if let Some(found) = said.find(|line| line.contains(wanted)) {
                return found;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    match timeout(PATIENCE, found).await {
        Ok(found) => found,
        Err(_elapsed) => panic!("no line says {wanted:?}: {:#?}", lines(world, app).await),
    }
}

pub(crate) fn alive(pid: u32) -> bool {
    Stat::of(pid).is_some_and(|stat| !stat.ended())
}

pub(crate) fn pid_of(instance: &Instance, which: &str) -> u32 {
    instance.metadata[which].parse().unwrap()
}
