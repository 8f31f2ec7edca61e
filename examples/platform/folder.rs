//! The data folder: one platform at a time, with the same token and ports at every start.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use paas::{Error, ErrorCode, Result};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// The data folder, ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    _lock: File,
}

/// Where the platform listened last time.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) http: Option<u16>,
    pub(crate) git: Option<u16>,
}

impl Folder {
    /// Makes it where it isn't there, and takes it.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let failed = |e| Error::from_io(format!("can't use the data folder {}", path.display()), e);
        fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let mut lock = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("platform.pid"))
            .map_err(failed)?;
        if lock.try_lock().is_err() {
            let mut pid = String::new();
            lock.read_to_string(&mut pid).map_err(failed)?;
            let what = format!("a platform runs on {} already: pid {}", path.display(), pid.trim());
            return Err(Error::new(ErrorCode::Conflict, what));
        }
        lock.set_len(0).map_err(failed)?;
        writeln!(lock, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { path, _lock: lock })
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

/// Listens where asked; else where last time, else at `usual`, else anywhere.
pub(crate) async fn listen(
    asked: Option<std::net::SocketAddr>,
    last: Option<u16>,
    usual: u16,
) -> Result<TcpListener> {
    let failed = |what: String| move |e| Error::from_io(format!("can't listen on {what}"), e);
    if let Some(address) = asked {
        return TcpListener::bind(address).await.map_err(failed(address.to_string()));
    }
    for port in last.into_iter().chain([usual]) {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return Ok(listener);
        }
    }
    TcpListener::bind("127.0.0.1:0").await.map_err(failed("127.0.0.1".into()))
}
