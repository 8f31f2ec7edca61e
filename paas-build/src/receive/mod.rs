//! `git push`: the endpoint that receives it, runs the deploy inside it and says how that went.
//!
//! ```text
//! git push --HTTP--> service --stdin--> git receive-pack
//!    ^                  |                   | objects in quarantine
//!    |               session            pre-receive = this binary, started again
//!    |                  |                   | socket
//!    +--- remote: ... --+--- door <---------+
//!                              |
//!                            deploy: archive -> Blobs -> Engine::deploy, in the app's turn -> log lines -> verdict
//! ```
//!
//! The deploy runs while git waits for its pre-receive hook: a push is accepted if and only if its release went
//! live. Of two pushes at once the second is refused before anything is built, since the app's turn is kept until git has
//! moved the branch.

mod body;
mod deploy;
mod door;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod git;
pub(crate) mod hook;
mod repos;
mod serve;
mod service;
mod session;
mod source;
mod transfer;
mod updates;
mod voice;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use paas_core::{Cancel, CancelReason, Engine, Error, ErrorCode, Result};
use paas_sandbox::Helper;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use body::ReceiveBody;
pub use repos::GitRepos;

use git::Git;
use session::{Places, Sessions};

/// What an embedder may set; every field has a default.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReceiveOptions {
    /// Branches that deploy; others are kept and say so.
    pub deploy_branches: Vec<String>,
    /// The most that one push may send, in bytes.
    pub max_push: u64,
    /// How long a push may take with its deploy.
    pub timeout: Duration,
    /// How many pushes and fetches of one principal may go on at once.
    pub at_once: usize,
    /// The binary that git starts as its hook; the current one where `None`. Its `main` must begin with
    /// [`init`](crate::init).
    pub helper: Option<Helper>,
}

impl Default for ReceiveOptions {
    /// `main` and `master`, 200 MiB, two hours, eight at once.
    fn default() -> Self {
        Self {
            deploy_branches: vec!["main".to_owned(), "master".to_owned()],
            max_push: 200 << 20,
            timeout: Duration::from_secs(2 * 3600),
            at_once: 8,
            helper: None,
        }
    }
}

impl ReceiveOptions {
    /// With this binary as the hook, for hosts that don't own `main` and for tests.
    #[must_use]
    pub fn with_helper(mut self, helper: Helper) -> Self {
        self.helper = Some(helper);
        self
    }
}

/// Receives `git push` over HTTP for the apps of an engine: a tower service that any server can mount, or a server of its
/// own with [`GitReceive::serve`].
///
/// An app's remote is `/APP.git`. Who pushes shows a token as the password of HTTP's Basic scheme; what they may do is
/// up to the engine's [`Access`](paas_core::Access). A push to an app that doesn't exist makes it, where that is
/// allowed. Clones are answered, too.
///
/// # Behavior
/// - A push to a deploy branch is accepted if and only if its release went live. Otherwise the branch stays, and the same
///   commit can be pushed again.
/// - The deploy's log reaches the pusher line by line.
/// - A pusher who goes away cancels the deploy; past the pivot it is finished, and the branch moves.
/// - Should git fail to move the branch to what is live, the release stands, and a push of that commit only moves the
///   branch.
///
/// ```no_run
/// # async fn run(builder: paas_core::EngineBuilder) -> paas_core::Result<()> {
/// use paas_build::{GitReceive, GitRepos, ReceiveOptions};
///
/// let repos = GitRepos::open("/srv/paas/git")?;
/// let engine = builder.with_source(repos.source()).build()?;
/// engine.start().await?;
/// let receive = GitReceive::start(engine, repos, ReceiveOptions::default()).await?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:7000").await.unwrap();
/// let stop = paas_core::Cancel::new();
/// receive.serve(listener, &stop).await;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct GitReceive {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) engine: Engine,
    pub(crate) repos: GitRepos,
    pub(crate) options: ReceiveOptions,
    /// The folder that holds the hook.
    pub(crate) hooks: PathBuf,
    pub(crate) sessions: Sessions,
    pub(crate) places: Places,
    pub(crate) stop: Cancel,
    pub(crate) tasks: TaskTracker,
    /// No more connections are accepted.
    pub(crate) finishing: CancellationToken,
    pub(crate) connections: TaskTracker,
    _door: DropGuard,
}

impl GitReceive {
    /// Prepares to receive pushes into these repositories. The engine must have [`GitRepos::source`] among its sources.
    ///
    /// What killed processes left half done is removed, and so are repositories of apps that are gone.
    ///
    /// # Errors
    /// `not_initialised` when [`init`](crate::init) never ran and no helper is named; `unavailable` without git;
    /// when the folder can't be written.
    pub async fn start(engine: Engine, repos: GitRepos, options: ReceiveOptions) -> Result<Self> {
        let helper = match &options.helper {
            Some(helper) => helper.clone(),
            None => Helper::current().map_err(|e| Error::new(ErrorCode::NotInitialised, e.to_string()))?,
        };
        let mut version = repos.git().command(repos.root());
        version.arg("--version");
        Git::output(version, "tell its version").await?;
        let apps: HashSet<_> = engine.apps().await?.into_iter().map(|app| app.id).collect();
        repos.sweep(&apps).map_err(|e| Error::from_io("can't clean up the folder of repositories", e))?;
        let hooks = door::hang_up(repos.root(), &helper)?;
        let listener = door::open(repos.root())?;
        let gone = CancellationToken::new();
        let inner = Arc::new(Inner {
            engine,
            repos,
            options,
            hooks,
            sessions: Sessions::default(),
            places: Places::default(),
            stop: Cancel::new(),
            tasks: TaskTracker::new(),
            finishing: CancellationToken::new(),
            connections: TaskTracker::new(),
            _door: gone.clone().drop_guard(),
        });
        tokio::spawn(door::keep(listener, Arc::downgrade(&inner), gone));
        Ok(Self { inner })
    }

    /// Accepts no more connections, lets the pushes and fetches under way end within `patience`, and then shuts down. For
    /// a platform that leaves its listener to another process, where whoever comes meanwhile waits.
    pub async fn finish(&self, patience: Duration) {
        let inner = &self.inner;
        inner.finishing.cancel();
        inner.connections.close();
        inner.tasks.close();
        let ended = async {
            inner.connections.wait().await;
            inner.tasks.wait().await;
        };
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::warn!("pushes didn't end in time and are cancelled");
        }
        self.shutdown().await;
    }

    /// Takes no more pushes, cancels the deploys of those under way and waits until git has ended. To be called before
    /// [`Engine::shutdown`], which waits for the turns that pushes keep.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel(CancelReason::Shutdown);
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}
