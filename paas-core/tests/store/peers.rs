//! Several stores on one database, as several engines have.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use paas_core::Result;
use paas_core::store::{ClaimRequest, EventRow, Fence, ListQuery, Row, Store, Table, Transaction};
use tokio::sync::watch;

/// Stores that are called in turn.
#[derive(Debug)]
pub(crate) struct Peers<S>(Vec<S>, AtomicUsize);

impl<S> Peers<S> {
    pub(crate) fn new(stores: impl IntoIterator<Item = S>) -> Self {
        Self(stores.into_iter().collect(), AtomicUsize::new(0))
    }

    fn next(&self) -> &S {
        &self.0[self.1.fetch_add(1, Ordering::Relaxed) % self.0.len()]
    }
}

#[async_trait]
impl<S: Store> Store for Peers<S> {
    async fn commit(&self, transaction: Transaction) -> Result<u64> {
        self.next().commit(transaction).await
    }

    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>> {
        self.next().get(table, key).await
    }

    async fn list(&self, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
        self.next().list(table, query).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<Row>> {
        self.next().claim(request).await
    }

    async fn renew(&self, fence: &Fence, ttl: Duration) -> Result<u64> {
        self.next().renew(fence, ttl).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        self.next().lease(name, owner, ttl).await
    }

    async fn unlease(&self, name: &str, owner: &str) -> Result<()> {
        self.next().unlease(name, owner).await
    }

    async fn leased(&self, name: &str) -> Result<Option<String>> {
        self.next().leased(name).await
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>> {
        self.next().next_due().await
    }

    async fn events(&self, after: u64, subject: Option<&str>, limit: usize) -> Result<Vec<EventRow>> {
        self.next().events(after, subject, limit).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.next().changes()
    }
}
