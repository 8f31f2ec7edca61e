//! Power cuts: a store that cuts at a chosen write, and everything that an engine does, cut at every write.

mod power;
mod scenario;

use std::future::{pending, ready};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, watch};

pub use self::power::{Cuts, power_cuts};
pub use self::scenario::{Outcome, Scenario, Work};
use crate::store::{ClaimRequest, EventRow, Fence, ListQuery, QueueState, Row, Store, Table, Transaction};
use crate::{OwnerId, Result};

/// What becomes of the write at which the power is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cut {
    /// It doesn't happen.
    Lost,
    /// It happens, but whoever asked for it never hears so.
    Unanswered,
}

/// Lets a number of writes through and cuts the power at the next one: from then on no call ever returns, so that
/// the test can drop whoever uses the store, start another one on the store inside, and see whether it ends well.
///
/// Writes are what changed something: commits that were carried out, claims that found work, leases that were
/// taken or given back, renewals. A test runs a scenario once with [`CutStore::counting`] and then once for each
/// number of writes and each [`Cut`].
#[derive(Debug)]
pub struct CutStore {
    inner: Arc<dyn Store>,
    plan: Option<(u64, Cut)>,
    /// How many writes happened; held during each, so that their order is the store's.
    writes: Mutex<u64>,
    seen: watch::Sender<(u64, bool)>,
}

impl CutStore {
    /// Never cuts, and counts writes.
    pub fn counting(inner: Arc<dyn Store>) -> Self {
        Self { inner, plan: None, writes: Mutex::default(), seen: watch::Sender::new((0, false)) }
    }

    /// Cuts at the write after this many.
    pub fn new(inner: Arc<dyn Store>, after: u64, cut: Cut) -> Self {
        Self { plan: Some((after, cut)), ..Self::counting(inner) }
    }

    /// How many writes happened.
    pub fn writes(&self) -> u64 {
        self.seen.borrow().0
    }

    /// Whether the power was cut.
    pub fn is_cut(&self) -> bool {
        self.seen.borrow().1
    }

    /// Waits until the power is cut: for ever, where the scenario ends before.
    pub async fn cut(&self) {
        // The sender lives as long as this store.
        let _ = self.seen.subscribe().wait_for(|(_, cut)| *cut).await;
    }

    /// Calls the store unless the power is cut.
    async fn read<T>(&self, call: impl Future<Output = T>) -> T {
        if self.is_cut() {
            return pending().await;
        }
        let answer = call.await;
        if self.is_cut() { pending().await } else { answer }
    }

    /// Calls the store, or cuts. `wrote` says whether an answer means that something changed; `would_write` is
    /// asked before a call that is to be lost.
    async fn write<T>(
        &self,
        call: impl Future<Output = Result<T>>,
        wrote: impl FnOnce(&T) -> bool,
        would_write: impl Future<Output = Result<bool>>,
    ) -> Result<T> {
        let mut writes = self.writes.lock().await;
        if self.is_cut() {
            drop(writes);
            return pending().await;
        }
        let cut = self.plan.filter(|(after, _)| *after == *writes).map(|(_, cut)| cut);
        if cut == Some(Cut::Lost) && would_write.await? {
            self.seen.send_modify(|(_, cut)| *cut = true);
            drop(writes);
            return pending().await;
        }
        let answer = call.await;
        if answer.as_ref().is_ok_and(wrote) {
            *writes += 1;
            let unanswered = cut == Some(Cut::Unanswered);
            self.seen.send_modify(|seen| *seen = (seen.0 + 1, unanswered));
            if unanswered {
                drop(writes);
                return pending().await;
            }
        }
        answer
    }

    /// Whether a claim may find something: an engine that looks in vain must not use up the cut.
    async fn has_work_for(&self, owner: OwnerId) -> Result<bool> {
        let open = ListQuery::all().states([QueueState::Queued, QueueState::Active]);
        let rows = self.inner.list(Table::Workflows, &open).await?;
        Ok(rows.iter().filter_map(|row| row.queue.as_ref()).any(|queue| queue.owner != Some(owner)))
    }
}

fn yes() -> impl Future<Output = Result<bool>> + Send {
    ready(Ok(true))
}

// A method of the trait that were not passed on would be a hole in every test.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for CutStore {
    async fn commit(&self, transaction: Transaction) -> Result<u64> {
        self.write(self.inner.commit(transaction), |_| true, yes()).await
    }

    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>> {
        self.read(self.inner.get(table, key)).await
    }

    async fn list(&self, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
        self.read(self.inner.list(table, query)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<Row>> {
        self.write(self.inner.claim(request), Option::is_some, self.has_work_for(request.owner)).await
    }

    async fn renew(&self, fence: &Fence, ttl: Duration) -> Result<u64> {
        self.write(self.inner.renew(fence, ttl), |_| true, yes()).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        self.write(self.inner.lease(name, owner, ttl), |taken| *taken, yes()).await
    }

    async fn unlease(&self, name: &str, owner: &str) -> Result<()> {
        self.write(self.inner.unlease(name, owner), |()| true, yes()).await
    }

    async fn leased(&self, name: &str) -> Result<Option<String>> {
        self.read(self.inner.leased(name)).await
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>> {
        self.read(self.inner.next_due()).await
    }

    async fn events(&self, after: u64, subject: Option<&str>, limit: usize) -> Result<Vec<EventRow>> {
        self.read(self.inner.events(after, subject, limit)).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.inner.queue_changes()
    }
}

#[cfg(test)]
mod tests;
