//! Where everything of the managed server lies.
//!
//! ```text
//! <folder>/            the platform's, mode 0700
//!   lock               held while somebody sets up, starts or stops the server
//!   key                what passwords are derived from
//!   port               where apps find the server: chosen once, kept for good
//!   log, log.old       what the server says
//!   server/            the server user's own, mode 0700
//!     data/            PostgreSQL's data folder, with the socket and the certificate; `local.conf` in it is the
//!                      operator's
//! ```

use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use paas_core::{Error, Result};
use uuid::Uuid;

use super::account::Account;

/// The log is started afresh beyond this many bytes, and the one before it kept.
const LOG_MAX: u64 = 8 * 1024 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn key(&self) -> PathBuf {
        self.root.join("key")
    }

    pub(super) fn server(&self) -> PathBuf {
        self.root.join("server")
    }

    pub(super) fn data(&self) -> PathBuf {
        self.server().join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// The major version that made the data, if there is any: only that one can read it.
    pub(super) fn version(&self) -> io::Result<Option<String>> {
        match fs::read_to_string(self.data().join("PG_VERSION")) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn make(&self) -> Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root).map_err(|e| self.io("make", e))
    }

    /// The folder that everything of the server's user is under, open, so that they need no way to it.
    pub(super) fn open_server(&self, account: Option<Account>) -> Result<fs::File> {
        let path = self.server();
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(self.io("make", e)),
            _ => {}
        }
        let open = fs::File::open(&path).map_err(|e| self.io("open", e))?;
        if let Some(Account { uid, gid }) = account {
            fchown(&open, Some(uid), Some(gid)).map_err(|e| self.io("give away", e))?;
        }
        Ok(open)
    }

    /// Waits for the lock; it is held until the file is dropped, or its process dies.
    pub(super) async fn lock(&self) -> Result<fs::File> {
        self.make()?;
        let path = self.root.join("lock");
        let lock = move || {
            let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
            file.lock().map(|()| file)
        };
        let locked = tokio::task::spawn_blocking(lock).await;
        locked.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| self.io("lock", e))
    }

    pub(super) fn port(&self) -> Result<Option<u16>> {
        match fs::read_to_string(self.root.join("port")) {
            Ok(text) => match text.trim().parse() {
                Ok(port) => Ok(Some(port)),
                Err(e) => Err(self.io("read the port in", io::Error::new(io::ErrorKind::InvalidData, e))),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.io("read the port in", e)),
        }
    }

    pub(super) fn keep_port(&self, port: u16) -> Result<()> {
        write(&self.root.join("port"), format!("{port}\n").as_bytes(), None)
            .map_err(|e| self.io("write to", e))
    }

    pub(super) fn open_log(&self) -> Result<fs::File> {
        let open = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(self.log());
        open.map_err(|e| self.io("open the log in", e))
    }

    /// The last lines of the log from `start` on.
    pub(super) fn last_words(&self, start: u64) -> Vec<String> {
        let read = || -> io::Result<String> {
            let mut file = fs::File::open(self.log())?;
            let start = start.max(file.metadata()?.len().saturating_sub(16 * 1024));
            file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        // They explain another error; where they can't be read, that one stands without them.
        let text = read().unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines[lines.len().saturating_sub(15)..].to_vec()
    }

    /// Keeps the log within its bound. The server goes on writing to the same file.
    pub(super) fn trim_log(&self) -> io::Result<()> {
        let log = self.log();
        if fs::metadata(&log)?.len() > LOG_MAX {
            fs::copy(&log, self.root.join("log.old"))?;
            fs::OpenOptions::new().write(true).open(&log)?.set_len(0)?;
        }
        Ok(())
    }

    pub(super) fn io(&self, doing: &str, error: io::Error) -> Error {
        Error::from_io(format!("can't {doing} the database folder {}", self.root.display()), error)
    }
}

/// Puts a file in place as a whole, on disk, readable by its owner only.
pub(in crate::postgres) fn write(path: &Path, bytes: &[u8], owner: Option<Account>) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    let aside = folder.join(format!(".new-{}", Uuid::new_v4().simple()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    if let Some(Account { uid, gid }) = owner {
        fchown(&file, Some(uid), Some(gid))?;
    }
    file.sync_all()?;
    fs::rename(&aside, path)?;
    fs::File::open(folder)?.sync_all()
}
