//! Puts the parts together: this is what an embedder writes.

use std::net::SocketAddr;
use std::sync::Arc;

use paas::addons::postgres::{Postgres, PostgresServer};
use paas::build::{
    BuildpackBuilder, BuildpackConfig, DirectorySource, GitReceive, GitRepos, GitSource, ReceiveOptions,
    TarballSource,
};
use paas::run::logs::{FileLogs, LogBounds};
use paas::run::process::{ProcessConfig, ProcessRuntime};
use paas::run::proxy::{Proxy, ProxyConfig};
use paas::sandbox::Helper;
use paas::store::SqliteStore;
use paas::vault::MasterKey;
use paas::{
    AppName, Cancel, CancelReason, Clock, DirBlobs, DomainName, Engine, EngineOptions, Error, ErrorCode,
    Principal, PrincipalName, Result, SystemClock, Tokens, Vault,
};

use crate::folder::{Folder, Ports, listen};
use crate::options::Options;

/// A platform that runs.
pub(crate) struct Platform {
    pub(crate) engine: Engine,
    pub(crate) folder: Folder,
    pub(crate) token: String,
    pub(crate) git: SocketAddr,
    http: SocketAddr,
    domain: DomainName,
    runtime: Arc<ProcessRuntime>,
    postgres: PostgresServer,
    receive: GitReceive,
    stop: Cancel,
    servers: Vec<tokio::task::JoinHandle<()>>,
}

impl Platform {
    pub(crate) async fn start(options: &Options) -> Result<Self> {
        let folder = Folder::take(&options.data)?;
        let (token, last) = (folder.token()?, folder.ports());
        let http_listener = listen(options.http, last.http, 5080).await?;
        let git_listener = listen(options.git, last.git, 5081).await?;
        let address = |listener: &tokio::net::TcpListener| {
            listener.local_addr().map_err(|e| Error::from_io("a listener has no address", e))
        };
        let (http, git) = (address(&http_listener)?, address(&git_listener)?);
        folder.keep_ports(Ports { http: Some(http.port()), git: Some(git.port()) })?;

        let data = folder.path.as_path();
        let helper = Helper::current().map_err(|e| Error::new(ErrorCode::NotInitialised, e.to_string()))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let logs = Arc::new(FileLogs::open(data.join("logs"), LogBounds::default())?);
        let blobs = Arc::new(DirBlobs::open(data.join("blobs"))?.with_clock(clock.clone()));
        let store = Arc::new(SqliteStore::open(data.join("paas.db"), clock.clone())?);
        let tokens = Tokens::new(store.clone()).allow_create();
        tokens.ensure(&owner().name, &token).await?;

        let process =
            ProcessConfig::new(data.join("run"), blobs.clone(), logs.clone(), clock.clone(), helper.clone());
        let runtime = Arc::new(ProcessRuntime::open(process).await?);
        for missing in runtime.missing() {
            eprintln!(" !     This machine can't isolate apps fully: {missing}");
        }
        let proxy = Proxy::new(ProxyConfig::default(), logs.clone(), clock.clone());
        let buildpacks = BuildpackConfig::new(data.join("build"), blobs.clone(), helper).hiding(data);
        let postgres = PostgresServer::managed(data.join("postgres"));
        let repos = GitRepos::open(data.join("git"))?;
        let mut engine_options = EngineOptions::default();
        engine_options.domain = options.domain.clone();
        engine_options.public_port = Some(http.port());
        engine_options.work_dir = data.join("work");
        let engine = Engine::builder(store, runtime.clone(), Arc::new(proxy.clone()))
            .with_options(engine_options)
            .with_vault(Vault::new(MasterKey::open_or_create(data.join("master.key"))?))
            .with_blobs(blobs)
            .with_logs(logs)
            .with_clock(clock)
            .with_access(Arc::new(tokens))
            .with_source(repos.source())
            .with_source(Arc::new(DirectorySource::new()))
            .with_source(Arc::new(TarballSource::new()))
            .with_source(Arc::new(GitSource::new()))
            .with_builder(Arc::new(BuildpackBuilder::open(buildpacks).await?))
            .with_addon(Arc::new(Postgres::new(postgres.clone())))
            .build()?;
        postgres.resume().await?;
        engine.start().await?;
        // Until now whoever comes waits at the listeners.
        engine.routed().await;
        let receive = GitReceive::start(engine.clone(), repos, ReceiveOptions::default()).await?;

        let stop = Cancel::new();
        let servers = vec![
            tokio::spawn({
                let stop = stop.clone();
                async move {
                    if let Err(error) = proxy.serve(http_listener, stop).await {
                        eprintln!(" !     The router ended: {error}");
                    }
                }
            }),
            tokio::spawn({
                let (receive, stop) = (receive.clone(), stop.clone());
                async move { receive.serve(git_listener, &stop).await }
            }),
        ];
        let domain = options.domain.clone();
        Ok(Self { engine, folder, token, git, http, domain, runtime, postgres, receive, stop, servers })
    }

    /// What a program that started us reads.
    pub(crate) fn ready(&self) -> serde_json::Value {
        serde_json::json!({
            "router": format!("http://{}", self.http),
            "git": format!("http://{}", self.git),
            "token": self.token,
            "domain": self.domain,
        })
    }

    /// What a person reads.
    pub(crate) async fn explain(&self) {
        let live = match self.engine.apps().await {
            Ok(apps) => apps.into_iter().filter(|app| app.live.is_some()).map(|app| app.name).collect(),
            Err(_) => Vec::<AppName>::new(),
        };
        println!("\n       Your platform is up.\n");
        for url in live.iter().filter_map(|app| self.engine.url(app).ok()) {
            println!("       {url}");
        }
        println!("\n       Push your own app, from its folder:");
        println!("         git push http://paas:{}@{}/my-app.git HEAD:main", self.token, self.git);
        println!("\n       Everything is kept in {}", self.folder.path.display());
        println!("       Ctrl-C stops it.");
    }

    /// Stops in order: no new pushes, no new requests, the engine, then what it runs.
    pub(crate) async fn stop(self, keep_apps: bool) -> Result<()> {
        self.receive.shutdown().await;
        self.engine.shutdown().await;
        if !keep_apps {
            self.runtime.stop_all().await;
        }
        self.stop.cancel(CancelReason::Shutdown);
        for server in self.servers {
            server.await.map_err(|e| Error::new(ErrorCode::Internal, "a server panicked").with_source(e))?;
        }
        if !keep_apps {
            self.postgres.stop().await?;
        }
        Ok(())
    }
}

/// Who owns the token.
pub(crate) fn owner() -> Principal {
    Principal::new(PrincipalName::new("owner").expect("a constant"))
}
