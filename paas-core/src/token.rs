//! Tokens: the simplest way to say who may use a platform.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::store::{Expect, ListQuery, Store, Table, Transaction, Write};
use crate::{
    Access, Action, AppName, Credentials, Digest, Error, ErrorCode, Principal, PrincipalName, Result,
};

/// An [`Access`] of named tokens, kept in the store.
///
/// Everybody who has a token may do everything to every app; whoever shows none may do nothing. Making an app
/// (which a push to a new name does) is allowed only after [`Tokens::allow_create`].
///
/// Only the SHA-256 of a token is stored. Unlike a password, a token is 32 random bytes: no list of likely tokens
/// can be tried against its hash, so a slow or salted one would add nothing.
pub struct Tokens {
    store: Arc<dyn Store>,
    create: bool,
}

/// Says what it is where it is found, also for scanners that look for leaked secrets.
const PREFIX: &str = "paas_";
/// Secrets that somebody chose must have at least this many characters.
const SHORTEST: usize = 20;
const PARENT: &str = "token";

impl Tokens {
    /// The tokens in this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, create: false }
    }

    /// Everybody with a token may also make apps.
    #[must_use]
    pub fn allow_create(mut self) -> Self {
        self.create = true;
        self
    }

    /// Makes a token of this name and returns it: it can't be read again.
    ///
    /// # Errors
    /// `exists` when there is a token of this name.
    pub async fn issue(&self, name: &PrincipalName) -> Result<String> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(|e| {
            Error::new(ErrorCode::Internal, "the system gives no random bytes").with_source(e)
        })?;
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(*bytes));
        match self.write(name, Expect::Absent, &token).await {
            Err(e) if e.code() == ErrorCode::Conflict => {
                let message =
                    format!("there is a token named {name} already: revoke it or choose another name");
                Err(Error::new(ErrorCode::Exists, message))
            }
            written => written.map(|()| token),
        }
    }

    /// Sees to it that the token of this name is this one, such as one that the owner keeps in a file.
    ///
    /// # Errors
    /// `invalid_params` for one that could be guessed: shorter than 20 characters.
    pub async fn ensure(&self, name: &PrincipalName, token: &str) -> Result<()> {
        if token.chars().count() < SHORTEST {
            let message =
                format!("the token {name} is too short: take at least {SHORTEST} random characters");
            return Err(Error::new(ErrorCode::InvalidParams, message));
        }
        self.write(name, Expect::Any, token).await
    }

    /// Ends a token: whoever shows it from now on is refused. No error if there is none.
    ///
    /// # Errors
    /// What the store says.
    pub async fn revoke(&self, name: &PrincipalName) -> Result<()> {
        let delete = Write::delete(Table::Platform, key(name), Expect::Any);
        self.store.commit(Transaction::new().write(delete)).await.map(drop)
    }

    /// The names of all tokens.
    ///
    /// # Errors
    /// What the store says.
    pub async fn names(&self) -> Result<Vec<PrincipalName>> {
        Ok(self.kept().await?.into_iter().map(|(name, _)| name).collect())
    }

    async fn write(&self, name: &PrincipalName, expect: Expect, token: &str) -> Result<()> {
        let hash = serde_json::Value::from(Digest::of(token).to_string()).to_string();
        let write = Write::put(Table::Platform, key(name), PARENT, expect, hash);
        self.store.commit(Transaction::new().write(write)).await.map(drop)
    }

    async fn kept(&self) -> Result<Vec<(PrincipalName, Digest)>> {
        let rows = self.store.list(Table::Platform, &ListQuery::of(PARENT)).await?;
        let kept = rows.into_iter().map(|row| {
            let name = row.key.strip_prefix("token/").and_then(|name| name.parse().ok());
            let hash = serde_json::from_str(&row.body).ok();
            let damaged = || Error::new(ErrorCode::Corrupt, format!("the stored {} can't be read", row.key));
            name.zip(hash).ok_or_else(damaged)
        });
        kept.collect()
    }
}

fn key(name: &PrincipalName) -> String {
    format!("{PARENT}/{name}")
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("create", &self.create).finish_non_exhaustive()
    }
}

#[async_trait]
impl Access for Tokens {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Principal> {
        let shown = Digest::of(credentials.secret());
        let kept = self.kept().await?;
        // All are compared, each in constant time, whichever fits.
        let (mut found, mut index) = (Choice::from(0), 0_u64);
        for (n, (_, hash)) in (0..).zip(&kept) {
            let fits = hash.bytes().ct_eq(shown.bytes());
            index.conditional_assign(&n, fits);
            found |= fits;
        }
        let name = usize::try_from(index).ok().and_then(|index| kept.into_iter().nth(index));
        match name {
            Some((name, _)) if bool::from(found) => Ok(Principal::new(name)),
            _ => Err(Error::new(
                ErrorCode::Unauthorized,
                "this token is not known: use one that was issued here",
            )),
        }
    }

    async fn authorize(&self, principal: &Principal, action: Action, app: &AppName) -> Result<()> {
        match action {
            Action::Create if !self.create => {
                let message =
                    format!("{principal} may not make the app {app}: ask the platform's owner to make it");
                Err(Error::new(ErrorCode::Forbidden, message))
            }
            Action::Create | Action::Read | Action::Deploy | Action::Destroy | Action::Repair => Ok(()),
        }
    }

    async fn authorize_platform(&self, _: &Principal, _: Action) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
