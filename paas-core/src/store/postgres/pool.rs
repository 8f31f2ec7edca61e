//! The connections that single statements share. A call isn't given a connection of its own: it is sent behind those
//! that wait there, so that nobody ever waits for a free one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Mutex;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::session::{Connector, Session};
use crate::{ErrorCode, Result};

pub(super) struct Pool {
    connector: Arc<Connector>,
    slots: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    session: Mutex<Option<Arc<Session>>>,
    calls: AtomicUsize,
}

/// One call on a slot, as long as it lives.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(calls: &'a AtomicUsize) -> Self {
        calls.fetch_add(1, Ordering::Relaxed);
        Self(calls)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub(super) fn new(connector: Arc<Connector>) -> Self {
        let slots = (0..connector.options.connections).map(|_| Slot::default()).collect();
        Self { connector, slots }
    }

    /// Carries out a statement whose effect must not be doubled.
    pub(super) async fn call_once(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        // The first of the least busy ones: what isn't needed is never opened.
        let slot = self.slots.iter().min_by_key(|slot| slot.calls.load(Ordering::Relaxed));
        let Some(slot) = slot else { return Ok(Vec::new()) };
        let _busy = Busy::new(&slot.calls);
        let session = self.session(slot).await?;
        session.query(sql, values).await
    }

    /// Carries out a statement, and once more where the connection breaks meanwhile.
    pub(super) async fn call(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        match self.call_once(sql, values).await {
            Err(e) if e.code() == ErrorCode::Unavailable => {
                tracing::debug!(error = %e, "asking the store's database once more");
                self.call_once(sql, values).await
            }
            other => other,
        }
    }

    async fn session(&self, slot: &Slot) -> Result<Arc<Session>> {
        let mut kept = slot.session.lock().await;
        match kept.as_ref().filter(|session| !session.is_closed()) {
            Some(session) => Ok(session.clone()),
            None => Ok(kept.insert(Arc::new(self.connector.open().await?)).clone()),
        }
    }
}
