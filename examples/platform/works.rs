//! All that only one process may do on a data folder: this is what an embedder writes.

use std::sync::Arc;
use std::time::Duration;

use paas::build::{DirectorySource, GitReceive, GitRepos, GitSource, ReceiveOptions, TarballSource};
use paas::run::logs::FileLogs;
use paas::store::SqliteStore;
use paas::vault::KeyFile;
use paas::{
    Cancel, CancelReason, Clock, DirBlobs, Engine, EngineOptions, Error, ErrorCode, Principal, PrincipalName,
    Result, Router, Tokens, Vault,
};
use tokio::task::JoinHandle;

use crate::machine::Machine;
use crate::platform::Site;

/// The engine and what it works with. Users' requests need none of it.
#[derive(Debug)]
pub(crate) struct Works {
    pub(crate) engine: Engine,
    machine: Machine,
    receive: GitReceive,
    stop: Cancel,
    /// Ends what orders certificates: of two processes on a folder only one writes.
    pub(crate) orders: Cancel,
    server: Option<JoinHandle<()>>,
}

impl Works {
    /// Opens the store, adopts what runs, and goes on with what is under way. No push is received yet.
    pub(crate) async fn open(
        site: &Site,
        router: Arc<dyn Router>,
        logs: Arc<FileLogs>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let data = site.folder.as_path();
        let blobs = Arc::new(DirBlobs::open(data.join("blobs"))?.with_clock(clock.clone()));
        let store = Arc::new(SqliteStore::open(data.join("paas.db"), clock.clone())?);
        let tokens = Tokens::new(store.clone()).allow_create();
        tokens.ensure(&owner().name, &site.token).await?;

        let machine = Machine::open(data, blobs.clone(), logs.clone(), clock.clone()).await?;
        // The machine's runtime has the folder for itself, so whoever holds a lease is dead.
        store.end_leases().await?;
        let repos = GitRepos::open(data.join("git"))?;
        let mut options = EngineOptions::default();
        options.domain = site.domain.clone();
        options.public_port = Some(site.http.port());
        options.work_dir = data.join("work");
        let engine = Engine::builder(store, machine.runtime(), router)
            .with_options(options)
            .with_vault(Vault::of_file(KeyFile::new(data.join("master.key")))?)
            .with_blobs(blobs)
            .with_logs(logs)
            .with_clock(clock)
            .with_access(Arc::new(tokens))
            .with_source(repos.source())
            .with_source(Arc::new(DirectorySource::new()))
            .with_source(Arc::new(TarballSource::new()))
            .with_source(Arc::new(GitSource::new()));
        let engine = machine.equip(engine).build()?;
        machine.resume().await?;
        engine.start().await?;
        // Until now whoever comes waits at the listeners, or is answered by the platform that is replaced.
        engine.routed().await;
        let receive = GitReceive::start(engine.clone(), repos, ReceiveOptions::default()).await?;
        Ok(Self { engine, machine, receive, stop: Cancel::new(), orders: Cancel::new(), server: None })
    }

    /// Receives pushes from now on.
    pub(crate) fn receive(&mut self, listener: tokio::net::TcpListener) {
        let (receive, stop) = (self.receive.clone(), self.stop.clone());
        self.server = Some(tokio::spawn(async move { receive.serve(listener, &stop).await }));
    }

    /// Ends it so that another process can go on at once: pushes may end within `patience`, what else is under way is
    /// given back, apps and databases run on.
    pub(crate) async fn let_go(self, patience: Duration) -> Result<()> {
        self.orders.cancel(CancelReason::Shutdown);
        self.receive.finish(patience).await;
        joined(self.server).await?;
        self.engine.shutdown().await;
        self.machine.let_go().await
    }

    /// Stops in order: no new pushes, the engine, then what it runs.
    pub(crate) async fn stop(self, keep_apps: bool) -> Result<()> {
        self.orders.cancel(CancelReason::Shutdown);
        self.receive.shutdown().await;
        self.engine.shutdown().await;
        let stopped = if keep_apps { Ok(()) } else { self.machine.stop().await };
        self.stop.cancel(CancelReason::Shutdown);
        joined(self.server).await.and(stopped)
    }
}

/// Waits for a server's end.
async fn joined(server: Option<JoinHandle<()>>) -> Result<()> {
    let Some(server) = server else { return Ok(()) };
    server.await.map_err(|e| Error::new(ErrorCode::Internal, "a server panicked").with_source(e))
}

/// Who owns the token.
fn owner() -> Principal {
    Principal::new(PrincipalName::new("owner").expect("a constant"))
}
