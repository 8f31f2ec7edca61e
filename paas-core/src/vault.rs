//! Secrets at rest: what is stored of config vars can't be read without the master key.
//!
//! ```text
//! master key (a file of the owner's)  --wraps-->  a data key per app  --seals-->  each value
//!                                     --wraps-->  the platform's data key
//! ```
//!
//! Wrapping and sealing are XChaCha20-Poly1305 with random nonces, which at 24 bytes don't repeat. Each is bound to
//! what it is for, so a stored value can't be passed off as another's or under another name. A new master key
//! re-wraps the data keys and leaves all values as they are.

mod crypt;
mod master;
mod seal;

use std::fmt;
use std::sync::OnceLock;

use crypt::Key;
pub use master::MasterKey;
pub use seal::{DataKey, Sealed};
use serde::{Deserialize, Serialize};

use crate::store::{Expect, Store, Table, Transaction, Write};
use crate::{AppId, Error, ErrorCode, Result};

/// The row of [`Table::Platform`] that holds the platform's wrapped data key. It also tells at the start of an
/// engine whether its master key is the store's.
const ROW: &str = "vault";

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
    master: MasterKey,
    platform: OnceLock<DataKey>,
}

impl Vault {
    /// A vault that this key opens.
    pub fn new(master: MasterKey) -> Self {
        Self { master, platform: OnceLock::new() }
    }

    /// Checks that the store's secrets were encrypted with this master key, and opens the platform's data key; a
    /// store without one gets it. To be called before anything else is done with a store.
    ///
    /// # Errors
    /// `wrong_key` when the store was used with another master key; what the store says.
    pub async fn unlock(&self, store: &dyn Store) -> Result<()> {
        loop {
            if let Some(row) = store.get(Table::Platform, ROW).await? {
                let unreadable = |e| {
                    Error::new(ErrorCode::Corrupt, "the store's wrapped key can't be read").with_source(e)
                };
                let wrapped: WrappedKey = serde_json::from_str(&row.body).map_err(unreadable)?;
                let key = self.unwrap(KeyOwner::Platform, &wrapped)?;
                // Whoever unlocked it before opened the same key.
                let _ = self.platform.set(key);
                return Ok(());
            }
            let wrapped = self.wrap(KeyOwner::Platform, &Key::random()?)?;
            let body = serde_json::Value::from(wrapped.0).to_string();
            let write = Write::put(Table::Platform, ROW, "", Expect::Absent, body);
            match store.commit(Transaction::new().write(write)).await {
                // Another engine was faster: its key counts.
                Err(e) if e.code() != ErrorCode::Conflict => return Err(e),
                _ => {}
            }
        }
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

    fn wrap(&self, owner: KeyOwner, key: &Key) -> Result<WrappedKey> {
        Ok(WrappedKey(crypt::seal(&self.master.key, &wrapping(owner), key.bytes())?))
    }

    fn unwrap(&self, owner: KeyOwner, wrapped: &WrappedKey) -> Result<DataKey> {
        let bytes = crypt::open(&self.master.key, &wrapping(owner), &wrapped.0)?;
        let wrong = || {
            Error::new(
                ErrorCode::WrongKey,
                format!(
                    "the master key doesn't open the key of {owner}: start with the key file that this data was \
                     made with (or its backup); without it the config vars are lost and must be set again"
                ),
            )
        };
        let key = Key::from_slice(&bytes.ok_or_else(wrong)?);
        let key =
            key.ok_or_else(|| Error::new(ErrorCode::Corrupt, format!("the key of {owner} is damaged")))?;
        Ok(DataKey::new(owner, key))
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").finish_non_exhaustive()
    }
}

/// Wraps a data key with a new master key; what it seals stays as it is. The owner's row is then written
/// with the answer.
///
/// # Errors
/// `wrong_key` when `old` doesn't open it.
pub fn rewrap(old: &Vault, new: &Vault, owner: KeyOwner, wrapped: &WrappedKey) -> Result<WrappedKey> {
    new.wrap(owner, old.unwrap(owner, wrapped)?.key())
}

fn wrapping(owner: KeyOwner) -> [String; 2] {
    ["data-key".to_owned(), owner.to_string()]
}

#[cfg(test)]
mod tests;
