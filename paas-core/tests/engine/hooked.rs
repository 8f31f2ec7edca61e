//! A store in memory that tells of calls before they are made, and can hold them back or refuse them.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use paas_core::store::{
    ClaimRequest, EventRow, Fence, ListQuery, MemoryStore, Row, Store, Table, Transaction,
};
use paas_core::{Clock, Result};
use std::sync::Arc;
use tokio::sync::watch;

/// What is about to happen.
pub(crate) enum Call<'a> {
    Commit(&'a Transaction),
    Get(Table),
    Lease(&'a str),
}

/// Is told of calls.
#[async_trait]
pub(crate) trait Hook: fmt::Debug + Send + Sync + 'static {
    /// The call is made once this returns, unless it fails: then it isn't, and fails with that.
    async fn before(&self, call: Call<'_>) -> Result<()>;
}

#[derive(Debug)]
pub(crate) struct Hooked<H> {
    inner: MemoryStore,
    pub(crate) hook: H,
}

impl<H: Hook> Hooked<H> {
    pub(crate) fn new(clock: Arc<dyn Clock>, hook: H) -> Arc<Self> {
        Arc::new(Self { inner: MemoryStore::new(clock), hook })
    }
}

#[async_trait]
impl<H: Hook> Store for Hooked<H> {
    async fn commit(&self, transaction: Transaction) -> Result<u64> {
        self.hook.before(Call::Commit(&transaction)).await?;
        self.inner.commit(transaction).await
    }

    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>> {
        self.hook.before(Call::Get(table)).await?;
        self.inner.get(table, key).await
    }

    async fn list(&self, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
        self.inner.list(table, query).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<Row>> {
        self.inner.claim(request).await
    }

    async fn renew(&self, fence: &Fence, ttl: Duration) -> Result<u64> {
        self.inner.renew(fence, ttl).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        self.hook.before(Call::Lease(name)).await?;
        self.inner.lease(name, owner, ttl).await
    }

    async fn unlease(&self, name: &str, owner: &str) -> Result<()> {
        self.inner.unlease(name, owner).await
    }

    async fn leased(&self, name: &str) -> Result<Option<String>> {
        self.inner.leased(name).await
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>> {
        self.inner.next_due().await
    }

    async fn events(&self, after: u64, subject: Option<&str>, limit: usize) -> Result<Vec<EventRow>> {
        self.inner.events(after, subject, limit).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.inner.queue_changes()
    }
}
