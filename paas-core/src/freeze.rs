//! A freeze: nothing new goes live for a while.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AppName, Error, ErrorCode, Principal};

/// What a freeze is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scope {
    /// One app.
    App(AppName),
    /// Every app of the platform.
    Platform,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::App(app) => app.fmt(f),
            Self::Platform => f.write_str("the platform"),
        }
    }
}

/// No release is made while it lasts: deploys, rollbacks and changes of config vars are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Freeze {
    /// What is frozen.
    pub scope: Scope,
    /// Who froze it.
    pub by: Principal,
    /// When.
    pub at: DateTime<Utc>,
    /// Why, in words.
    pub why: String,
}

impl Freeze {
    /// The error of whoever wants a release meanwhile.
    pub fn refusal(&self) -> Error {
        let what = format!("{self}; nothing goes live until somebody who may ends that by `unfreeze`");
        Error::new(ErrorCode::Frozen, what)
    }
}

/// `ada froze hello on 2026-11-27 at 08:00 UTC: Black Friday`
impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, by, at, why } = self;
        write!(f, "{by} froze {scope} on {}: {why}", at.format("%Y-%m-%d at %H:%M UTC"))
    }
}
