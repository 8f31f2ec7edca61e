//! Whether a disk takes what is about to be written.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::statvfs;

use crate::{Error, ErrorCode, Result, Retry};

/// Refuses to begin what can't end well: the disk of this folder takes no writes, or has fewer than `bytes` free.
///
/// # Errors
/// `unavailable` where it takes no writes, `disk_full` with what is needed and what is there.
pub fn ensure_room(folder: &Path, bytes: u64) -> Result<()> {
    let failed = |e| Error::from_io(format!("can't write to the disk of {}", folder.display()), e);
    // A disk that failed doesn't say so before somebody writes.
    let probe = folder.join(format!(".probe-{}", uuid::Uuid::new_v4().simple()));
    match File::create_new(&probe).and_then(|_| fs::remove_file(&probe)) {
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            let what = "the platform's disk takes no writes (read-only file system): its owner must mend it";
            return Err(Error::new(ErrorCode::Unavailable, what).with_retry(Retry::Never));
        }
        // How full it is, is said below.
        Err(e) if e.kind() == io::ErrorKind::StorageFull => {}
        written => written.map_err(failed)?,
    }
    let disk = statvfs(folder).map_err(|e| failed(e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < bytes {
        let what = format!(
            "the platform's disk is full: this needs about {} MB and {} MB are free; its owner must make room",
            bytes.div_ceil(1_000_000),
            free / 1_000_000
        );
        return Err(Error::new(ErrorCode::DiskFull, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::ensure_room;
    use crate::ErrorCode;

    #[test]
    fn what_does_not_fit_is_refused_with_what_is_free() {
        let dir = tempfile::tempdir().unwrap();
        ensure_room(dir.path(), 1).unwrap();
        let refused = ensure_room(dir.path(), u64::MAX).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::DiskFull);
        assert!(refused.message().contains("MB are free"), "{refused}");
    }
}
