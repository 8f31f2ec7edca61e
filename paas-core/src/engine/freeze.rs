//! What is frozen, looked at in the transaction that would make a release.

use super::Inner;
use super::ledger::{decode, encode};
use crate::store::{Expect, Table, Transaction, Write};
use crate::{AppName, Freeze, KindName, Result};

/// The row of the platform's freeze; there is none while it isn't frozen.
const PLATFORM: &str = "freeze";

impl Inner {
    /// Whether a freeze refuses workflows of this kind.
    pub(crate) fn makes_releases(&self, kind: &KindName) -> bool {
        let newest = self.kinds.range((kind.clone(), 0)..=(kind.clone(), u32::MAX)).next_back();
        newest.is_some_and(|(_, kind)| kind.makes_releases)
    }

    /// The freeze that an app is under: its own, or the platform's.
    pub(crate) async fn freeze_of(&self, app: &AppName) -> Result<Option<Freeze>> {
        let own = self.ledger.find_app(app).await?.and_then(|stored| stored.value.frozen);
        match own {
            None => Ok(self.platform_freeze().await?.map(|(_, freeze)| freeze)),
            own => Ok(own),
        }
    }

    /// The platform's freeze, with its row's revision.
    pub(crate) async fn platform_freeze(&self) -> Result<Option<(u64, Freeze)>> {
        let row = self.store.get(Table::Platform, PLATFORM).await?;
        row.map(|row| Ok((row.rev, decode(&row, "the platform's freeze")?))).transpose()
    }

    /// Refuses what the platform's freeze refuses, also one that comes before this transaction does: it must find no
    /// freeze, and changes nothing about that. Apps' own freezes stand in their rows, which it writes anyway.
    pub(crate) async fn unless_platform_is_frozen(&self, tx: &mut Transaction) -> Result<()> {
        if let Some((_, freeze)) = self.platform_freeze().await? {
            return Err(freeze.refusal());
        }
        tx.writes.push(Write::delete(Table::Platform, PLATFORM, Expect::Absent));
        Ok(())
    }
}

pub(crate) fn put_platform_freeze(freeze: &Freeze) -> Result<Write> {
    Ok(Write::put(Table::Platform, PLATFORM, "", Expect::Absent, encode(freeze)?))
}

pub(crate) fn end_platform_freeze(rev: u64) -> Write {
    Write::delete(Table::Platform, PLATFORM, Expect::Rev(rev))
}
