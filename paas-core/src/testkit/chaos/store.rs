//! The weather around a store. Nobody can cancel its calls.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use super::Chaos;
use crate::Result;
use crate::store::{ClaimRequest, EventRow, Fence, ListQuery, Row, Store, Table, Transaction};

/// A store in the weather.
#[derive(Debug)]
pub(super) struct StormyStore {
    chaos: Chaos,
    inner: Arc<dyn Store>,
}

impl StormyStore {
    pub(super) fn new(chaos: &Chaos, inner: Arc<dyn Store>) -> Self {
        Self { chaos: chaos.clone(), inner }
    }

    async fn call<T>(&self, name: &'static str, effect: impl Future<Output = Result<T>>) -> Result<T> {
        self.chaos.go(name, self.chaos.store, None, effect).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for StormyStore {
    async fn commit(&self, transaction: Transaction) -> Result<u64> {
        self.call("commit", self.inner.commit(transaction)).await
    }

    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>> {
        self.call("get", self.inner.get(table, key)).await
    }

    async fn list(&self, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
        self.call("list", self.inner.list(table, query)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<Row>> {
        self.call("claim", self.inner.claim(request)).await
    }

    async fn renew(&self, fence: &Fence, ttl: Duration) -> Result<u64> {
        self.call("renew", self.inner.renew(fence, ttl)).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        self.call("lease", self.inner.lease(name, owner, ttl)).await
    }

    async fn unlease(&self, name: &str, owner: &str) -> Result<()> {
        self.call("unlease", self.inner.unlease(name, owner)).await
    }

    async fn leased(&self, name: &str) -> Result<Option<String>> {
        self.call("leased", self.inner.leased(name)).await
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>> {
        self.call("next_due", self.inner.next_due()).await
    }

    async fn events(&self, after: u64, subject: Option<&str>, limit: usize) -> Result<Vec<EventRow>> {
        self.call("events", self.inner.events(after, subject, limit)).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.inner.queue_changes()
    }
}
