//! All stores, asked the same.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use paas_core::store::{
    ClaimRequest, EventRow, Fence, ListQuery, MemoryStore, Row, SqliteStore, Store, Table, Transaction,
};
use paas_core::testkit::postgres::{ClockedStore, PostgresServer};
use paas_core::testkit::seeds;
use paas_core::testkit::store::{agree, difference};
use paas_core::{Clock, Result};
use tokio::sync::watch;

/// `PAAS_SEED=7` replays a difference, `PAAS_ROUNDS=1000` looks for more of them.
#[tokio::test(flavor = "multi_thread")]
async fn memory_sqlite_and_postgresql_answer_every_random_call_alike() {
    let Some(server) = PostgresServer::shared().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let stores = async |clock: Arc<dyn Clock>| -> Vec<Arc<dyn Store>> {
        let schema = server.new_schema();
        let file = folder.path().join(format!("{schema}.db"));
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        vec![
            memory,
            Arc::new(SqliteStore::open(file, clock.clone()).unwrap()),
            Arc::new(ClockedStore::connect(&server, &schema, clock).await.unwrap()),
        ]
    };
    for seed in seeds(10) {
        agree(&stores, seed, 400).await;
    }
}

/// A store with a fault that shows late: a lease that was prolonged may end sooner than it would have.
#[derive(Debug)]
struct Forgetful(MemoryStore);

#[async_trait]
impl Store for Forgetful {
    async fn commit(&self, transaction: Transaction) -> Result<u64> {
        self.0.commit(transaction).await
    }

    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>> {
        self.0.get(table, key).await
    }

    async fn list(&self, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
        self.0.list(table, query).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<Row>> {
        self.0.claim(request).await
    }

    async fn renew(&self, fence: &Fence, ttl: Duration) -> Result<u64> {
        self.0.renew(fence, ttl).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        self.0.unlease(name, owner).await?;
        self.0.lease(name, owner, ttl).await
    }

    async fn unlease(&self, name: &str, owner: &str) -> Result<()> {
        self.0.unlease(name, owner).await
    }

    async fn leased(&self, name: &str) -> Result<Option<String>> {
        self.0.leased(name).await
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>> {
        self.0.next_due().await
    }

    async fn events(&self, after: u64, subject: Option<&str>, limit: usize) -> Result<Vec<EventRow>> {
        self.0.events(after, subject, limit).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes()
    }
}

#[tokio::test]
async fn a_store_that_differs_is_found_and_shown_by_a_few_calls() {
    let stores = async |clock: Arc<dyn Clock>| -> Vec<Arc<dyn Store>> {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        vec![memory, Arc::new(Forgetful(MemoryStore::new(clock)))]
    };
    for seed in 0..5 {
        let found = difference(&stores, seed, 2_000).await.expect("a difference");
        assert!(found.calls.len() <= 10, "{found}");
        assert!(found.calls.iter().any(|call| call.starts_with("Lease(")), "{found}");
        assert!(found.store.contains("Forgetful"), "{found}");
    }
}
