//! A server of a test's own, and an app that uses what it was bound with.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use paas_addons::postgres::{PasswordKey, Postgres, PostgresServer};
use paas_core::testkit::addon::Probe;
use paas_core::{
    AddonId, AddonProvider, AddonStatus, AppName, BindRequest, Cancel, ConfigKey, ConfigVars, Context, Error,
    ErrorCode, IdempotencyKey, LogLine, LogQuery, LogSource, LogWriter, Logs, PlanName, ProvisionRequest,
    Result, StepName, SystemClock, WorkflowId,
};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// A managed server in a folder of its own, which is gone when the test ends, however it ends.
#[derive(Debug)]
pub(crate) struct TestServer {
    pub(crate) folder: TempDir,
    pub(crate) provider: Postgres,
}

impl TestServer {
    /// `None`, said aloud, where PostgreSQL isn't installed; there CI fails.
    pub(crate) async fn start() -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("paas-postgres-").tempdir().unwrap();
        let provider = Postgres::new(PostgresServer::managed(folder.path().join("postgres")));
        if let Some(why) = provider.catalog().await.unavailable {
            assert!(std::env::var_os("CI").is_none(), "{why}");
            eprintln!("SKIPPED, it needs PostgreSQL: {why}");
            return None;
        }
        Some(Self { folder, provider })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("postgres")
    }

    /// Another engine's view of the same server.
    pub(crate) fn another(&self) -> Postgres {
        Postgres::new(PostgresServer::managed(self.path()))
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        main_process(&self.path())
    }

    /// A superuser's session, for looking at what the provider did.
    pub(crate) async fn admin(&self) -> Client {
        // Its password is the platform's secret, so the test lets itself in as an operator would.
        self.sql_alone("CREATE ROLE test_admin SUPERUSER LOGIN PASSWORD 'test'");
        connect(&self.admin_url().await).await.unwrap()
    }

    pub(crate) async fn admin_url(&self) -> String {
        let port = std::fs::read_to_string(self.path().join("port")).unwrap();
        format!("postgres://test_admin:test@127.0.0.1:{}/postgres", port.trim())
    }

    /// Runs SQL as the operator of this machine: over the private socket, with the derived password.
    fn sql_alone(&self, sql: &str) {
        let port = std::fs::read_to_string(self.path().join("port")).unwrap();
        let password = own_password(&self.path());
        // psql may be absent where the server is not: use the driver, in a thread with a runtime of its own.
        let host = self.path().join("server/data");
        let (sql, port) = (sql.to_owned(), port.trim().parse().unwrap());
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let mut config = tokio_postgres::Config::new();
                config.host_path(host).port(port).user("paas").password(password).dbname("postgres");
                let (client, connection) = config.connect(NoTls).await.unwrap();
                let connection = tokio::spawn(connection);
                client.batch_execute(&sql).await.unwrap();
                drop(client);
                connection.await.unwrap().unwrap();
            });
        };
        std::thread::spawn(run).join().unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            // It may have ended since.
            let _ = kill(pid, Signal::SIGQUIT);
        }
    }
}

/// The same derivation as the product's, written down a second time: it must never change by accident.
fn own_password(folder: &Path) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let hex = std::fs::read_to_string(folder.join("key")).unwrap();
    let key: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(b"paas postgres server\0");
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The main process of the server in this folder, if it lives.
pub(crate) fn main_process(folder: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(folder.join("server/data/postmaster.pid")).ok()?;
    let pid = text.lines().next()?.parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit_once(") ")?.1.chars().next()?;
    (state != 'Z').then_some(Pid::from_raw(pid))
}

pub(crate) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub(crate) fn url(vars: &ConfigVars) -> String {
    vars.iter().next().unwrap().1.expose().to_owned()
}

pub(crate) async fn provision(provider: &Postgres, addon: AddonId) -> Result<AddonStatus> {
    provider.provision(&context().0, &request(addon)).await
}

pub(crate) async fn bind(provider: &Postgres, addon: AddonId) -> Result<ConfigVars> {
    let attachment = ConfigKey::new("DATABASE").unwrap();
    provider.bind(&context().0, &BindRequest::new(addon, app(), attachment)).await
}

/// An add-on that is ready, and its URL.
pub(crate) async fn database(provider: &Postgres) -> (AddonId, String) {
    let addon = AddonId::new();
    assert_eq!(provision(provider, addon).await.unwrap(), AddonStatus::Ready);
    (addon, url(&bind(provider, addon).await.unwrap()))
}

pub(crate) fn name(addon: AddonId) -> String {
    format!("paas_{}", addon.uuid().simple())
}

pub(crate) fn request(addon: AddonId) -> ProvisionRequest {
    ProvisionRequest::new(addon, PlanName::new("shared").unwrap(), app())
}

fn app() -> AppName {
    AppName::new("hello").unwrap()
}

/// A call's context and what was said in it.
pub(crate) fn context() -> (Context, Arc<Heard>) {
    let (clock, heard) = (Arc::new(SystemClock::new()), Arc::new(Heard::default()));
    let key = IdempotencyKey::new(WorkflowId::new(), StepName::new("provision").unwrap());
    let log = LogWriter::new(heard.clone(), clock.clone(), app(), LogSource::Platform, "addon");
    (Context::new(key, Cancel::new(), clock, log), heard)
}

#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Vec<String>>);

impl Heard {
    pub(crate) fn all(&self) -> String {
        self.0.lock().unwrap().join("\n")
    }
}

#[async_trait]
impl Logs for Heard {
    fn append(&self, _app: &AppName, line: LogLine) {
        self.0.lock().unwrap().push(line.to_string());
    }

    async fn read(&self, _app: &AppName, _query: LogQuery) -> Result<BoxStream<'static, LogLine>> {
        Ok(stream::empty().boxed())
    }

    async fn forget(&self, _app: &AppName) -> Result<()> {
        Ok(())
    }
}

/// An app that keeps notes in a table.
#[derive(Debug)]
pub(crate) struct Notes;

impl Notes {
    async fn open(vars: &ConfigVars) -> Result<Client> {
        let client = connect(&url(vars)).await.map_err(no_access)?;
        let table = "CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, note text)";
        client.batch_execute(table).await.map_err(no_access)?;
        Ok(client)
    }
}

#[async_trait]
impl Probe for Notes {
    async fn write(&self, vars: &ConfigVars, note: &str) -> Result<()> {
        let client = Self::open(vars).await?;
        let written = client.execute("INSERT INTO notes (note) VALUES ($1)", &[&note]).await;
        written.map(drop).map_err(no_access)
    }

    async fn read(&self, vars: &ConfigVars) -> Result<Vec<String>> {
        let client = Self::open(vars).await?;
        let rows = client.query("SELECT note FROM notes ORDER BY id", &[]).await.map_err(no_access)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn hold(&self, vars: &ConfigVars) -> Result<Box<dyn Any + Send>> {
        Ok(Box::new(Self::open(vars).await?))
    }
}

fn no_access(error: tokio_postgres::Error) -> Error {
    Error::new(ErrorCode::Unavailable, "no access").with_source(error)
}

pub(crate) fn password_key() -> PasswordKey {
    PasswordKey::new([7; 32])
}
