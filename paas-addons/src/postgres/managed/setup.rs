//! Makes the data folder and its configuration.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use paas_core::{Error, ErrorCode, Result, Retry};
use tokio::process::Command;
use uuid::Uuid;

use super::account::Account;
use super::binaries::Binaries;
use super::folder::{self, Folder};
use super::tls;
use crate::postgres::PasswordKey;

/// The platform's own role: reaches the server through its private socket only.
pub(super) const ADMIN: &str = "paas";

/// What the server's user sees as the `server` folder, wherever it lies: see [`command`].
pub(super) const SERVER: &str = "/proc/self/fd/3";

/// A program of PostgreSQL as this user, with the `server` folder as its descriptor 3.
///
/// The platform's data folder is closed to the server's user, and so may be the folders above it; through the
/// descriptor the user needs no way to it. The shell text is a constant that moves the descriptor out of
/// stdin's place and becomes the program; everything else is arguments.
pub(super) fn command(program: &Path, server: &fs::File, account: Option<Account>) -> io::Result<Command> {
    let server: OwnedFd = server.try_clone()?.into();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "exec \"$@\" 3<&0 </dev/null", "sh"]).arg(program);
    command.stdin(server).current_dir("/").env_clear();
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C");
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

/// Removes what an attempt left. Its `initdb` may still be writing there, and ends by itself in seconds.
async fn remove(path: &Path) -> io::Result<()> {
    for _ in 0..500 {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        match removed {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(io::ErrorKind::DirectoryNotEmpty.into())
}

/// Makes the data folder aside and puts it in place once it is whole and on disk.
pub(super) async fn init(
    folder: &Folder,
    binaries: &Binaries,
    server: &fs::File,
    account: Option<Account>,
    key: &PasswordKey,
) -> Result<()> {
    // Whatever else lies here is of an attempt that died.
    let leftovers = fs::read_dir(folder.server()).map_err(|e| folder.io("read", e))?;
    for entry in leftovers.flatten() {
        remove(&entry.path()).await.map_err(|e| folder.io("clean up", e))?;
    }
    let id = Uuid::new_v4().simple();
    let (data, password) = (format!("data-{id}"), format!("password-{id}"));
    let password_file = folder.server().join(&password);
    folder::write(&password_file, key.own_password().as_bytes(), account)
        .map_err(|e| folder.io("write to", e))?;
    let program = binaries.folder.join("initdb");
    let mut initdb = command(&program, server, account).map_err(|e| folder.io("use", e))?;
    initdb.arg(format!("--pgdata={SERVER}/{data}")).arg(format!("--pwfile={SERVER}/{password}"));
    initdb.arg(format!("--username={ADMIN}")).args([
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        // By code point: no upgrade of the C library ever changes the order that indexes rely on.
        "--locale=C.UTF-8",
        "--data-checksums",
    ]);
    let output = initdb.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await;
    let output = output.map_err(|e| Error::from_io(format!("can't run {}", program.display()), e))?;
    fs::remove_file(&password_file).map_err(|e| folder.io("clean up", e))?;
    if !output.status.success() {
        let lines = [output.stdout, output.stderr].concat();
        let lines: Vec<_> = String::from_utf8_lossy(&lines).lines().map(str::to_owned).collect();
        return Err(failed("initdb could not make the database folder", folder, &lines));
    }
    let made = folder.server().join(data);
    configure(&made, None, false, account).map_err(|e| folder.io("configure", e))?;
    fs::rename(&made, folder.data()).and_then(|()| server.sync_all()).map_err(|e| folder.io("finish", e))
}

/// Writes the configuration: ours to change with every version of the platform, so it is written at every start.
pub(super) fn configure(
    data: &Path,
    port: Option<u16>,
    tls: bool,
    account: Option<Account>,
) -> io::Result<()> {
    folder::write(&data.join("pg_hba.conf"), HBA.as_bytes(), account)?;
    let port = port.map(|port| format!("port = {port}\n")).unwrap_or_default();
    let tls = if tls { tls::SETTINGS } else { "" };
    let settings = format!("{SETTINGS}{tls}{port}{LOCAL}");
    folder::write(&data.join("postgresql.conf"), settings.as_bytes(), account)
}

/// Apps come over loopback with a password. The platform's own role comes through the socket, which only it and
/// the server's user can reach: whoever takes the port while the server is down never hears its password.
const HBA: &str = "# Written by paas at every start.
local  all  paas                scram-sha-256
host   all  paas  all           reject
host   all  all   127.0.0.1/32  scram-sha-256
";

const SETTINGS: &str = "# Written by paas at every start: put your own settings into local.conf beside it.
listen_addresses = '127.0.0.1'
unix_socket_directories = '.'
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'
authentication_timeout = 10s
max_connections = 200
superuser_reserved_connections = 10
tcp_keepalives_idle = 60

# Cheap when idle; memory is touched only as it is used.
shared_buffers = 64MB
max_logical_replication_workers = 0
autovacuum_max_workers = 2
min_wal_size = 32MB
max_wal_size = 512MB
huge_pages = off
jit = off

# One app's query must not fill the disk of all.
temp_file_limit = 2GB

# What the server itself has to say. Apps' failing statements hold apps' data: they are told to the app alone.
logging_collector = off
log_min_messages = log
log_min_error_statement = panic
log_checkpoints = off
log_line_prefix = '%m [%p] '
log_timezone = 'UTC'
timezone = 'UTC'
lc_messages = 'C'
default_text_search_config = 'pg_catalog.english'
";

const LOCAL: &str = "include_if_exists = 'local.conf'\n";

/// The server or its setup failed with these last words.
pub(super) fn failed(what: &str, folder: &Folder, words: &[String]) -> Error {
    let full = words.iter().any(|line| line.contains("No space left on device"));
    let (code, retry, hint) = if full {
        (ErrorCode::DiskFull, Retry::Never, "the disk is full; make room there")
    } else {
        (ErrorCode::Unavailable, Retry::Backoff, "what it said last tells why")
    };
    let words = words[words.len().saturating_sub(15)..].to_vec();
    let message = format!("{what}, in {}: {hint}", folder.root().display());
    Error::new(code, message).with_output(words).with_retry(retry)
}
