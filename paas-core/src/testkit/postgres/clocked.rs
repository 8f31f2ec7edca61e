//! A store whose database shows a test's time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, watch};
use tokio_postgres::Client;

use super::PostgresServer;
use crate::store::{
    ClaimRequest, EventRow, Fence, ListQuery, PostgresOptions, PostgresStore, Row, Store, Table, Transaction,
};
use crate::{Clock, Result};

/// A [`PostgresStore`] in whose schema the database's clock is replaced by a table, set to the test's time before each
/// call. So suites and engines with a clock of their own run on PostgreSQL, although there leases go by the database's
/// clock.
#[derive(Debug)]
pub struct ClockedStore {
    store: PostgresStore,
    clock: Arc<dyn Clock>,
    hands: Mutex<Hands>,
}

#[derive(Debug)]
struct Hands {
    client: Client,
    set: String,
    shown: Option<DateTime<Utc>>,
}

impl ClockedStore {
    /// Opens or makes the store in this schema.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`].
    pub async fn connect(server: &PostgresServer, schema: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        let options = PostgresOptions::default().schema(schema);
        let store = PostgresStore::connect_with(&server.url(), options, clock.clone()).await?;
        let client = server.client().await?;
        let replace = format!(
            "BEGIN; SELECT pg_advisory_xact_lock(hashtext('{schema}'));
             CREATE TABLE IF NOT EXISTS {schema}.test_time AS SELECT 0::bigint AS at;
             CREATE OR REPLACE FUNCTION {schema}.clock() RETURNS bigint LANGUAGE sql
                 AS 'SELECT at FROM {schema}.test_time'; COMMIT"
        );
        client.batch_execute(&replace).await?;
        // Time never goes back, also where several stores set it.
        let set = format!("UPDATE {schema}.test_time SET at = $1 WHERE at < $1");
        Ok(Self { store, clock, hands: Mutex::new(Hands { client, set, shown: None }) })
    }

    /// The store, whose database shows the test's time now.
    async fn on_time(&self) -> Result<&PostgresStore> {
        let mut hands = self.hands.lock().await;
        let now = self.clock.now();
        if hands.shown != Some(now) {
            hands.client.execute(&hands.set, &[&now.timestamp_micros()]).await?;
            hands.shown = Some(now);
        }
        Ok(&self.store)
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Store for ClockedStore {
    async fn commit(&self, transaction: Transaction) -> Result<u64> {
        self.on_time().await?.commit(transaction).await
    }

    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>> {
        self.store.get(table, key).await
    }

    async fn list(&self, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
        self.store.list(table, query).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<Row>> {
        self.on_time().await?.claim(request).await
    }

    async fn renew(&self, fence: &Fence, ttl: Duration) -> Result<u64> {
        self.on_time().await?.renew(fence, ttl).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        self.on_time().await?.lease(name, owner, ttl).await
    }

    async fn unlease(&self, name: &str, owner: &str) -> Result<()> {
        self.on_time().await?.unlease(name, owner).await
    }

    async fn leased(&self, name: &str) -> Result<Option<String>> {
        self.on_time().await?.leased(name).await
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>> {
        self.on_time().await?.next_due().await
    }

    async fn events(&self, after: u64, subject: Option<&str>, limit: usize) -> Result<Vec<EventRow>> {
        self.store.events(after, subject, limit).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.store.changes()
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.store.queue_changes()
    }
}
