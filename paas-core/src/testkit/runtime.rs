//! Whether a [`Runtime`] keeps its promises: run [`conformance`] on yours.
//!
//! Everything is seen from outside: through the trait, the app's log, and files or sockets of the processes
//! themselves. What a runtime doesn't claim in its [`RuntimeCapabilities`](crate::RuntimeCapabilities) isn't asked of it.

#![allow(
    clippy::unwrap_used,
    clippy::match_wild_err_arm,
    clippy::manual_assert,
    reason = "a suite ends by panicking"
)]

mod attach;
mod volume;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::{
    AppId, AppName, Artifact, Cancel, CancelReason, Clock, ConfigVars, Context, ErrorCode, HealthCheck,
    IdempotencyKey, Instance, InstanceState, LogQuery, LogSource, LogWriter, Logs, ProcessSpec, ProcessType,
    ReleaseId, RunSpec, Runtime, SystemClock, Version, WorkflowId,
};

/// What an implementer supplies.
#[async_trait]
pub trait RuntimeWorld: fmt::Debug + Send + Sync {
    /// The runtime as an engine that starts would open it. The one before is dropped, as if its engine had been
    /// killed, and everything it kept is still there.
    async fn open(&self) -> Arc<dyn Runtime>;

    /// An artifact whose folder, in which commands run, holds these files by name: shell scripts without the right
    /// to be executed.
    async fn artifact(&self, files: &[(&str, &str)]) -> Artifact;

    /// A command line that listens on `$PORT` and answers any HTTP request by 200 and the text `hello`.
    fn listen(&self) -> String;

    /// Where the runtime writes logs.
    fn logs(&self) -> Arc<dyn Logs>;
}

/// How long anything may take; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks everything of the runtime that its docs promise. Panics with what is not so.
pub async fn conformance(world: &dyn RuntimeWorld) {
    instances_come_up_and_answer_and_go(world).await;
    the_same_spec_again_changes_nothing(world).await;
    quantity_goes_up_and_down(world).await;
    another_environment_replaces_them(world).await;
    releases_and_apps_do_not_touch_each_other(world).await;
    a_crash_is_restarted_at_once_and_then_rests(world).await;
    who_never_listens_is_late(world).await;
    other_types_are_up_once_they_have_settled(world).await;
    the_environment_is_its_own(world).await;
    retiring_and_forgetting_what_is_not_there_is_fine(world).await;
    let able = world.open().await.capabilities();
    if able.run_once {
        a_command_runs_once_per_key(world).await;
        a_command_is_cancelled_and_times_out(world).await;
    }
    if able.survives_engine {
        instances_survive_the_engine_and_are_adopted(world).await;
    }
    if able.survives_engine && able.run_once {
        a_command_goes_on_without_an_engine(world).await;
    }
    if able.volumes {
        volume::outlives_releases_and_goes_with_the_app(world).await;
    } else {
        volume::is_refused(world).await;
    }
    if able.attach {
        attach::conformance(world).await;
    } else {
        attach::is_refused(world).await;
    }
}

/// An app of its own for one question.
struct Subject<'a> {
    world: &'a dyn RuntimeWorld,
    /// `None` while no engine runs.
    engine: Option<Arc<dyn Runtime>>,
    app: (AppName, AppId),
    artifact: Artifact,
}

impl<'a> Subject<'a> {
    async fn new(world: &'a dyn RuntimeWorld, name: &str, files: &[(&str, &str)]) -> Self {
        let app = (name.parse().unwrap(), AppId::new());
        Self { world, engine: Some(world.open().await), app, artifact: world.artifact(files).await }
    }

    /// Another app on the same runtime.
    fn neighbour(&self, name: &str) -> Self {
        let (engine, artifact) = (self.engine.clone(), self.artifact.clone());
        Self { world: self.world, engine, app: (name.parse().unwrap(), AppId::new()), artifact }
    }

    fn runtime(&self) -> &dyn Runtime {
        self.engine.as_deref().expect("an engine runs")
    }

    fn spec(&self, process: &str, command: &str) -> ProcessSpec {
        let health = HealthCheck { settle: Duration::from_millis(50), ..HealthCheck::default() };
        ProcessSpec::new(
            self.app.clone(),
            (ReleaseId::new(), Version::FIRST),
            process.parse().unwrap(),
            command,
            self.artifact.clone(),
        )
        .with_health(health)
        .with_grace(Duration::from_secs(20))
    }

    fn web(&self) -> ProcessSpec {
        self.spec("web", &self.world.listen())
    }

    fn ctx(&self) -> Context {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let log = LogWriter::new(
            self.world.logs(),
            Arc::clone(&clock),
            self.app.0.clone(),
            LogSource::Platform,
            "test",
        );
        let key = IdempotencyKey::new(WorkflowId::new(), "start".parse().unwrap());
        Context::new(key, Cancel::new(), clock, log)
    }

    async fn ensure(&self, spec: &ProcessSpec) {
        self.runtime().ensure(&self.ctx(), spec).await.unwrap();
    }

    async fn instances(&self) -> Vec<Instance> {
        self.runtime().observe(&self.app.0).await.unwrap()
    }

    /// Waits until the instances are as they should be; being told of changes, not only by looking often.
    async fn until(&self, what: &str, so: impl Fn(&[Instance]) -> bool) -> Vec<Instance> {
        let mut changes = self.runtime().watch();
        let reached = async {
            loop {
                let instances = self.instances().await;
                if so(&instances) {
                    return instances;
                }
                tokio::select! {
                    change = changes.next() => assert!(change.is_some(), "watch has ended"),
                    () = sleep(Duration::from_secs(1)) => {}
                }
            }
        };
        match timeout(PATIENCE, reached).await {
            Ok(instances) => instances,
            Err(_) => panic!("{what}: {:#?}", self.instances().await),
        }
    }

    async fn all_up(&self, count: usize) -> Vec<Instance> {
        self.until(&format!("{count} up"), |all| {
            all.len() == count && all.iter().all(|one| one.state == InstanceState::Up)
        })
        .await
    }

    /// What the app's own processes said.
    async fn lines(&self) -> Vec<String> {
        let lines = self.world.logs().read(&self.app.0, LogQuery::all()).await.unwrap();
        let lines = lines.filter(|line| std::future::ready(line.source == LogSource::App));
        lines.map(|line| line.text).collect().await
    }

    async fn line(&self, wanted: &str) {
        let seen = async {
            while !self.lines().await.iter().any(|line| line.contains(wanted)) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(PATIENCE, seen).await.is_err() {
            panic!("no line says {wanted:?}: {:#?}", self.lines().await);
        }
    }

    /// The engine is killed, and another one starts.
    async fn crash(&mut self) {
        self.engine = None;
        self.engine = Some(self.world.open().await);
    }

    async fn forget(&self) {
        self.runtime().forget(&self.ctx(), &self.app.0).await.unwrap();
        assert_eq!(self.instances().await, [], "forgotten instances are shown");
        assert!(!self.runtime().apps().await.unwrap().contains(&self.app.0));
    }
}

/// What identifies the very same processes.
fn identity(instances: &[Instance]) -> BTreeSet<String> {
    instances.iter().map(|one| format!("{} {} {:?}", one.name, one.started_at, one.metadata)).collect()
}

async fn answer(instance: &Instance) -> String {
    let address = instance.address.expect("an instance that is up has an address");
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("an instance that is up accepts");
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn instances_come_up_and_answer_and_go(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-serve", &[]).await;
    let spec = subject.web().with_quantity(2);
    subject.ensure(&spec).await;
    let up = subject.all_up(2).await;
    for instance in &up {
        assert!(answer(instance).await.contains("hello"));
        assert_eq!((instance.release, instance.restarts), (spec.release, 0));
    }
    assert_ne!(up[0].address, up[1].address);
    assert!(subject.runtime().apps().await.unwrap().contains(&subject.app.0));
    subject.ensure(&spec.with_quantity(0)).await;
    assert_eq!(subject.instances().await, [], "quantity 0 returned before all had ended");
    let refused = tokio::net::TcpStream::connect(up[0].address.unwrap()).await;
    assert!(refused.is_err(), "a retired instance still accepts");
    subject.forget().await;
}

async fn the_same_spec_again_changes_nothing(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-again", &[]).await;
    let spec = subject.web();
    subject.ensure(&spec).await;
    let first = subject.all_up(1).await;
    subject.ensure(&spec).await;
    subject.ensure(&spec).await;
    assert_eq!(identity(&subject.all_up(1).await), identity(&first));
    subject.forget().await;
}

async fn quantity_goes_up_and_down(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-scale", &[]).await;
    let spec = subject.spec("worker", "while :; do sleep 0.1; done");
    subject.ensure(&spec.clone().with_quantity(3)).await;
    let three = subject.all_up(3).await;
    subject.ensure(&spec.clone().with_quantity(1)).await;
    let one = subject.all_up(1).await;
    assert_eq!(identity(&one), identity(&three[..1]), "the highest indexes go first");
    subject.ensure(&spec.with_quantity(2)).await;
    assert_eq!(identity(&subject.all_up(2).await[..1]), identity(&one));
    subject.forget().await;
}

async fn another_environment_replaces_them(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-env", &[]).await;
    let spec = subject.spec("worker", "echo color is $COLOR; while :; do sleep 0.1; done");
    subject.ensure(&spec.clone().with_env(ConfigVars::new().with("COLOR", "blue-green").unwrap())).await;
    let first = subject.all_up(1).await;
    subject.ensure(&spec.with_env(ConfigVars::new().with("COLOR", "red-orange").unwrap())).await;
    let replaced = |all: &[Instance]| {
        all.len() == 1 && all[0].state == InstanceState::Up && identity(all) != identity(&first)
    };
    subject.until("replaced", replaced).await;
    subject.line("color is red-orange").await;
    subject.forget().await;
}

async fn releases_and_apps_do_not_touch_each_other(world: &dyn RuntimeWorld) {
    let old = Subject::new(world, "conf-apart", &[]).await;
    let near = old.neighbour("conf-apart-too");
    let (first, second, neighbour) = (old.web(), old.web(), near.web());
    old.ensure(&first).await;
    near.ensure(&neighbour).await;
    let (before, beside) = (old.all_up(1).await, near.all_up(1).await);
    old.ensure(&second).await;
    let both = old.all_up(2).await;
    assert!(identity(&both).is_superset(&identity(&before)), "a new release touched the old one");
    old.runtime().retire(&old.ctx(), &old.app.0, first.release).await.unwrap();
    let left = old.instances().await;
    assert_eq!(left.iter().map(|one| one.release).collect::<Vec<_>>(), [second.release]);
    old.forget().await;
    assert_eq!(identity(&near.all_up(1).await), identity(&beside), "forgetting an app touched another");
    near.forget().await;
}

async fn a_crash_is_restarted_at_once_and_then_rests(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-crash", &[]).await;
    subject.ensure(&subject.spec("worker", "echo going down; exit 3")).await;
    let crashed = |all: &[Instance]| all.len() == 1 && all[0].restarts > 0 && all[0].last_exit.is_some();
    let seen = subject.until("restarted", crashed).await;
    assert_eq!(seen[0].last_exit.as_ref().map(|exit| exit.status), Some(3));
    // One that is up again is not to be blamed any more.
    let told = seen[0].reason.is_some() || seen[0].state == InstanceState::Up;
    assert!(told, "a restart hides why it crashed: {seen:#?}");
    subject.until("resting", |all| all[0].state == InstanceState::Crashed && all[0].reason.is_some()).await;
    subject.line("going down").await;
    subject.forget().await;
}

async fn who_never_listens_is_late(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-late", &[]).await;
    let mut spec = subject.spec("web", "while :; do sleep 0.1; done");
    spec.health.timeout = Duration::from_millis(300);
    subject.ensure(&spec).await;
    let late = |all: &[Instance]| {
        all.iter().any(|one| one.reason.as_ref().is_some_and(|reason| reason.contains("R10")))
    };
    let seen = subject.until("R10", late).await;
    assert_eq!(seen[0].address, None);
    subject.forget().await;
}

async fn other_types_are_up_once_they_have_settled(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-settle", &[]).await;
    let mut spec = subject.spec("worker", "while :; do sleep 0.1; done");
    spec.health.settle = Duration::from_secs(3600);
    subject.ensure(&spec).await;
    assert_eq!(subject.instances().await[0].state, InstanceState::Starting);
    subject.forget().await;
}

async fn the_environment_is_its_own(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-own", &[("say.sh", "echo \"file $DYNO\"; env")]).await;
    let env = ConfigVars::new().with("GIVEN", "one\ntwo $HOME `id`").unwrap();
    subject.ensure(&subject.spec("worker", "bash say.sh; while :; do sleep 0.1; done").with_env(env)).await;
    subject.all_up(1).await;
    subject.line("file worker.1").await;
    subject.line("GIVEN=one").await;
    subject.line("two $HOME `id`").await;
    let own: BTreeSet<String> = std::env::vars().map(|(key, _)| key).collect();
    for key in own.iter().filter(|key| key.starts_with("CARGO") || key.starts_with("NEXTEST")) {
        let leaked = subject.lines().await.iter().any(|line| line.starts_with(&format!("{key}=")));
        assert!(!leaked, "{key} of the engine is in the process's environment");
    }
    subject.forget().await;
}

async fn retiring_and_forgetting_what_is_not_there_is_fine(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-nothing", &[]).await;
    subject.runtime().retire(&subject.ctx(), &subject.app.0, ReleaseId::new()).await.unwrap();
    subject.ensure(&subject.web().with_quantity(0)).await;
    subject.forget().await;
    subject.forget().await;
}

async fn a_command_runs_once_per_key(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-once", &[]).await;
    let command = "echo ran with $SECRET_KEY; exit 5";
    let env = ConfigVars::new().with("SECRET_KEY", "canary-0c9d21").unwrap();
    let spec = RunSpec::new(subject.spec("release", command).with_env(env));
    let ctx = subject.ctx();
    let first = subject.runtime().run_once(&ctx, &spec).await.unwrap();
    assert_eq!(first.status, 5);
    assert_eq!(first.output.last().map(String::as_str), Some("ran with [redacted]"));
    assert_eq!(subject.runtime().run_once(&ctx, &spec).await.unwrap(), first);
    subject.said_times("ran with", 1).await;
    let again = subject.runtime().run_once(&subject.ctx(), &spec).await.unwrap();
    assert_eq!(again.status, 5);
    subject.said_times("ran with", 2).await;
    assert_eq!(subject.instances().await, [], "a command is no instance");
    subject.forget().await;
}

async fn a_command_is_cancelled_and_times_out(world: &dyn RuntimeWorld) {
    let subject = Subject::new(world, "conf-cancel", &[]).await;
    let spec = RunSpec::new(subject.spec("release", "echo begun; while :; do sleep 0.1; done"));
    let ctx = subject.ctx();
    let run = subject.runtime().run_once(&ctx, &spec);
    let (error, ()) = tokio::join!(run, async {
        subject.line("begun").await;
        ctx.cancel.cancel(CancelReason::User);
    });
    assert_eq!(error.unwrap_err().code(), ErrorCode::Cancelled);
    let short = spec.with_timeout(Duration::from_millis(300));
    let error = subject.runtime().run_once(&subject.ctx(), &short).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Timeout);
    subject.forget().await;
}

async fn instances_survive_the_engine_and_are_adopted(world: &dyn RuntimeWorld) {
    let mut subject = Subject::new(world, "conf-adopt", &[]).await;
    let (web, worker) = (subject.web().with_quantity(2), "while :; do sleep 0.1; done");
    let mut worker = subject.spec("worker", worker);
    worker.release = web.release;
    subject.ensure(&web).await;
    subject.ensure(&worker).await;
    let before = subject.all_up(3).await;
    subject.crash().await;
    let after = subject.all_up(3).await;
    assert_eq!(identity(&after), identity(&before), "adopted instances are the same processes");
    for instance in after.iter().filter(|one| one.name.process == ProcessType::web()) {
        assert!(answer(instance).await.contains("hello"));
    }
    subject.ensure(&web).await;
    subject.ensure(&worker).await;
    assert_eq!(
        identity(&subject.all_up(3).await),
        identity(&before),
        "ensure doubled or replaced what was adopted"
    );
    subject.ensure(&web.with_quantity(1)).await;
    subject.all_up(2).await;
    subject.forget().await;
}

async fn a_command_goes_on_without_an_engine(world: &dyn RuntimeWorld) {
    let mut subject = Subject::new(world, "conf-resume", &[]).await;
    let spec = RunSpec::new(subject.spec("release", "echo begun; sleep 0.3; echo done; exit 4"));
    let ctx = subject.ctx();
    {
        let run = subject.runtime().run_once(&ctx, &spec);
        tokio::select! {
            ended = run => panic!("it ended before it was to be left alone: {ended:?}"),
            () = subject.line("begun") => {}
        }
    }
    subject.crash().await;
    assert_eq!(subject.runtime().run_once(&ctx, &spec).await.unwrap().status, 4);
    subject.said_times("begun", 1).await;
    subject.forget().await;
}

impl Subject<'_> {
    /// So many lines of the log begin like this, and no more come.
    async fn said_times(&self, start: &str, count: usize) {
        self.line(start).await;
        let lines = self.lines().await;
        assert_eq!(lines.iter().filter(|line| line.starts_with(start)).count(), count, "{lines:#?}");
    }
}
