//! The data folder: one platform at a time, with the same token and ports at every start.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use paas::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};

/// The data folder, ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// Locked; it holds our process id.
    pub(crate) lock: File,
}

/// Where the platform listened last time.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) http: Option<u16>,
    pub(crate) https: Option<u16>,
    pub(crate) git: Option<u16>,
}

impl Folder {
    /// Makes it where it isn't there, and takes it.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let failed = |e| Error::from_io(format!("can't use the data folder {}", path.display()), e);
        fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let lock = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("platform.pid"))
            .map_err(failed)?;
        // What a killed platform was just starting has its lock for a moment more, until it is another program.
        let mut patience = 100;
        while lock.try_lock().is_err() {
            let pid = fs::read_to_string(path.join("platform.pid")).map_err(failed)?;
            let pid = pid.trim();
            patience -= 1;
            if patience == 0 || Path::new("/proc").join(pid).exists() {
                let what = format!("a platform runs on {} already: pid {pid}", path.display());
                return Err(Error::new(ErrorCode::Conflict, what));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let folder = Self { path, lock };
        folder.sign()?;
        Ok(folder)
    }

    /// Shares it with the platform that has it, whose lock this is.
    pub(crate) fn share(path: &Path, lock: OwnedFd) -> Result<Self> {
        let path = path.canonicalize().map_err(|e| Error::from_io("can't use the data folder", e))?;
        Ok(Self { path, lock: lock.into() })
    }

    /// Writes down that this process has it.
    pub(crate) fn sign(&self) -> Result<()> {
        let failed = |e| Error::from_io("can't write platform.pid", e);
        self.lock.set_len(0).map_err(failed)?;
        self.lock.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0).map_err(failed)
    }

    /// The token for git, made at the first start.
    pub(crate) fn token(&self) -> Result<String> {
        let path = self.path.join("token");
        match fs::read_to_string(&path) {
            Ok(token) if token.trim().len() >= 20 => return Ok(token.trim().to_owned()),
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::from_io("can't read the token", e));
            }
            _ => {}
        }
        let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        self.write("token", &token)?;
        Ok(token)
    }

    pub(crate) fn ports(&self) -> Ports {
        let text = fs::read_to_string(self.path.join("ports.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub(crate) fn keep_ports(&self, ports: Ports) -> Result<()> {
        let text = serde_json::to_string(&ports)
            .map_err(|e| Error::new(ErrorCode::Internal, "can't write the ports").with_source(e))?;
        self.write("ports.json", &text)
    }

    /// Writes aside, syncs and renames.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        use std::io::Write;
        let failed = |e| Error::from_io(format!("can't write {name}"), e);
        let aside = self.path.join(format!(".{name}.new"));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&aside)
            .map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(aside, self.path.join(name)).map_err(failed)
    }
}

/// A listening socket. It is kept open beside the server that accepts from it, so that it can be given to a successor.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Socket {
    /// Listens where asked; else where last time, else at `usual`, else anywhere.
    pub(crate) fn open(asked: Option<SocketAddr>, last: Option<u16>, usual: u16) -> Result<Self> {
        if let Some(address) = asked {
            return Self::bind(address);
        }
        let known = last.into_iter().chain([usual]).find_map(|port| Self::bind(("127.0.0.1", port)).ok());
        known.map_or_else(|| Self::bind("127.0.0.1:0"), Ok)
    }

    /// One that the platform before us listened on.
    pub(crate) fn inherit(file: OwnedFd, asked: Option<SocketAddr>) -> Result<Self> {
        let socket = Self::of(file.into())?;
        match asked {
            Some(asked) if asked != socket.address => {
                let what = format!(
                    "the platform that runs listens on {}, which --replace takes over: to listen on {asked}, stop it and \
                     start this one without --replace",
                    socket.address
                );
                Err(Error::new(ErrorCode::InvalidParams, what))
            }
            _ => Ok(socket),
        }
    }

    /// The same socket, for a server.
    pub(crate) fn serve(&self) -> Result<tokio::net::TcpListener> {
        let failed = |e| Error::from_io(format!("can't accept on {}", self.address), e);
        let listener = self.listener.try_clone().map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        tokio::net::TcpListener::from_std(listener).map_err(failed)
    }

    pub(crate) fn bind(address: impl ToSocketAddrs + std::fmt::Debug) -> Result<Self> {
        let listener = TcpListener::bind(&address);
        Self::of(listener.map_err(|e| Error::from_io(format!("can't listen on {address:?}"), e))?)
    }

    fn of(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr().map_err(|e| Error::from_io("a listener has no address", e))?;
        Ok(Self { listener, address })
    }
}
