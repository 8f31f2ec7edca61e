//! What an app's data key does: sealing values, and hashing them for whom only their change matters.

use std::collections::BTreeMap;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::KeyOwner;
use super::crypt::{self, Key};
use crate::{ConfigKey, ConfigValue, ConfigVars, Digest, Error, ErrorCode, Result};

/// An encrypted value, safe to be stored. Debug shows nothing of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(String);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}

/// The key of one owner's secrets. It is wiped from memory when dropped.
pub struct DataKey {
    owner: KeyOwner,
    key: Key,
}

impl DataKey {
    pub(super) fn new(owner: KeyOwner, key: Key) -> Self {
        Self { owner, key }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Encrypts a value under a name: it opens only with this key and the same name.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn seal(&self, name: &str, plaintext: &[u8]) -> Result<Sealed> {
        crypt::seal(&self.key, &self.context("value", name), plaintext).map(Sealed)
    }

    /// Decrypts what [`DataKey::seal`] made.
    ///
    /// # Errors
    /// `wrong_key` when it was sealed with another key or under another name, or was changed; `corrupt`.
    pub fn open(&self, name: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>> {
        self.open_as("value", name, sealed)
    }

    /// Encrypts the value of each config var under its name.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn seal_vars(&self, vars: &ConfigVars) -> Result<BTreeMap<ConfigKey, Sealed>> {
        let sealed = vars.iter().map(|(name, value)| {
            let context = self.context("config-var", name.as_str());
            Ok((name.clone(), Sealed(crypt::seal(&self.key, &context, value.expose().as_bytes())?)))
        });
        sealed.collect()
    }

    /// Decrypts what [`DataKey::seal_vars`] made.
    ///
    /// # Errors
    /// As [`DataKey::open`]. The error names the config var, never its value.
    pub fn open_vars(&self, sealed: &BTreeMap<ConfigKey, Sealed>) -> Result<ConfigVars> {
        let vars = sealed.iter().map(|(name, sealed)| {
            let value = self.open_as("config-var", name.as_str(), sealed)?;
            // Without the cause, which would show the value.
            let text = std::str::from_utf8(&value);
            let text =
                text.map_err(|_| Error::new(ErrorCode::Corrupt, format!("the stored {name} is not text")))?;
            Ok((name.clone(), ConfigValue::new(text)?))
        });
        vars.collect()
    }

    /// A digest that changes when a config var does, for the keys of build caches: without the data key nobody can
    /// guess values from it.
    pub fn keyed_hash(&self, vars: &ConfigVars) -> Digest {
        let tag = |key: &[u8], parts: &mut dyn Iterator<Item = &[u8]>| {
            let mut mac =
                <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
            for part in parts {
                mac.update(&(part.len() as u64).to_be_bytes());
                mac.update(part);
            }
            Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()))
        };
        // A key of its own, so that no key has two uses.
        let key = tag(self.key.bytes(), &mut [&b"paas/config-hash/1"[..]].into_iter());
        let parts =
            vars.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.expose().as_bytes()]);
        Digest::of(*tag(&*key, &mut parts.into_iter()))
    }

    fn open_as(&self, what: &str, name: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>> {
        let wrong = || {
            let owner = self.owner;
            let message = format!(
                "the key of {owner} doesn't open the stored {name}: it was stored for another app or name, or changed; \
                 set it again or put back a backup"
            );
            Error::new(ErrorCode::WrongKey, message)
        };
        crypt::open(&self.key, &self.context(what, name), &sealed.0)?.ok_or_else(wrong)
    }

    fn context(&self, what: &str, name: &str) -> [String; 3] {
        [what.to_owned(), self.owner.to_string(), name.to_owned()]
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").field("owner", &self.owner).finish_non_exhaustive()
    }
}
