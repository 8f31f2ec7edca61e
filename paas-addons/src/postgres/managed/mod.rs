//! A server that the platform sets up, starts and looks after.
//!
//! ```text
//!  connect ── knock on the private socket ── answered ──────────────> log in
//!                     │                                                 ^
//!                  refused ── lock ── knock ── initdb once ── start ────┘
//!                              (one engine at a time)
//! ```

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use paas_core::Result;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::server::Endpoint;
use super::{PasswordKey, error, server};

mod account;
mod binaries;
pub(super) mod folder;
mod postmaster;
mod setup;
mod start;
pub(super) mod tls;
mod watch;

use binaries::Binaries;
use folder::Folder;
use postmaster::Postmaster;
use watch::Watch;

/// Recovery after a crash reads what was written since the last checkpoint: at most `max_wal_size`.
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// How the platform runs a server of its own.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ManagedOptions {
    /// The user that the server runs as where the platform is root; `postgres` if none is named. It must
    /// have an account on the machine.
    pub run_as: Option<String>,
    /// The folder with `initdb` and `postgres`; by default the newest version found on `PATH` and in the
    /// folders where distributions keep their versions.
    pub binaries: Option<PathBuf>,
}

impl ManagedOptions {
    /// Runs the server as this user.
    #[must_use]
    pub fn run_as(mut self, user: impl Into<String>) -> Self {
        self.run_as = Some(user.into());
        self
    }

    /// Uses the programs in this folder.
    #[must_use]
    pub fn binaries(mut self, folder: impl Into<PathBuf>) -> Self {
        self.binaries = Some(folder.into());
        self
    }
}

/// The server, while somebody holds it; it goes on when nobody does.
pub(super) struct Managed {
    shared: Arc<Shared>,
    watch: Mutex<Option<Watch>>,
}

/// What the one who watches the server has in common with those who use it.
pub(super) struct Shared {
    folder: Folder,
    options: ManagedOptions,
    /// Whoever sets up, starts or stops, in this process; between processes the folder's lock decides.
    turn: tokio::sync::Mutex<()>,
    /// It was stopped on purpose.
    stopped: AtomicBool,
    /// The databases of PostgreSQL itself are closed to everybody.
    closed: AtomicBool,
    /// The programs, once they were found.
    found: OnceLock<Binaries>,
    /// The `server` folder.
    open: OnceLock<fs::File>,
    key: OnceLock<PasswordKey>,
    port: OnceLock<u16>,
}

impl Managed {
    pub(super) fn new(root: PathBuf, options: ManagedOptions) -> Self {
        let shared = Shared {
            folder: Folder::new(std::path::absolute(&root).unwrap_or(root)),
            options,
            turn: tokio::sync::Mutex::default(),
            stopped: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            found: OnceLock::new(),
            open: OnceLock::new(),
            key: OnceLock::new(),
            port: OnceLock::new(),
        };
        Self { shared: Arc::new(shared), watch: Mutex::default() }
    }

    pub(super) fn exists(&self) -> bool {
        // A folder that can't be read is no empty one: whoever uses it next is told.
        self.shared.folder.version().map_or(true, |version| version.is_some())
    }

    pub(super) async fn missing(&self) -> Option<String> {
        let shared = &self.shared;
        let found = async {
            shared.binaries().await?;
            account::choose(&shared.folder.data(), shared.options.run_as.as_deref())
        };
        found.await.err().map(|e| e.to_string())
    }

    pub(super) fn key(&self) -> Result<PasswordKey> {
        self.shared.key()
    }

    pub(super) async fn resume(&self) -> Result<()> {
        if self.exists() { self.connect(None).await.map(drop) } else { Ok(()) }
    }

    pub(super) async fn endpoint(&self) -> Result<Endpoint> {
        if self.shared.port()?.is_none() {
            self.connect(None).await?;
        }
        let port =
            self.shared.port()?.ok_or_else(|| error::unavailable("the database server has no port yet"))?;
        Ok(Endpoint { host: Ipv4Addr::LOCALHOST.to_string(), port })
    }

    pub(super) async fn connect(&self, database: Option<&str>) -> Result<Client> {
        let shared = &self.shared;
        shared.stopped.store(false, Ordering::SeqCst);
        let mut client = shared.log_in(database).await?;
        if client.is_none() {
            Shared::start(shared).await?;
            client = shared.log_in(database).await?;
        }
        let ended = || error::unavailable("the database server ended as soon as it had started");
        let client = client.ok_or_else(ended)?;
        if !shared.closed.load(Ordering::SeqCst) {
            // One engine at a time: the server refuses two that change the same privileges at once.
            let close = "BEGIN; SELECT pg_advisory_xact_lock(0);
                REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC; COMMIT";
            let closed = client.batch_execute(close).await;
            closed.map_err(|e| error::sql("can't close the server's own databases", e))?;
            shared.closed.store(true, Ordering::SeqCst);
        }
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.as_ref().is_none_or(Watch::is_over) {
            *watch = Some(Watch::start(shared.clone()));
        }
        Ok(client)
    }

    pub(super) async fn stop(&self) -> Result<()> {
        let shared = &self.shared;
        shared.stopped.store(true, Ordering::SeqCst);
        let _turn = shared.turn.lock().await;
        if !self.exists() {
            return Ok(());
        }
        let _lock = shared.folder.lock().await?;
        let Some(postmaster) = shared.postmaster().await? else { return Ok(()) };
        let failed = |e| shared.folder.io("stop the server in", e);
        postmaster.stop().map_err(failed)?;
        if timeout(STOP_LIMIT, postmaster.ended()).await.is_err() {
            tracing::warn!("the database server didn't end in time and is cut off; its next start recovers");
            postmaster.abort().map_err(failed)?;
            let ended = timeout(STOP_LIMIT, postmaster.ended()).await;
            ended
                .map_err(|_| {
                    error::unavailable(format!(
                        "the database server, process {}, doesn't end",
                        postmaster.pid
                    ))
                })?
                .map_err(failed)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Managed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresServer::managed({})", self.shared.folder.root().display())
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn key(&self) -> Result<PasswordKey> {
        if let Some(key) = self.key.get() {
            return Ok(key.clone());
        }
        self.folder.make()?;
        let key = PasswordKey::open(&self.folder.key())?;
        Ok(self.key.get_or_init(|| key).clone())
    }

    fn port(&self) -> Result<Option<u16>> {
        if self.port.get().is_none()
            && let Some(port) = self.folder.port()?
        {
            return Ok(Some(*self.port.get_or_init(|| port)));
        }
        Ok(self.port.get().copied())
    }

    fn server(&self) -> Result<Option<&fs::File>> {
        if self.open.get().is_none() && self.folder.server().exists() {
            let open = fs::File::open(self.folder.server()).map_err(|e| self.folder.io("open", e))?;
            return Ok(Some(self.open.get_or_init(|| open)));
        }
        Ok(self.open.get())
    }

    async fn postmaster(&self) -> Result<Option<Postmaster>> {
        let (Some(server), Some(port)) = (self.server()?, self.port()?) else { return Ok(None) };
        Postmaster::find(server, port).await.map_err(|e| self.folder.io("find the server of", e))
    }

    /// The programs for this folder: of the version that made its data, or the newest.
    async fn binaries(&self) -> Result<Binaries> {
        let version = self.folder.version().map_err(|e| self.folder.io("read", e))?;
        if let Some(found) = self.found.get().filter(|found| found.suits(version.as_deref())) {
            return Ok(found.clone());
        }
        let mut installed = binaries::installed(self.options.binaries.as_deref()).await;
        let chosen = match version {
            Some(version) => installed.into_iter().rfind(|b| b.suits(Some(&version))).ok_or_else(|| {
                error::unavailable(format!(
                    "the databases in {} were made by PostgreSQL {version}, which is not installed: `apt-get install postgresql-{version}`",
                    self.folder.root().display()
                ))
            }),
            None => installed.pop().ok_or_else(|| {
                error::unavailable(
                    "PostgreSQL 13 or newer is not installed: `apt-get install postgresql` or your system's package of that name",
                )
            }),
        }?;
        Ok(self.found.get_or_init(|| chosen).clone())
    }

    /// A session, if the server runs; waits while it recovers.
    async fn log_in(&self, database: Option<&str>) -> Result<Option<Client>> {
        let (Some(server), Some(port)) = (self.server()?, self.port()?) else { return Ok(None) };
        self.log_in_at(server, port, database).await
    }

    async fn log_in_at(
        &self,
        server: &fs::File,
        port: u16,
        database: Option<&str>,
    ) -> Result<Option<Client>> {
        let mut config = Config::new();
        config.user(setup::ADMIN).password(self.key()?.own_password().as_bytes());
        config.dbname(database.unwrap_or("postgres")).application_name("paas");
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let knocked = postmaster::knock(server, port).await;
            let Some(stream) = knocked.map_err(|e| self.folder.io("reach the server in", e))? else {
                return Ok(None);
            };
            match config.connect_raw(stream, NoTls).await {
                Ok((client, connection)) => return server::admin(client, connection).await.map(Some),
                Err(e) if e.code() == Some(&SqlState::CANNOT_CONNECT_NOW) && Instant::now() < deadline => {
                    sleep(POLL).await;
                }
                // It died in the middle of the greeting.
                Err(e)
                    if e.code().is_none()
                        && postmaster::knock(server, port).await.is_ok_and(|s| s.is_none()) =>
                {
                    return Ok(None);
                }
                Err(e) => return Err(error::sql("can't log in to the database server", e)),
            }
        }
    }
}
