//! The master key and its file.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::crypt::Key;
use crate::{Error, ErrorCode, Result};

/// The key that wraps all others. Debug shows nothing of it, and it is wiped from memory when dropped.
pub struct MasterKey {
    pub(super) key: Key,
}

/// Longer than any key file.
const LONGEST: u64 = 1024;

impl MasterKey {
    /// A new random key, which is kept nowhere.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self> {
        Ok(Self { key: Key::random()? })
    }

    /// This key, from wherever the owner keeps it.
    ///
    /// # Errors
    /// `invalid_params` unless it has 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong = || {
            Error::new(
                ErrorCode::InvalidParams,
                format!("a master key has 32 bytes, this one has {}", bytes.len()),
            )
        };
        Ok(Self { key: Key::from_slice(bytes).ok_or_else(wrong)? })
    }

    /// The key in this file, or a new one that is written there first, with mode 0600 and safe on disk.
    ///
    /// Whoever loses the file loses all config vars; whoever can read it and the store can read them.
    ///
    /// # Errors
    /// `invalid_params` when others may read the file; `corrupt` when it holds no key; when it can't be read or written.
    pub fn open_or_create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        loop {
            match File::open(path) {
                Ok(file) => return Self::read(&file, path),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    return Err(Error::from_io(format!("can't read the key file {}", path.display()), e));
                }
            }
            let key = Self::generate()?;
            match key.write(path) {
                Ok(()) => return Ok(key),
                // Somebody else was faster: theirs counts.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => {
                    return Err(Error::from_io(format!("can't write the key file {}", path.display()), e));
                }
            }
        }
    }

    fn read(file: &File, path: &Path) -> Result<Self> {
        let failed = |e| Error::from_io(format!("can't read the key file {}", path.display()), e);
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            let path = path.display();
            let message = format!(
                "the key file {path} can be read or changed by others (mode {:04o}): chmod 600 {path}",
                mode & 0o7777
            );
            return Err(Error::new(ErrorCode::InvalidParams, message));
        }
        let mut line = Zeroizing::new(Vec::with_capacity(64));
        file.take(LONGEST).read_to_end(&mut line).map_err(failed)?;
        let bytes = STANDARD.decode(line.trim_ascii()).ok().map(Zeroizing::new);
        let key = bytes.and_then(|bytes| Key::from_slice(&bytes)).ok_or_else(|| {
            let message = format!(
                "the file {} holds no key: expected one line of base64 with 32 bytes; put back your backup of it",
                path.display()
            );
            Error::new(ErrorCode::Corrupt, message)
        })?;
        Ok(Self { key })
    }

    /// Writes it aside and then gives it its name, so that a crash leaves no half key; fails if the name is taken.
    fn write(&self, path: &Path) -> io::Result<()> {
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        let aside = dir.join(format!(".key-{}", uuid::Uuid::new_v4()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
            let line = Zeroizing::new(format!("{}\n", *Zeroizing::new(STANDARD.encode(self.key.bytes()))));
            file.write_all(line.as_bytes())?;
            file.sync_all()?;
            fs::hard_link(&aside, path)
        })();
        let removed = match fs::remove_file(&aside) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        written.and(removed).and_then(|()| File::open(dir)?.sync_all())
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").finish_non_exhaustive()
    }
}
