//! The server's process.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::gate::{self, Faults, S3Fault};
use crate::{ConfigValue, Error, ErrorCode, Result, S3Options};

const ACCESS_KEY: &str = "paas-tests";
/// The bucket that every server has.
const BUCKET: &str = "platform";

/// An object store that lives as long as this, with one bucket, and its objects in a temporary folder.
pub struct S3Server {
    folder: tempfile::TempDir,
    address: SocketAddr,
    secret: String,
    faults: Faults,
    process: Mutex<Child>,
    stop: CancellationToken,
}

impl S3Server {
    /// Starts one; `None`, said aloud, where s3s-fs isn't installed.
    ///
    /// # Panics
    /// Where it can't be had although the environment has `CI`: there nothing is skipped.
    pub async fn own() -> Option<Self> {
        match Self::start().await {
            Ok(server) => Some(server),
            Err(e) => {
                assert!(std::env::var_os("CI").is_none(), "{e}");
                eprintln!("SKIPPED, it needs an object store: {e}");
                None
            }
        }
    }

    /// Starts one.
    ///
    /// # Errors
    /// `unavailable` where it isn't installed or doesn't start.
    pub async fn start() -> Result<Self> {
        let program = program().ok_or_else(|| {
            unavailable("s3s-fs is not installed: `cargo xtask test` installs it, and says by which command")
        })?;
        let made = tempfile::Builder::new().prefix("paas-s3-").tempdir();
        let folder = made.map_err(|e| Error::from_io("can't make a folder for the object store", e))?;
        let bucket = std::fs::create_dir(folder.path().join(BUCKET));
        bucket.map_err(|e| Error::from_io("can't make a bucket", e))?;
        let secret = uuid::Uuid::new_v4().simple().to_string();
        let (process, server) = spawn(&program, folder.path(), &secret).await?;
        let process = Mutex::new(process);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.map_err(|e| Error::from_io("can't listen", e))?;
        let address = listener.local_addr().map_err(|e| Error::from_io("can't listen", e))?;
        let (faults, stop) = (Faults::default(), CancellationToken::new());
        tokio::spawn(gate::keep(listener, server, faults.clone(), stop.clone()));
        Ok(Self { folder, address, secret, faults, process, stop })
    }

    /// The options to reach it, below this prefix.
    pub fn options(&self, prefix: &str) -> S3Options {
        let secret = ConfigValue::new(&self.secret).expect("hexadecimal digits are a value");
        S3Options::new(BUCKET, prefix).at(self.endpoint()).with_credentials(ACCESS_KEY, secret)
    }

    /// Its address, such as `http://127.0.0.1:4711`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The secret key, for tests that look for it where it must not be.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The folder in which the objects are, as files of their names.
    pub fn objects(&self) -> PathBuf {
        self.folder.path().join(BUCKET)
    }

    /// From now on this says by method and path which requests fail.
    pub fn failing(&self, decide: impl FnMut(&str, &str) -> Option<S3Fault> + Send + 'static) {
        self.faults.set(decide);
    }
}

impl fmt::Debug for S3Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop.cancel();
        let process = self.process.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        // It may have ended by itself.
        let _ = process.kill();
        let _ = process.wait();
    }
}

/// Starts it on a free port, which it says in its log.
async fn spawn(program: &Path, folder: &Path, secret: &str) -> Result<(Child, SocketAddr)> {
    let failed = |e| Error::from_io("can't start s3s-fs", e);
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    let process = Command::new(program)
        .args(["--host", "127.0.0.1", "--port", "0", "--access-key", ACCESS_KEY, "--secret-key", secret])
        .arg(folder)
        .env_clear()
        .env("RUST_LOG", "s3s_fs=info")
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let log = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).map_err(failed)?;
    let mut lines = BufReader::new(log).lines();
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        let address = line.split_once("running at http://").and_then(|(_, rest)| rest.trim().parse().ok());
        if let Some(address) = address {
            // It must be able to go on saying what it does.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok((process, address));
        }
    }
    Err(unavailable("s3s-fs ended without listening"))
}

fn unavailable(message: &str) -> Error {
    Error::new(ErrorCode::Unavailable, message)
}

/// Where `cargo install` puts programs, and wherever the shell finds them.
fn program() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.extend(std::env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("bin")));
    folders.extend(std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin")));
    folders.into_iter().map(|folder| folder.join("s3s-fs")).find(|program| program.is_file())
}
