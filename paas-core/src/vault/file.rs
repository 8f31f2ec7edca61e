//! The file that master keys are kept in: a line each, the newest first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::crypt::Key;
use super::master::MasterKey;
use crate::{Error, ErrorCode, Result};

/// Longer than any key file.
const LONGEST: u64 = 4096;

/// A file of master keys, the newest first. What is stored was sealed with the newest one that is in use; the older ones
/// still open what was sealed with them.
///
/// ```
/// use paas_core::vault::KeyFile;
/// # let dir = tempfile::tempdir().unwrap();
/// let file = KeyFile::new(dir.path().join("master.key"));
/// let first = file.keys()?.remove(0); // made now
/// let second = file.add_key()?;
/// assert_eq!([second, first.id()], [file.keys()?[0].id(), file.keys()?[1].id()]);
/// file.drop_old_keys()?;
/// assert_eq!(file.keys()?.len(), 1);
/// # Ok::<(), paas_core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct KeyFile(PathBuf);

impl KeyFile {
    /// The file of this name, which needn't be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The keys in it, the newest first. Where there is no file one is made with a new key, mode 0600 and safe on disk.
    ///
    /// # Errors
    /// `invalid_params` when others may read the file; `corrupt` when it holds no key; when it can't be read or written.
    pub fn keys(&self) -> Result<Vec<MasterKey>> {
        let path = &self.0;
        loop {
            match File::open(path) {
                Ok(file) => return read(&file, path),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    return Err(Error::from_io(format!("can't read the key file {}", path.display()), e));
                }
            }
            let key = MasterKey::generate()?;
            match write(path, std::slice::from_ref(&key), |aside| fs::hard_link(aside, path)) {
                Ok(()) => return Ok(vec![key]),
                // Somebody else was faster: theirs counts.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(self.unwritten(e)),
            }
        }
    }

    /// Puts a new key on top, and gives its [id](MasterKey::id). Nothing is sealed with it before
    /// [`Engine::rotate_key`](crate::Engine::rotate_key), but whoever reads the file from now on can open what will be.
    ///
    /// # Errors
    /// As [`KeyFile::keys`].
    pub fn add_key(&self) -> Result<String> {
        let new = MasterKey::generate()?;
        let id = new.id();
        let mut keys = vec![new];
        keys.extend(self.keys()?);
        self.replace(&keys)?;
        Ok(id)
    }

    /// Forgets all keys but the newest. Only after a rotation has ended, on every machine: what was sealed with them, such
    /// as older backups, can't be opened any more.
    ///
    /// # Errors
    /// As [`KeyFile::keys`].
    pub fn drop_old_keys(&self) -> Result<()> {
        let keys = self.keys()?;
        self.replace(&keys[..1])
    }

    fn replace(&self, keys: &[MasterKey]) -> Result<()> {
        write(&self.0, keys, |aside| fs::rename(aside, &self.0)).map_err(|e| self.unwritten(e))
    }

    fn unwritten(&self, e: io::Error) -> Error {
        Error::from_io(format!("can't write the key file {}", self.0.display()), e)
    }
}

fn read(file: &File, path: &Path) -> Result<Vec<MasterKey>> {
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
    let mut text = Zeroizing::new(Vec::with_capacity(512));
    file.take(LONGEST).read_to_end(&mut text).map_err(failed)?;
    let keys: Option<Vec<MasterKey>> = text
        .trim_ascii()
        .split(|byte| *byte == b'\n')
        .map(|line| {
            let bytes = STANDARD.decode(line.trim_ascii()).ok().map(Zeroizing::new)?;
            Some(MasterKey { key: Key::from_slice(&bytes)? })
        })
        .collect();
    keys.filter(|keys| !keys.is_empty()).ok_or_else(|| {
        let message = format!(
            "the file {} holds no key: expected lines of base64 with 32 bytes each, the newest key first; put back your \
             backup of it",
            path.display()
        );
        Error::new(ErrorCode::Corrupt, message)
    })
}

/// Writes it aside and then gives it its name, so that a crash leaves no half key.
fn write(path: &Path, keys: &[MasterKey], place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let aside = dir.join(format!(".key-{}", uuid::Uuid::new_v4()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        for key in keys {
            let line = Zeroizing::new(format!("{}\n", *Zeroizing::new(STANDARD.encode(key.key.bytes()))));
            file.write_all(line.as_bytes())?;
        }
        file.sync_all()?;
        place(&aside)
    })();
    let removed = match fs::remove_file(&aside) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    written.and(removed).and_then(|()| File::open(dir)?.sync_all())
}
