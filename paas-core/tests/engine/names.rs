//! An add-on of a first deploy and one that somebody orders at the same moment never get the same name.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use paas_core::store::{
    ClaimRequest, EventRow, Fence, ListQuery, MemoryStore, Row, Store, Table, Transaction,
};
use paas_core::testkit::world::{TestPlatform, check};
use paas_core::{AddonId, AddonOrder, Engine, ErrorCode, Result, WorkflowHandle, WorkflowState};
use tokio::sync::{Semaphore, watch};

use crate::{hello, me};

const CODE: &str = "web: a\n---\n{\"addons\":[{\"service\":\"fakesql\",\"plan\":null,\"attachment\":null}]}";

/// Holds the first transaction back that takes a name: of a workflow, or of whoever asks from outside.
#[derive(Debug)]
struct Late {
    inner: MemoryStore,
    of_workflow: bool,
    /// The first one is let through once there is a permit.
    gate: Semaphore,
    held: watch::Sender<bool>,
}

impl Late {
    fn is_held(&self, tx: &Transaction) -> bool {
        tx.fence.is_some() == self.of_workflow && tx.writes.iter().any(|write| write.table == Table::Addons)
    }
}

#[async_trait]
impl Store for Late {
    async fn commit(&self, transaction: Transaction) -> Result<u64> {
        if self.is_held(&transaction) && !self.held.send_replace(true) {
            drop(self.gate.acquire().await.unwrap());
        }
        self.inner.commit(transaction).await
    }

    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>> {
        self.inner.get(table, key).await
    }

    async fn list(&self, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
        self.inner.list(table, query).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<Row>> {
        self.inner.claim(request).await
    }

    async fn renew(&self, fence: &Fence, ttl: std::time::Duration) -> Result<u64> {
        self.inner.renew(fence, ttl).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: std::time::Duration) -> Result<bool> {
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

struct Moment {
    platform: TestPlatform,
    store: Arc<Late>,
    engine: Engine,
}

impl Moment {
    async fn new(of_workflow: bool) -> Self {
        let platform = TestPlatform::new().unwrap();
        let (gate, held) = (Semaphore::new(0), watch::Sender::new(false));
        let store = Arc::new(Late { inner: MemoryStore::new(platform.clock()), of_workflow, gate, held });
        let engine = platform.engine(store.clone()).unwrap().build().unwrap();
        engine.start().await.unwrap();
        engine.create_app(&hello(), &me()).await.unwrap();
        Self { platform, store, engine }
    }

    fn order(&self) -> impl Future<Output = Result<(AddonId, WorkflowHandle)>> + use<> {
        let engine = self.engine.clone();
        async move { engine.add_addon(&hello(), AddonOrder::new("fakesql".parse().unwrap()), &me()).await }
    }

    async fn deploy(&self) -> WorkflowHandle {
        TestPlatform::deploy(&self.engine, &hello(), CODE).await.unwrap()
    }

    async fn until_held(&self) {
        self.store.held.subscribe().wait_for(|held| *held).await.unwrap();
    }

    /// One add-on has the name, and nothing is left of another one.
    async fn has_one(&self) -> AddonId {
        while !check(&self.platform.world, &self.engine, &hello()).await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let addons = self.engine.addons(&hello()).await.unwrap();
        let names: Vec<_> = addons.iter().map(|addon| addon.attachment.as_str()).collect();
        assert_eq!(names, ["FAKE"]);
        assert_eq!(self.platform.world.addons().into_keys().collect::<Vec<_>>(), [addons[0].id]);
        let url = self.engine.config(&hello()).await.unwrap();
        let url = url.get("FAKE_URL").unwrap().expose().to_owned();
        assert!(url.contains(&addons[0].id.uuid().simple().to_string()), "{url}");
        addons[0].id
    }
}

#[tokio::test]
async fn a_first_deploy_gives_way_to_an_add_on_that_took_its_name_while_it_made_its_own() {
    let moment = Moment::new(true).await;
    let _passing = moment.platform.let_time_pass();
    let deploy = moment.deploy().await;
    moment.until_held().await;
    let (theirs, made) = moment.order().await.unwrap();
    moment.store.gate.add_permits(1);
    assert_eq!(deploy.ended().await.unwrap().state, WorkflowState::Succeeded);
    made.succeeded().await.unwrap();
    assert_eq!(moment.has_one().await, theirs);
}

#[tokio::test]
async fn who_orders_an_add_on_whose_name_a_first_deploy_takes_at_that_moment_is_told_so() {
    let moment = Moment::new(false).await;
    let _passing = moment.platform.let_time_pass();
    let order = tokio::spawn(moment.order());
    moment.until_held().await;
    moment.deploy().await.succeeded().await.unwrap();
    moment.store.gate.add_permits(1);
    assert_eq!(order.await.unwrap().unwrap_err().code(), ErrorCode::Exists);
    moment.has_one().await;
}

#[tokio::test]
async fn of_two_who_order_an_add_on_of_one_name_at_once_one_is_told_so() {
    let moment = Moment::new(false).await;
    let _passing = moment.platform.let_time_pass();
    let first = tokio::spawn(moment.order());
    moment.until_held().await;
    let (theirs, made) = moment.order().await.unwrap();
    moment.store.gate.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap_err().code(), ErrorCode::Exists);
    made.succeeded().await.unwrap();
    moment.engine.app(&hello()).await.unwrap();
    assert_eq!(moment.engine.addons(&hello()).await.unwrap()[0].id, theirs);
}
