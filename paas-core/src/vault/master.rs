//! The master key.

use std::fmt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::crypt::Key;
use super::file::KeyFile;
use crate::{Digest, Error, ErrorCode, Result};

/// The key that wraps all others. Debug shows nothing of it, and it is wiped from memory when dropped.
#[derive(Clone)]
pub struct MasterKey {
    pub(super) key: Key,
}

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
    /// As [`KeyFile::keys`]; `invalid_params` where the file holds older keys, too: those only a [`KeyFile`] gives.
    pub fn open_or_create(path: impl AsRef<Path>) -> Result<Self> {
        let mut keys = KeyFile::new(path.as_ref()).keys()?;
        if keys.len() > 1 {
            let path = path.as_ref().display();
            let what = format!("the file {path} holds older keys, too: give it to Vault::of_file as a whole");
            return Err(Error::new(ErrorCode::InvalidParams, what));
        }
        Ok(keys.remove(0))
    }

    /// A name for the key that tells nothing about it, for people who compare key files.
    pub fn id(&self) -> String {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.key.bytes())
            .expect("HMAC takes keys of any length");
        mac.update(b"paas/master-key-id/1");
        let tag: [u8; 32] = mac.finalize().into_bytes().into();
        Digest::of(tag).hex()[..12].to_owned()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").finish_non_exhaustive()
    }
}
