//! As whom the server runs: PostgreSQL refuses root, rightly.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{User, geteuid};
use paas_core::{Error, Result};

use crate::postgres::error::unavailable;

/// A user of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Whom the platform turns into to run the server: nobody else where it isn't root.
///
/// A server folder that is there belongs to somebody already, and stays theirs. A new one gets the user that
/// was named, or `postgres`. There is no fallback to `nobody`: other daemons run as that, and could read the data.
pub(super) fn choose(data: &Path, wanted: Option<&str>) -> Result<Option<Account>> {
    let ours = geteuid();
    if let Ok(there) = fs::metadata(data) {
        return match (there.uid() == ours.as_raw(), ours.is_root()) {
            (true, false) => Ok(None),
            (false, true) => Ok(Some(Account { uid: there.uid(), gid: there.gid() })),
            _ => Err(unavailable(format!(
                "the database folder {} belongs to user id {}: start the platform as that user or as root",
                data.display(),
                there.uid()
            ))),
        };
    }
    if !ours.is_root() {
        return Ok(None);
    }
    let name = wanted.unwrap_or("postgres");
    let user = User::from_name(name)
        .map_err(|e| Error::from_io("can't look up the user that PostgreSQL is to run as", e.into()))?;
    match user {
        Some(user) if !user.uid.is_root() => {
            Ok(Some(Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
        }
        Some(_) => Err(unavailable("PostgreSQL refuses to run as root: name another user for it")),
        None => Err(unavailable(format!(
            "PostgreSQL refuses to run as root, and there is no user {name:?} for it to run as: make one with `useradd --system {name}`"
        ))),
    }
}
