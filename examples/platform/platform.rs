//! A platform that runs: what users reach, and behind it the works.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use paas::run::handover::{Door, Predecessor};
use paas::run::logs::{FileLogs, LogBounds};
use paas::run::proxy::tls::{Authority, Certificates};
use paas::run::proxy::{Metrics, Proxy};
use paas::{
    AppName, Cancel, CancelReason, Clock, DomainName, Engine, Error, ErrorCode, Result, Router, SteadyClock,
    SystemClock,
};
use tokio::task::JoinHandle;

use crate::certificates;
use crate::folder::{Folder, Ports, Socket};
use crate::options::Options;
use crate::works::Works;

/// Where it is, and who may push.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) folder: PathBuf,
    pub(crate) token: String,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) git: SocketAddr,
    pub(crate) metrics: Option<SocketAddr>,
    /// Whoever trusts this certificate trusts what `https` says.
    pub(crate) ca: PathBuf,
    pub(crate) domain: DomainName,
}

/// A platform that runs.
pub(crate) struct Platform {
    pub(crate) site: Site,
    pub(crate) folder: Folder,
    pub(crate) sockets: Sockets,
    pub(crate) proxy: Proxy,
    /// The proxy, and for a while that of the platform that this one replaced.
    pub(crate) router: Arc<dyn Router>,
    /// The platform that this one replaced.
    pub(crate) before: Option<Predecessor>,
    /// None when they could not be taken back from a process that wanted to replace this one.
    pub(crate) works: Option<Works>,
    pub(crate) door: Door,
    pub(crate) stop: Cancel,
    /// Ends what Prometheus reads: of two processes one tells.
    pub(crate) silence: Cancel,
    pub(crate) server: JoinHandle<()>,
    logs: Arc<FileLogs>,
    clock: Arc<dyn Clock>,
}

/// Where connections arrive.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) http: Socket,
    pub(crate) https: Socket,
    pub(crate) git: Socket,
    pub(crate) metrics: Option<Socket>,
}

impl Platform {
    /// Starts it, in place of the one that runs where that is asked for.
    pub(crate) async fn start(options: &Options) -> Result<Self> {
        let running = if options.replace { Predecessor::ask(&options.data).await? } else { None };
        let Some(mut before) = running else {
            if options.replace {
                eprintln!("-----> No platform runs on {}: starting one", options.data.display());
            }
            let folder = Folder::take(&options.data)?;
            let last = folder.ports();
            let http = Socket::open(options.http, last.http, 5080)?;
            let https = Socket::open(options.https, last.https, 5443)?;
            let git = Socket::open(options.git, last.git, 5081)?;
            let metrics = options.metrics.map(Socket::bind).transpose()?;
            return Self::open(options, folder, Sockets { http, https, git, metrics }, None).await;
        };
        eprintln!("-----> Taking over from process {}", before.pid());
        let https = match before.file("https") {
            Some(file) => Socket::inherit(file, options.https)?,
            // It is from before there was HTTPS.
            None => Socket::open(options.https, None, 5443)?,
        };
        let metrics = match before.file("metrics") {
            Some(file) => Some(Socket::inherit(file, options.metrics)?),
            None => options.metrics.map(Socket::bind).transpose()?,
        };
        let mut file = |name: &str| {
            let what = format!("the platform that runs has no {name} to hand over");
            before.file(name).ok_or_else(|| Error::new(ErrorCode::Unsupported, what))
        };
        let folder = Folder::share(&options.data, file("lock")?)?;
        let http = Socket::inherit(file("http")?, options.http)?;
        let git = Socket::inherit(file("git")?, options.git)?;
        Self::open(options, folder, Sockets { http, https, git, metrics }, Some(before)).await
    }

    async fn open(
        options: &Options,
        folder: Folder,
        sockets: Sockets,
        mut before: Option<Predecessor>,
    ) -> Result<Self> {
        let Sockets { http, https, git, metrics } = &sockets;
        let metrics = metrics.as_ref().map(|socket| socket.address);
        let (http, https, git) = (http.address, https.address, git.address);
        let ports = [http, https, git].map(|address| Some(address.port()));
        folder.keep_ports(Ports { http: ports[0], https: ports[1], git: ports[2] })?;
        let tls = folder.path.join("tls");
        let authority = Authority::open(&tls, Arc::new(SystemClock::new()))?;
        let (token, domain) = (folder.token()?, options.domain.clone());
        let ca = authority.certificate().to_owned();
        let site = Site { folder: folder.path.clone(), token, http, https, git, metrics, ca, domain };
        let clock: Arc<dyn Clock> = Arc::new(SteadyClock::new());
        let logs = Arc::new(FileLogs::open(site.folder.join("logs"), LogBounds::default())?);
        let mut config = options.proxy();
        config.https_port = https.port();
        let proxy = Proxy::new(config, logs.clone(), Arc::new(SystemClock::new()));

        let (router, mut works) = match &mut before {
            None => {
                let router: Arc<dyn Router> = Arc::new(proxy.clone());
                let works = Works::open(&site, router.clone(), logs.clone(), clock.clone()).await?;
                (router, works)
            }
            Some(before) => {
                let routes = before.let_go().await?;
                eprintln!("-----> It has let go: opening {}", site.folder.display());
                proxy.adopt(&routes)?;
                let router = before.router(Arc::new(proxy.clone()));
                let works = Works::open(&site, router.clone(), logs.clone(), clock.clone()).await?;
                eprintln!("-----> Ready to serve");
                before.serving().await?;
                folder.sign()?;
                (router, works)
            }
        };
        let (stop, silence) = (Cancel::new(), Cancel::new());
        let certificates =
            certificates::open(&works.engine, authority, options.acme.as_ref(), &works.orders).await?;
        let server = serve(&proxy, &sockets, certificates, [&stop, &silence])?;
        works.receive(sockets.git.serve()?);
        let door = Door::open(&site.folder)?;
        let works = Some(works);
        Ok(Self {
            site,
            folder,
            sockets,
            proxy,
            router,
            before,
            works,
            door,
            stop,
            silence,
            server,
            logs,
            clock,
        })
    }

    /// Opens the works again after they were let go.
    async fn reopen(&mut self) -> Result<()> {
        let (logs, clock) = (self.logs.clone(), self.clock.clone());
        let mut works = Works::open(&self.site, self.router.clone(), logs, clock).await?;
        works.receive(self.sockets.git.serve()?);
        self.works = Some(works);
        Ok(())
    }

    /// Tries to, and says why it can't.
    pub(crate) async fn try_reopen(&mut self) {
        if let Err(error) = self.reopen().await {
            eprintln!(" !     Apps are served, but nothing can be deployed; trying again: {error}");
        }
    }

    pub(crate) fn engine(&self) -> Option<Engine> {
        self.works.as_ref().map(|works| works.engine.clone())
    }

    /// What a program that started us reads.
    pub(crate) fn ready(&self) -> serde_json::Value {
        let mut ready = serde_json::json!({
            "router": format!("http://{}", self.site.http),
            "https": format!("https://{}", self.site.https),
            "ca": self.site.ca,
            "git": format!("http://{}", self.site.git),
            "token": self.site.token,
            "domain": self.site.domain,
        });
        if let Some(at) = self.site.metrics {
            ready["metrics"] = format!("http://{at}/metrics").into();
        }
        ready
    }

    /// Stops in order: no new pushes, the engine, what it runs, and then no new requests.
    pub(crate) async fn stop(self, keep_apps: bool) -> Result<()> {
        let stopped = match self.works {
            Some(works) => works.stop(keep_apps).await,
            None => Ok(()),
        };
        drop(self.sockets);
        self.stop.cancel(CancelReason::Shutdown);
        self.silence.cancel(CancelReason::Shutdown);
        let served = joined(self.server.await);
        stopped.and(served)
    }
}

/// How the router ended.
pub(crate) fn joined(ended: Result<(), tokio::task::JoinError>) -> Result<()> {
    ended.map_err(|e| Error::new(ErrorCode::Internal, "the router panicked").with_source(e))
}

/// Answers users until the router is stopped or left to another process.
fn serve(
    proxy: &Proxy,
    sockets: &Sockets,
    certificates: Arc<dyn Certificates>,
    [stop, silence]: [&Cancel; 2],
) -> Result<JoinHandle<()>> {
    let (proxy, stop, silence) = (proxy.clone(), stop.clone(), silence.clone());
    let (http, https) = (sockets.http.serve()?, sockets.https.serve()?);
    let page = sockets.metrics.as_ref().map(Socket::serve).transpose()?;
    Ok(tokio::spawn(async move {
        let metrics = async {
            if let Some(page) = page {
                Metrics::of([proxy.clone()]).serve(page, silence).await;
            }
        };
        let (http, https) =
            (proxy.serve(http, stop.clone()), proxy.serve_tls(https, certificates, stop.clone()));
        let ended = tokio::join!(http, https, metrics);
        for error in [ended.0, ended.1].into_iter().filter_map(Result::err) {
            eprintln!(" !     The router ended: {error}");
        }
    }))
}

impl Site {
    /// What a person reads.
    pub(crate) async fn explain(&self, engine: &Engine) {
        let live = match engine.apps().await {
            Ok(apps) => apps.into_iter().filter(|app| app.live.is_some()).map(|app| app.name).collect(),
            Err(_) => Vec::<AppName>::new(),
        };
        println!("\n       Your platform is up.\n");
        for url in live.iter().filter_map(|app| engine.url(app).ok()) {
            println!("       {url}");
        }
        for app in &live {
            println!("       https://{app}.{}:{}/", self.domain, self.https.port());
        }
        println!(
            "\n       Programs believe the https ones once they trust this platform's authority. On Debian:"
        );
        println!(
            "         sudo install -m 644 {} /usr/local/share/ca-certificates/paas.crt && sudo update-ca-certificates",
            self.ca.display()
        );
        println!("\n       Push your own app, from its folder:");
        println!("         git push http://paas:{}@{}/my-app.git HEAD:main", self.token, self.git);
        println!("\n       Everything is kept in {}", self.folder.display());
        println!("       Ctrl-C stops it.");
    }
}
