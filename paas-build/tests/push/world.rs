//! A platform over fakes that receives real pushes of the real git.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use paas_build::{GitReceive, GitRepos, ReceiveOptions};
use paas_core::store::{MemoryStore, Store};
use paas_core::testkit::world::TestPlatform;
use paas_core::{
    AppId, AppName, Artifact, ArtifactKind, BuildRequest, Builder, BuilderCapabilities, BuilderId, Cancel,
    CancelReason, Context, Detection, Engine, Error, ErrorCode, EventKind, PrincipalName, ProcessType,
    ProviderName, Result, Subject, SystemClock, Tokens, WorkflowState,
};
use paas_sandbox::Helper;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

/// Follows the file `script`: `say TEXT`, `wait` for the test, `fail`.
#[derive(Debug)]
pub(crate) struct ScriptBuilder {
    gate: Arc<Semaphore>,
}

#[async_trait]
impl Builder for ScriptBuilder {
    fn id(&self) -> BuilderId {
        BuilderId::new(ProviderName::new("script").unwrap(), "1")
    }

    fn capabilities(&self) -> BuilderCapabilities {
        BuilderCapabilities::full()
    }

    async fn detect(&self, _: &Context, request: &BuildRequest) -> Result<Detection> {
        let there = request.checkout.dir.join("script").exists();
        Ok(if there { Detection::Yes("Script".into()) } else { Detection::No(vec!["script".into()]) })
    }

    async fn build(&self, ctx: &Context, request: &BuildRequest) -> Result<Artifact> {
        let script = std::fs::read_to_string(request.checkout.dir.join("script")).unwrap();
        ctx.log.line("-----> Script app detected");
        let name = ProviderName::new("script").unwrap();
        let mut artifact =
            Artifact::new(ArtifactKind::Image, request.checkout.digest, 0, name, ctx.clock.now());
        artifact.processes.declare(ProcessType::web(), "serve");
        for line in script.lines() {
            match line.split_once(' ').unwrap_or((line, "")) {
                ("say", text) => ctx.log.line(format!("       {text}")),
                ("wait", _) => ctx.cancel.guard(self.gate.acquire()).await?.unwrap().forget(),
                ("release", command) => artifact.processes.declare(ProcessType::release(), command),
                ("fail", why) => {
                    let output = vec!["cc: no such file".to_owned(), "make: *** [all] Error 1".to_owned()];
                    return Err(Error::new(ErrorCode::BuildFailed, why).with_output(output));
                }
                _ => panic!("{line} is no line of a script"),
            }
        }
        Ok(artifact)
    }

    async fn forget(&self, _: &Context, _: AppId) -> Result<()> {
        Ok(())
    }
}

/// A platform, its endpoint and somebody's token.
pub(crate) struct Platform {
    pub(crate) fakes: TestPlatform,
    pub(crate) engine: Engine,
    pub(crate) receive: GitReceive,
    pub(crate) address: String,
    pub(crate) token: String,
    pub(crate) gate: Arc<Semaphore>,
    pub(crate) repos: GitRepos,
    stop: Cancel,
    served: Option<tokio::task::JoinHandle<()>>,
}

impl Platform {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(set: impl FnOnce(&mut ReceiveOptions)) -> Self {
        Self::open(memory(), true, set).await
    }

    /// On which only the owner makes apps.
    pub(crate) async fn start_without_create() -> Self {
        Self::open(memory(), false, |_| {}).await
    }

    pub(crate) fn options() -> ReceiveOptions {
        ReceiveOptions::default().with_helper(Helper::at(env!("CARGO_BIN_EXE_paas-build-helper")))
    }

    #[allow(dead_code, reason = "for measuring")]
    pub(crate) async fn start_on(store: Arc<dyn Store>) -> Self {
        Self::open(store, true, |_| {}).await
    }

    async fn open(store: Arc<dyn Store>, create: bool, set: impl FnOnce(&mut ReceiveOptions)) -> Self {
        let fakes = TestPlatform::new().unwrap();
        let clock = Arc::new(SystemClock::new());
        let gate = Arc::new(Semaphore::new(0));
        let repos = GitRepos::open(fakes.dir().join("git")).unwrap();
        let tokens = Tokens::new(store.clone());
        let tokens = if create { tokens.allow_create() } else { tokens };
        let token = tokens.issue(&PrincipalName::new("alice").unwrap()).await.unwrap();
        let engine = fakes
            .engine(store)
            .unwrap()
            .with_clock(clock)
            .with_access(Arc::new(tokens))
            .with_source(repos.source())
            .with_builder(Arc::new(ScriptBuilder { gate: gate.clone() }))
            .build()
            .unwrap();
        engine.start().await.unwrap();
        let mut options = Self::options();
        set(&mut options);
        let receive = GitReceive::start(engine.clone(), repos.clone(), options).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = Cancel::new();
        let served = {
            let (receive, stop) = (receive.clone(), stop.clone());
            tokio::spawn(async move { receive.serve(listener, &stop).await })
        };
        Self { fakes, engine, receive, address, token, gate, repos, stop, served: Some(served) }
    }

    /// Ends it in order.
    pub(crate) async fn end(mut self) {
        self.stop.cancel(CancelReason::Shutdown);
        self.served.take().unwrap().await.unwrap();
        self.engine.shutdown().await;
    }

    pub(crate) fn url(&self, app: &str) -> String {
        format!("http://git:{}@{}/{app}.git", self.token, self.address)
    }

    /// A work tree whose remote is this app.
    pub(crate) async fn work_tree(&self, name: &str, app: &str) -> WorkTree {
        let dir = self.fakes.dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let tree = WorkTree { dir };
        tree.git(&["init", "--quiet", "--initial-branch=main"]).await;
        tree.git(&["remote", "add", "paas", &self.url(app)]).await;
        tree
    }

    /// The only repository there is.
    pub(crate) fn repo(&self) -> PathBuf {
        let mut repos = std::fs::read_dir(self.fakes.dir().join("git")).unwrap().map(|e| e.unwrap().path());
        let found = repos.find(|path| path.extension().is_some_and(|end| end == "git"));
        found.unwrap()
    }

    /// Where a branch is.
    pub(crate) async fn branch(&self, name: &str) -> Option<String> {
        let mut git = git(&self.repo());
        git.args(["rev-parse", "--verify", "--quiet", &format!("refs/heads/{name}")]);
        let out = git.output().await.unwrap();
        out.status.success().then(|| String::from_utf8(out.stdout).unwrap().trim().to_owned())
    }

    /// The commits of the releases that went live, the newest first.
    pub(crate) async fn live(&self, app: &str) -> Vec<String> {
        let releases = self.engine.releases(&AppName::new(app).unwrap()).await.unwrap();
        let live = releases.into_iter().filter(|r| r.state == paas_core::ReleaseState::Succeeded);
        live.filter_map(|release| release.revision.id).collect()
    }

    /// Waits until nothing is under way.
    pub(crate) async fn at_rest(&self, app: &str) {
        let subject = Subject::App(AppName::new(app).unwrap());
        until("nothing is under way", async || {
            self.engine.open_workflows(&subject).await.unwrap().is_empty()
        })
        .await;
    }

    /// How workflows ended, in order.
    pub(crate) async fn ended(&self, app: &str) -> Vec<WorkflowState> {
        let app = AppName::new(app).unwrap();
        let events = self.engine.events(0, Some(&app), 10_000).await.unwrap();
        let ended = events.into_iter().filter_map(|event| match event.kind {
            EventKind::Ended { state, .. } => Some(state),
            _ => None,
        });
        ended.collect()
    }

    /// What git holds back from acceptance.
    pub(crate) fn quarantines(&self) -> Vec<PathBuf> {
        let objects = std::fs::read_dir(self.repo().join("objects")).unwrap().map(|e| e.unwrap().path());
        objects.filter(|path| path.to_string_lossy().contains("tmp_objdir-incoming-")).collect()
    }

    /// Makes git ask this shell script before it moves a branch.
    pub(crate) fn hook(&self, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let hook = self.fakes.dir().join("git/.hooks/reference-transaction");
        std::fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        hook
    }

    /// Kills the git processes of the only repository that do this.
    pub(crate) fn kill_git(&self, doing: &str) {
        let repo = self.repo();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let is_there = std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == repo);
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let does = String::from_utf8_lossy(&command).split('\0').any(|word| word == doing);
            let pid = process.file_name().to_str().and_then(|pid| pid.parse().ok());
            if let (true, true, Some(pid)) = (is_there, does, pid.and_then(rustix::process::Pid::from_raw)) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
        }
    }
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(Arc::new(SystemClock::new())))
}

/// Somebody's clone.
pub(crate) struct WorkTree {
    pub(crate) dir: PathBuf,
}

impl WorkTree {
    pub(crate) async fn git(&self, args: &[&str]) -> String {
        let out = self.try_git(args).await;
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "git {args:?}: {said}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    pub(crate) async fn try_git(&self, args: &[&str]) -> Output {
        git(&self.dir).args(args).output().await.unwrap()
    }

    /// Commits this script and returns the commit.
    pub(crate) async fn commit(&self, script: &str) -> String {
        std::fs::write(self.dir.join("script"), script).unwrap();
        self.git(&["add", "--all"]).await;
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "Change the script"]).await;
        self.git(&["rev-parse", "HEAD"]).await
    }

    /// Whether git says that the push was accepted, and all that it says.
    pub(crate) async fn push(&self, args: &[&str]) -> (bool, String) {
        self.push_to("paas", args).await
    }

    pub(crate) async fn push_to(&self, remote: &str, args: &[&str]) -> (bool, String) {
        let out = self.try_git(&[&["push", remote], args].concat()).await;
        (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// Content that can't be compressed.
    pub(crate) fn write_noise(&self, name: &str, bytes: usize) {
        let mut state = 88_172_645_463_325_252_u64;
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let noise: Vec<u8> = noise.take(bytes / 8).flatten().collect();
        std::fs::write(self.dir.join(name), noise).unwrap();
    }

    /// Begins a push.
    pub(crate) fn begin_push(&self, args: &[&str]) -> Push {
        let mut git = git(&self.dir);
        git.args(["push", "paas"]).args(args).stdout(Stdio::null()).stderr(Stdio::piped());
        // Ctrl-C on a terminal reaches git and its helpers alike.
        let mut child = git.process_group(0).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Push { child, lines, said: String::new() }
    }
}

/// A push under way.
pub(crate) struct Push {
    child: Child,
    lines: BufReader<tokio::process::ChildStderr>,
    said: String,
}

impl Push {
    /// Reads on until git says this.
    pub(crate) async fn until(&mut self, text: &str) {
        while !self.said.contains(text) {
            let read = self.lines.read_line(&mut self.said).await.unwrap();
            assert!(read > 0, "git ended without {text:?}: {}", self.said);
        }
    }

    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// As a person's Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process_group(pid, rustix::process::Signal::INT).unwrap();
    }

    pub(crate) async fn end(mut self) -> (bool, String) {
        while self.lines.read_line(&mut self.said).await.unwrap() > 0 {}
        (self.child.wait().await.unwrap().success(), self.said)
    }
}

/// A git that knows nothing of the machine's owner.
pub(crate) fn git(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(dir).env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    git.env("HOME", dir).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
    for who in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{who}_NAME"), "Alice").env(format!("GIT_{who}_EMAIL"), "alice@example.com");
    }
    git.kill_on_drop(true);
    git
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let wait = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait)
        .await
        .unwrap_or_else(|_| panic!("not in a minute: {what}"));
}
