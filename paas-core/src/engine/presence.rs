//! Which engines are there, and which master keys they know: who changes the key asks first.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Inner;
use super::ledger::{decode, encode};
use crate::store::{Expect, ListQuery, Store, Table, Transaction, Write};
use crate::{NodeName, Result};

/// What an engine says of itself, in a row of [`Table::Platform`] below this parent. It counts while the engine holds the
/// lease of the row's key.
const PARENT: &str = "engine";

/// One engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Presence {
    /// Where it runs, for people.
    pub(crate) at: String,
    /// The ids of the master keys that it knows.
    pub(crate) known: Vec<String>,
    /// The id of the one that it seals with.
    pub(crate) sealing: String,
    /// The node whose processes it reaches.
    #[serde(default)]
    pub(crate) node: Option<NodeName>,
}

fn key(inner: &Inner) -> String {
    format!("{PARENT}/{}", inner.owner)
}

/// Says that this engine is there, and what it knows.
pub(crate) async fn announce(inner: &Inner) -> Result<()> {
    let (known, sealing) = (inner.vault.known(), inner.vault.sealing());
    let presence = Presence { at: here(), known, sealing, node: inner.runtime.node().cloned() };
    let (key, body) = (key(inner), encode(&presence)?);
    inner.store.lease(&key, &inner.owner.to_string(), inner.options.lease).await?;
    if inner.store.get(Table::Platform, &key).await?.is_some_and(|row| row.body == body) {
        return Ok(());
    }
    let write = Write::put(Table::Platform, key, PARENT, Expect::Any, body);
    inner.store.commit(Transaction::new().write(write)).await.map(drop)
}

/// Follows the store to another master key: nothing is wrapped with the old one once this has returned.
pub(crate) async fn follow(inner: &Inner) -> Result<()> {
    inner.vault.reload()?;
    {
        let _alone = inner.wrapping.write().await;
        inner.vault.unlock(inner.store.as_ref()).await?;
    }
    announce(inner).await
}

/// Keeps saying so until the engine shuts down, and then that it is gone.
pub(crate) async fn stay(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(inner.options.lease / 4);
    loop {
        tokio::select! {
            _ = inner.shutdown.cancelled() => break,
            _ = ticks.tick() => {}
        }
        if let Err(error) = follow(&inner).await {
            tracing::warn!(error = %error, "can't follow the store to its master key; trying again");
            // It is there all the same, and whoever moves to another key must not take it for gone.
            if let Err(error) = announce(&inner).await {
                tracing::warn!(error = %error, "can't tell the other engines which master keys are known here; trying again");
            }
        }
    }
    let gone = Transaction::new().write(Write::delete(Table::Platform, key(&inner), Expect::Any));
    let left = async {
        inner.store.commit(gone).await?;
        inner.store.unlease(&key(&inner), &inner.owner.to_string()).await
    };
    if let Err(error) = left.await {
        tracing::debug!(error = %error, "the other engines learn by our lease that this one is gone");
    }
}

/// Where this process runs, for people.
pub(crate) fn here() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "a machine".into());
    format!("{} (process {})", host.trim(), std::process::id())
}

/// The engines that are there.
pub(crate) async fn engines(inner: &Inner) -> Result<Vec<Presence>> {
    present(inner.store.as_ref(), PARENT).await
}

/// What those below this parent say who hold the lease of their row. What dead ones said is removed.
pub(crate) async fn present<T: DeserializeOwned>(store: &dyn Store, parent: &str) -> Result<Vec<T>> {
    let mut there = Vec::new();
    for row in store.list(Table::Platform, &ListQuery::of(parent)).await? {
        if store.leased(&row.key).await?.is_some() {
            there.push(decode(&row, "what is there:")?);
            continue;
        }
        // It may have come back just now: then its row has changed, or is written again by its next word.
        let gone = Write::delete(Table::Platform, row.key, Expect::Rev(row.rev));
        match store.commit(Transaction::new().write(gone)).await {
            Err(error) if error.code() != crate::ErrorCode::Conflict => return Err(error),
            _ => {}
        }
    }
    Ok(there)
}
