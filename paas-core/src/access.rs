//! Who may do what.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{AppName, Error, ErrorCode, PrincipalName, Result};

/// Who acts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Principal {
    /// The name, which releases and events show.
    pub name: PrincipalName,
}

impl Principal {
    /// Somebody of this name.
    pub fn new(name: PrincipalName) -> Self {
        Self { name }
    }

    /// Somebody of this name, which is parsed.
    ///
    /// # Errors
    /// `invalid_params` when it is no name.
    pub fn named(name: &str) -> Result<Self> {
        Ok(Self::new(name.parse()?))
    }

    /// The platform itself.
    ///
    /// # Panics
    /// Never: the name is a constant.
    pub fn platform() -> Self {
        Self::new(PrincipalName::new("platform").expect("a constant"))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// What somebody shows to prove who they are. Debug shows no secret.
#[derive(Clone)]
#[non_exhaustive]
pub enum Credentials {
    /// A user name, which may mean nothing, and a password or token.
    Basic {
        /// The user name.
        user: String,
        /// The password or token.
        password: String,
    },
    /// A token.
    Bearer(String),
}

impl Credentials {
    /// The secret part.
    pub fn secret(&self) -> &str {
        match self {
            Self::Basic { password, .. } => password,
            Self::Bearer(token) => token,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic { .. } => "Basic([redacted])",
            Self::Bearer(_) => "Bearer([redacted])",
        })
    }
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// See an app: releases, instances, logs.
    Read,
    /// Change what runs: deploy, roll back, scale, configure, add-ons, cancel.
    Deploy,
    /// Make an app of this name.
    Create,
    /// Destroy it.
    Destroy,
    /// Put right what went wrong with it, and keep it from changing: retry, abandon, freeze, unfreeze.
    Repair,
}

/// Decides who may do what.
#[async_trait]
pub trait Access: fmt::Debug + Send + Sync + 'static {
    /// Who shows these credentials.
    ///
    /// # Behavior
    /// - Takes the same time whether the secret is nearly right or not at all.
    ///
    /// # Errors
    /// `unauthorized`.
    async fn authenticate(&self, credentials: &Credentials) -> Result<Principal>;

    /// Whether `principal` may do this to this app, which may not be there yet.
    ///
    /// # Errors
    /// `forbidden`, or `not_found` where the app's being there is nobody's business.
    async fn authorize(&self, principal: &Principal, action: Action, app: &AppName) -> Result<()>;

    /// Whether `principal` may do this to the platform itself, and so to every app. Nobody may where this isn't said.
    ///
    /// # Errors
    /// `forbidden`.
    async fn authorize_platform(&self, principal: &Principal, action: Action) -> Result<()> {
        let _ = action;
        Err(Error::new(ErrorCode::Forbidden, format!("{principal} may not do that to the whole platform")))
    }
}

const _: fn(&dyn Access) = |_| {};

/// Lets nobody do anything: what an engine has until somebody decides.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct DenyAll;

impl DenyAll {
    /// Lets nobody do anything.
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Access for DenyAll {
    async fn authenticate(&self, _: &Credentials) -> Result<Principal> {
        Err(Error::new(ErrorCode::Unauthorized, "nobody is let in: the platform has no access set up"))
    }

    async fn authorize(&self, _: &Principal, _: Action, _: &AppName) -> Result<()> {
        Err(Error::new(ErrorCode::Forbidden, "nobody is let in: the platform has no access set up"))
    }
}
