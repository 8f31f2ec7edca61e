//! A client that must act between its workflow's end and the next one's start keeps its subject's turn.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::store::turn_lease;
use crate::{Result, Subject, TurnId};

/// The lease that says that a turn's holder is alive.
pub(crate) fn holder_lease(turn: TurnId) -> String {
    format!("holder/{turn}")
}

/// Keeps a subject's turn from the beginning of a workflow until this ends, also beyond the workflow's end.
///
/// Its holder's death frees it: a workflow whose holder is gone is undone before the pivot, and finished after it.
#[derive(Debug)]
#[must_use = "the turn ends when this is dropped"]
pub struct Turn {
    id: TurnId,
    subject: Subject,
    inner: Arc<Inner>,
    ended: CancellationToken,
}

impl Turn {
    pub(crate) async fn take(inner: Arc<Inner>, subject: Subject) -> Result<Self> {
        let turn = Self { id: TurnId::new(), subject, inner, ended: CancellationToken::new() };
        let (inner, id, ended) = (turn.inner.clone(), turn.id, turn.ended.clone());
        let lease = turn_lease(&turn.subject.to_string());
        inner.store.lease(&holder_lease(id), &id.to_string(), inner.options.lease).await?;
        turn.inner.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = ended.cancelled() => break,
                    // Its workflow is given back as well, and undone unless users see it already.
                    _ = inner.shutdown.cancelled() => break,
                    () = tokio::time::sleep(inner.options.lease / 3) => {}
                }
                if let Err(error) = prolong(&inner, id, &lease).await {
                    tracing::warn!(error = %error, "a turn can't be prolonged");
                }
            }
            for name in [holder_lease(id), lease] {
                if let Err(error) = inner.store.unlease(&name, &id.to_string()).await {
                    tracing::warn!(error = %error, "a turn can't be given back; it runs out by itself");
                }
            }
        });
        Ok(turn)
    }

    /// Its id.
    pub fn id(&self) -> TurnId {
        self.id
    }

    /// Waits until nobody else keeps the subject's turn, and keeps it from now on, without a workflow.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn keep(&self) -> Result<()> {
        let (lease, owner) = (turn_lease(&self.subject.to_string()), self.id.to_string());
        let mut changes = self.inner.store.changes();
        loop {
            changes.mark_unchanged();
            if self.inner.store.lease(&lease, &owner, self.inner.options.lease).await? {
                return Ok(());
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(self.inner.options.poll) => {}
            }
        }
    }

    /// Ends it, and returns once others may go on.
    ///
    /// # Errors
    /// When the store can't be written; it runs out by itself then.
    pub async fn end(self) -> Result<()> {
        let (id, subject, inner) = (self.id, self.subject.to_string(), self.inner.clone());
        drop(self);
        inner.store.unlease(&holder_lease(id), &id.to_string()).await?;
        inner.store.unlease(&turn_lease(&subject), &id.to_string()).await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

async fn prolong(inner: &Inner, id: TurnId, turn: &str) -> Result<()> {
    let (owner, ttl) = (id.to_string(), inner.options.lease);
    inner.store.lease(&holder_lease(id), &owner, ttl).await?;
    if inner.store.leased(turn).await?.as_deref() == Some(owner.as_str()) {
        inner.store.lease(turn, &owner, ttl).await?;
    }
    Ok(())
}
