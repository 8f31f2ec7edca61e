//! A server in a temporary folder.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use crate::{Error, ErrorCode, Result};

/// A PostgreSQL server that lives as long as this, reached over a socket in its own folder. Where this process is root
/// the server runs as the user `postgres`, since it refuses root.
#[derive(Debug)]
pub struct PostgresServer {
    folder: tempfile::TempDir,
    programs: PathBuf,
    user: Option<(u32, u32)>,
    syncs: bool,
    process: Mutex<Option<Child>>,
    schemas: AtomicU32,
}

impl PostgresServer {
    /// Sets one up and starts it, as it would run for real.
    ///
    /// # Errors
    /// `unavailable` where PostgreSQL isn't installed or doesn't start.
    pub async fn start() -> Result<Self> {
        Self::start_with(true).await
    }

    /// The same, but one that never waits for the disk: what it keeps outlives its death, but not the machine's.
    ///
    /// # Errors
    /// As [`PostgresServer::start`].
    pub async fn start_without_sync() -> Result<Self> {
        Self::start_with(false).await
    }

    /// One that never waits for the disk, shared by all tests of this process that run at the same time; `None`, said
    /// aloud, where PostgreSQL isn't installed.
    ///
    /// # Panics
    /// Where it can't be had although the environment has `CI`: there nothing is skipped.
    pub async fn shared() -> Option<Arc<Self>> {
        static SHARED: tokio::sync::Mutex<Weak<PostgresServer>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Self::own().await?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    /// The same, but for one test alone, which may kill it.
    ///
    /// # Panics
    /// As [`PostgresServer::shared`].
    pub async fn own() -> Option<Self> {
        match Self::start_without_sync().await {
            Ok(server) => Some(server),
            Err(e) => {
                assert!(std::env::var_os("CI").is_none(), "{e}");
                eprintln!("SKIPPED, it needs PostgreSQL: {e}");
                None
            }
        }
    }

    async fn start_with(syncs: bool) -> Result<Self> {
        let server = Self::make(syncs)?;
        let mut initdb = server.program("initdb");
        initdb.args(["-U", "paas", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"]);
        finish(initdb.arg(server.data()), "set up")?;
        server.restart().await?;
        Ok(server)
    }

    /// A standby of this server, which answers no commit any more before the standby has it on its disk, too.
    ///
    /// # Errors
    /// `unavailable` where it can't be set up or doesn't start.
    pub async fn standby(&self) -> Result<Self> {
        let standby = Self::make(self.syncs)?;
        let mut copy = self.program("pg_basebackup");
        copy.args(["-U", "paas", "--no-sync", "-c", "fast", "-R", "-h"]).arg(self.folder.path());
        finish(copy.arg("-D").arg(standby.data()), "copied")?;
        standby.restart().await?;
        self.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
        self.execute("SELECT pg_reload_conf()").await?;
        let follows = "SELECT 1 / count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        while self.execute(follows).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
        Ok(standby)
    }

    /// Makes a standby the server that is written to; it follows nobody any more.
    ///
    /// # Errors
    /// `unavailable`, or what the server refuses.
    pub async fn promote(&self) -> Result<()> {
        self.execute("SELECT pg_promote()").await
    }

    /// Where stores find whichever of the two can be written to.
    pub fn url_with(&self, other: &Self) -> String {
        format!("postgres://paas@{},{}/postgres?target_session_attrs=read-write", self.host(), other.host())
    }

    fn host(&self) -> String {
        self.folder.path().to_string_lossy().replace('/', "%2F")
    }

    fn make(syncs: bool) -> Result<Self> {
        let programs = programs().ok_or_else(|| {
            unavailable("PostgreSQL is not installed: `apt-get install postgresql` gives its programs")
        })?;
        let user = account()?;
        let made = tempfile::Builder::new().prefix("paas-pg-").tempdir();
        let folder = made.map_err(|e| Error::from_io("can't make a folder for PostgreSQL", e))?;
        if let Some((uid, gid)) = user {
            let given = chown(folder.path(), Some(uid), Some(gid));
            given.map_err(|e| Error::from_io("can't give PostgreSQL its folder", e))?;
        }
        let (process, schemas) = (Mutex::default(), AtomicU32::new(0));
        Ok(Self { folder, programs, user, syncs, process, schemas })
    }

    /// Starts it again after [`PostgresServer::kill`], and waits until it answers.
    ///
    /// # Errors
    /// `unavailable` with what it said last.
    pub async fn restart(&self) -> Result<()> {
        for _ in 0..1200 {
            if !self.runs()? {
                self.spawn()?;
            }
            if self.client().await.is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(25)).await;
        }
        let said = fs::read_to_string(self.log()).unwrap_or_default();
        Err(unavailable(format!("PostgreSQL doesn't start: {said}")))
    }

    fn spawn(&self) -> Result<()> {
        let failed = |e| Error::from_io("can't start PostgreSQL", e);
        let log = File::options().create(true).append(true).open(self.log()).map_err(failed)?;
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path());
        command.args(["-c", "listen_addresses="]);
        if !self.syncs {
            command.args(["-c", "fsync=off"]);
        }
        let child = command.stdout(log.try_clone().map_err(failed)?).stderr(log).spawn().map_err(failed)?;
        *self.process() = Some(child);
        Ok(())
    }

    /// Kills its main process with SIGKILL; the others notice and end.
    ///
    /// # Errors
    /// `internal` when it can't be killed.
    pub fn kill(&self) -> Result<()> {
        if let Some(mut child) = self.process().take() {
            let killed = child.kill().and_then(|()| child.wait());
            killed.map_err(|e| Error::from_io("can't kill PostgreSQL", e))?;
        }
        Ok(())
    }

    /// Where stores find it.
    pub fn url(&self) -> String {
        format!("postgres://paas@{}/postgres", self.host())
    }

    /// A name for a schema that nobody has yet.
    pub fn new_schema(&self) -> String {
        format!("s{}_{}", std::process::id(), self.schemas.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs SQL as the server's own administrator.
    ///
    /// # Errors
    /// `unavailable`, or what the server refuses.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        Ok(self.client().await?.batch_execute(sql).await?)
    }

    pub(super) async fn client(&self) -> Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await?;
        // Ends with the client; whoever waits for an answer is told by their own call.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    fn runs(&self) -> Result<bool> {
        let mut process = self.process();
        let Some(child) = process.as_mut() else { return Ok(false) };
        let ended = child.try_wait().map_err(|e| Error::from_io("can't look after PostgreSQL", e))?;
        Ok(ended.is_none())
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// One of its programs, as its user and in its own folder.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.folder.path()).env_clear().env("LC_ALL", "C").stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.process().take() {
            // It takes its other processes with it; where even that fails, killing it makes them notice.
            let stop = self
                .program("pg_ctl")
                .args(["stop", "-s", "-m", "immediate", "-D"])
                .arg(self.data())
                .status();
            if !stop.is_ok_and(|status| status.success()) {
                // It may have ended by itself.
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }
}

fn finish(command: &mut Command, what: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| Error::from_io(format!("can't run {program}"), e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(unavailable(format!("PostgreSQL can't be {what}: {said}")))
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Unavailable, message)
}

/// The newest installed version's programs.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|entry| entry.path()).collect();
    let number = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    versions.sort_by_key(number);
    folders.extend(versions.into_iter().rev().map(|version| version.join("bin")));
    let whole = |folder: &PathBuf| {
        ["initdb", "postgres", "pg_ctl", "pg_basebackup"].iter().all(|name| folder.join(name).is_file())
    };
    folders.into_iter().find(whole)
}

/// User and group that the server runs as where we are root.
fn account() -> Result<Option<(u32, u32)>> {
    let ours = fs::metadata("/proc/self").map_err(|e| Error::from_io("can't tell who we are", e))?;
    if ours.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string(Path::new("/etc/passwd"));
    let users = users.map_err(|e| Error::from_io("can't read the machine's users", e))?;
    let entry = users.lines().find_map(|line| line.strip_prefix("postgres:"));
    let ids = entry.and_then(|entry| {
        let mut fields = entry.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    ids.map(Some)
        .ok_or_else(|| unavailable("PostgreSQL refuses to run as root, and there is no user `postgres`"))
}
