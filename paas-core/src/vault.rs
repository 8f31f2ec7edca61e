//! Secrets at rest: what is stored of config vars can't be read without the master key.
//!
//! ```text
//! master key (a file of the owner's)  --wraps-->  a data key per app  --seals-->  each value
//!                                     --wraps-->  the platform's data key
//! ```
//!
//! Wrapping and sealing are XChaCha20-Poly1305 with random nonces, which at 24 bytes don't repeat. Each is bound to
//! what it is for, so a stored value can't be passed off as another's or under another name. A new master key
//! re-wraps the data keys and leaves all values as they are: [`Engine::rotate_key`](crate::Engine::rotate_key). While it does,
//! a vault knows both.

mod crypt;
mod file;
mod master;
mod seal;

use std::fmt;
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard};

use crypt::Key;
pub use file::KeyFile;
pub use master::MasterKey;
pub use seal::{DataKey, Sealed};
use serde::{Deserialize, Serialize};

use crate::store::{Expect, Store, Table, Transaction, Write};
use crate::{AppId, Error, ErrorCode, Result};

/// The row of [`Table::Platform`] that holds the platform's wrapped data key. It also tells at the start of an
/// engine whether its master key is the store's.
pub(crate) const ROW: &str = "vault";
/// The row that names the master key which the store is about to be sealed with.
pub(crate) const NEXT_ROW: &str = "vault/next";

/// Whose data key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyOwner {
    /// One life of an app.
    App(AppId),
    /// The platform's own, for secrets that belong to no app.
    Platform,
}

impl fmt::Display for KeyOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(id) => write!(f, "app/{id}"),
            Self::Platform => f.write_str("platform"),
        }
    }
}

/// A data key, encrypted with the master key. Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WrappedKey(String);

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappedKey")
    }
}

/// Makes data keys and opens them again with the master key.
///
/// ```
/// use paas_core::{AppId, ConfigVars, vault::{MasterKey, Vault}};
/// let vault = Vault::new(MasterKey::generate()?);
/// let app = AppId::new();
/// let wrapped = vault.new_app_key(app)?; // stored with the app
/// let key = vault.app_key(app, &wrapped)?;
/// let vars = ConfigVars::new().with("SECRET", "hunter2hunter2")?;
/// let sealed = key.seal_vars(&vars)?; // stored, too
/// assert_eq!(key.open_vars(&sealed)?, vars);
/// # Ok::<(), paas_core::Error>(())
/// ```
pub struct Vault {
    ring: RwLock<Ring>,
    file: Option<KeyFile>,
    platform: OnceLock<DataKey>,
}

/// The master keys that are known.
struct Ring {
    /// The newest first; never empty.
    keys: Vec<MasterKey>,
    /// Which one seals: that which the store is sealed with.
    sealing: usize,
}

impl Ring {
    fn of(keys: Vec<MasterKey>) -> Self {
        // Until the store says so: whoever else is there knows the oldest.
        Self { sealing: keys.len() - 1, keys }
    }
}

impl Vault {
    /// A vault that this key opens.
    pub fn new(master: MasterKey) -> Self {
        Self::of(vec![master], None)
    }

    /// A vault that the keys in this file open. The file is read again when a key is needed that isn't known, so that one
    /// can be added while the platform works.
    ///
    /// # Errors
    /// As [`KeyFile::keys`].
    pub fn of_file(file: KeyFile) -> Result<Self> {
        Ok(Self::of(file.keys()?, Some(file)))
    }

    fn of(keys: Vec<MasterKey>, file: Option<KeyFile>) -> Self {
        Self { ring: RwLock::new(Ring::of(keys)), file, platform: OnceLock::new() }
    }

    /// Which also opens what was sealed with this older key.
    #[must_use]
    pub fn with_older(self, key: MasterKey) -> Self {
        let mut keys = std::mem::take(&mut self.ring.write().unwrap_or_else(PoisonError::into_inner).keys);
        keys.push(key);
        Self::of(keys, self.file)
    }

    fn ring(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The [ids](MasterKey::id) of the keys it knows, the newest first.
    pub fn known(&self) -> Vec<String> {
        self.ring().keys.iter().map(MasterKey::id).collect()
    }

    /// The id of the key that it seals with.
    pub fn sealing(&self) -> String {
        let ring = self.ring();
        ring.keys[ring.sealing].id()
    }

    /// Reads the key file again, where there is one.
    ///
    /// # Errors
    /// As [`KeyFile::keys`].
    pub fn reload(&self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let keys = file.keys()?;
        let sealing = self.sealing();
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        // A key that is sealed with is kept, also where the file has lost it.
        if let Some(sealing) = keys.iter().position(|key| key.id() == sealing) {
            *ring = Ring { keys, sealing };
        }
        Ok(())
    }

    /// Checks that the store's secrets can be opened by a key that is known, opens the platform's data key, and seals with
    /// the store's key from now on; a store without one gets the newest. To be called before anything else is done
    /// with a store, and again to follow the store to another key.
    ///
    /// # Errors
    /// `wrong_key` when the store was used with another master key, or is about to be; what the store says.
    pub async fn unlock(&self, store: &dyn Store) -> Result<()> {
        if let Some(row) = store.get(Table::Platform, NEXT_ROW).await? {
            let next: String = serde_json::from_str(&row.body).map_err(unreadable)?;
            if !self.known().contains(&next) {
                self.reload()?;
            }
            if !self.known().contains(&next) {
                return Err(self.lacks(&next));
            }
        }
        loop {
            if let Some(row) = store.get(Table::Platform, ROW).await? {
                let wrapped: WrappedKey = serde_json::from_str(&row.body).map_err(unreadable)?;
                if self.opens(KeyOwner::Platform, &wrapped)?.is_none() {
                    self.reload()?;
                }
                let key = self.unwrap(KeyOwner::Platform, &wrapped)?;
                if let Some(sealing) = self.opens(KeyOwner::Platform, &wrapped)? {
                    self.ring.write().unwrap_or_else(PoisonError::into_inner).sealing = sealing;
                }
                // Whoever unlocked it before opened the same key.
                let _ = self.platform.set(key);
                return Ok(());
            }
            self.ring.write().unwrap_or_else(PoisonError::into_inner).sealing = 0;
            let wrapped = self.wrap(KeyOwner::Platform, &Key::random()?)?;
            match store.commit(Transaction::new().write(put_row(&wrapped, Expect::Absent))).await {
                // Another engine was faster: its key counts.
                Err(e) if e.code() != ErrorCode::Conflict => return Err(e),
                _ => {}
            }
        }
    }

    fn lacks(&self, next: &str) -> Error {
        let known = self.known().join(", ");
        let what = format!(
            "the platform is moving to the master key {next}, and this key file holds only {known}: put that key into it, on \
             top"
        );
        Error::new(ErrorCode::WrongKey, what)
    }

    /// The platform's own data key.
    ///
    /// # Errors
    /// `internal` before [`Vault::unlock`].
    pub fn platform(&self) -> Result<&DataKey> {
        let locked = || {
            Error::new(ErrorCode::Internal, "the vault is locked: call Vault::unlock with the store first")
        };
        self.platform.get().ok_or_else(locked)
    }

    /// A new data key for an app, to be stored with it.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new_app_key(&self, app: AppId) -> Result<WrappedKey> {
        self.wrap(KeyOwner::App(app), &Key::random()?)
    }

    /// Opens an app's data key.
    ///
    /// # Errors
    /// `wrong_key` when it was wrapped with another master key or for another app; `corrupt`.
    pub fn app_key(&self, app: AppId, wrapped: &WrappedKey) -> Result<DataKey> {
        self.unwrap(KeyOwner::App(app), wrapped)
    }

    /// The data key as the key of this id wraps it; `None` where it does already.
    ///
    /// # Errors
    /// `wrong_key` when none of the known keys opens it, or there is none of this id.
    pub fn rewrap(&self, owner: KeyOwner, wrapped: &WrappedKey, with: &str) -> Result<Option<WrappedKey>> {
        let key = self.unwrap(owner, wrapped)?;
        let ring = self.ring();
        let master = ring.keys.iter().find(|key| key.id() == with).ok_or_else(|| self.lacks(with))?;
        if crypt::open(&master.key, &wrapping(owner), &wrapped.0)?.is_some() {
            return Ok(None);
        }
        Ok(Some(WrappedKey(crypt::seal(&master.key, &wrapping(owner), key.key().bytes())?)))
    }

    fn wrap(&self, owner: KeyOwner, key: &Key) -> Result<WrappedKey> {
        let ring = self.ring();
        Ok(WrappedKey(crypt::seal(&ring.keys[ring.sealing].key, &wrapping(owner), key.bytes())?))
    }

    /// Which of the known keys opens it.
    fn opens(&self, owner: KeyOwner, wrapped: &WrappedKey) -> Result<Option<usize>> {
        for (index, master) in self.ring().keys.iter().enumerate() {
            if crypt::open(&master.key, &wrapping(owner), &wrapped.0)?.is_some() {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    fn unwrap(&self, owner: KeyOwner, wrapped: &WrappedKey) -> Result<DataKey> {
        let ring = self.ring();
        for master in &ring.keys {
            if let Some(bytes) = crypt::open(&master.key, &wrapping(owner), &wrapped.0)? {
                let damaged = || Error::new(ErrorCode::Corrupt, format!("the key of {owner} is damaged"));
                return Ok(DataKey::new(owner, Key::from_slice(&bytes).ok_or_else(damaged)?));
            }
        }
        let known = ring.keys.iter().map(MasterKey::id).collect::<Vec<_>>().join(", ");
        Err(Error::new(
            ErrorCode::WrongKey,
            format!(
                "the master key ({known}) doesn't open the key of {owner}: start with the key file that this data was made \
                 with (or its backup, or the newer one where the key was rotated); without it the config vars are lost \
                 and must be set again"
            ),
        ))
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

/// The row of the platform's own data key.
pub(crate) fn put_row(wrapped: &WrappedKey, expect: Expect) -> Write {
    let body = serde_json::Value::from(wrapped.0.clone()).to_string();
    Write::put(Table::Platform, ROW, "", expect, body)
}

fn unreadable(e: serde_json::Error) -> Error {
    Error::new(ErrorCode::Corrupt, "the store's wrapped key can't be read").with_source(e)
}

fn wrapping(owner: KeyOwner) -> [String; 2] {
    ["data-key".to_owned(), owner.to_string()]
}

#[cfg(test)]
mod tests;
