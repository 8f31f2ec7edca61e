//! A store that doesn't answer for a moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use paas_core::store::{
    ClaimRequest, EventRow, Fence, ListQuery, MemoryStore, Row, Store, Table, Transaction,
};
use paas_core::testkit::world::TestPlatform;
use paas_core::{AddonOrder, Error, ErrorCode, Result, Retry};
use tokio::sync::watch;

use crate::{hello, me};

/// Fails one look at a row.
#[derive(Debug)]
struct Away {
    inner: MemoryStore,
    /// How many looks from now on; none at 0 and below.
    at: AtomicI64,
}

#[async_trait]
impl Store for Away {
    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>> {
        // Workflows are looked at by whoever waits for them, too.
        if table != Table::Workflows && self.at.fetch_sub(1, Ordering::SeqCst) == 1 {
            return Err(Error::new(ErrorCode::Unavailable, "away").with_retry(Retry::Backoff));
        }
        self.inner.get(table, key).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<u64> {
        self.inner.commit(transaction).await
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
}

#[tokio::test]
async fn a_release_that_is_said_to_be_live_is_live_whenever_the_store_did_not_answer() {
    for at in 1..200 {
        let platform = TestPlatform::new().unwrap();
        let store = Arc::new(Away { inner: MemoryStore::new(platform.clock()), at: AtomicI64::new(0) });
        let engine = platform.engine(store.clone()).unwrap().build().unwrap();
        let _passing = platform.let_time_pass();
        engine.create_app(&hello(), &me()).await.unwrap();
        engine.start().await.unwrap();
        let first = TestPlatform::deploy(&engine, &hello(), "web: one\n").await.unwrap();
        first.succeeded().await.unwrap();
        store.at.store(at, Ordering::SeqCst);
        let second = TestPlatform::deploy(&engine, &hello(), "web: two\n").await;
        let reached = store.at.swap(0, Ordering::SeqCst);
        let ended = match second {
            Ok(second) => {
                store.at.store(reached, Ordering::SeqCst);
                second.ended().await.unwrap().state
            }
            // It was never asked for.
            Err(_) => paas_core::WorkflowState::Failed,
        };
        let reached = store.at.swap(0, Ordering::SeqCst) <= 0;
        let live = engine.app(&hello()).await.unwrap().live.unwrap().version.number();
        let expected = if ended == paas_core::WorkflowState::Succeeded { 2 } else { 1 };
        assert_eq!(live, expected, "it has {ended}: away at look {at}");
        let routes = platform.world.routes(&hello()).unwrap();
        let up = platform.world.instances();
        assert_eq!(routes.backends.len(), 1, "away at look {at}");
        let served = up.iter().find(|i| i.address == Some(routes.backends[0].address));
        assert_eq!(served.map(|i| i.version.number()), Some(expected), "away at look {at}: {routes:?}");
        engine.shutdown().await;
        if !reached {
            return;
        }
    }
    panic!("it never ends");
}

#[tokio::test]
async fn an_add_on_that_was_made_is_attached_whenever_the_store_did_not_answer() {
    for at in 1.. {
        let platform = TestPlatform::new().unwrap();
        let store = Arc::new(Away { inner: MemoryStore::new(platform.clock()), at: AtomicI64::new(0) });
        let engine = platform.engine(store.clone()).unwrap().build().unwrap();
        let _passing = platform.let_time_pass();
        engine.create_app(&hello(), &me()).await.unwrap();
        engine.start().await.unwrap();
        let order = AddonOrder::new("fakesql".parse().unwrap());
        let (_, made) = engine.add_addon(&hello(), order, &me()).await.unwrap();
        store.at.store(at, Ordering::SeqCst);
        made.succeeded().await.unwrap();
        let reached = store.at.swap(0, Ordering::SeqCst) <= 0;
        let config = engine.config(&hello()).await.unwrap();
        assert!(config.get("FAKE_URL").is_some(), "made, and the app hasn't got it: away at look {at}");
        engine.shutdown().await;
        if !reached {
            println!("away at each of {} looks", at - 1);
            return;
        }
        assert!(at < 50, "it never ends");
    }
}
