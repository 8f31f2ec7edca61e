//! Small files beside what runs, so that the next engine knows of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use paas_core::{Error, ErrorCode, Result, Retry};
use rustix::fs::FlockOperation;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

/// How long an engine that is just ending may keep its lock.
const PATIENCE: Duration = Duration::from_secs(1);

/// Replaces a file in one step: beside it, then renamed; safe on disk first where it must survive a power cut.
pub(crate) fn write_file(path: &Path, value: &impl Serialize, durable: bool) -> Result<()> {
    let written = (|| {
        let aside = path.with_extension("new");
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
        file.write_all(&serde_json::to_vec(value)?)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&aside, path)?;
        match path.parent() {
            Some(folder) if durable => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    })();
    written.map_err(|e: io::Error| Error::from_io(format!("can't write {}", path.display()), e))
}

/// Reads a file that [`write_file`] wrote.
pub(crate) fn read_file<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::from_io(format!("can't read {}", path.display()), e)),
    };
    let read = serde_json::from_slice(&text);
    read.map(Some).map_err(|e| {
        Error::new(ErrorCode::Corrupt, format!("{} can't be read", path.display())).with_source(e)
    })
}

/// Makes this process the only one that supervises what is kept in this folder, for as long as the file is open.
pub(crate) async fn lock(data: &Path) -> Result<File> {
    let path = data.join("supervisor.lock");
    let failed = |e| Error::from_io(format!("can't lock {}", path.display()), e);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let taken = async {
        while let Err(e) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if e != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(e.into()));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    };
    match tokio::time::timeout(PATIENCE, taken).await {
        Ok(taken) => taken.map(|()| file),
        Err(_) => Err(Error::new(
            ErrorCode::Unavailable,
            format!("another process supervises {}: stop it or use another folder", data.display()),
        )
        .with_retry(Retry::Backoff)),
    }
}
