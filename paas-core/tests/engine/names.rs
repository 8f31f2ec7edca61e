//! An add-on of a first deploy and one that somebody orders at the same moment never get the same name.

use std::sync::Arc;

use async_trait::async_trait;
use paas_core::store::Table;
use paas_core::testkit::world::{TestPlatform, check};
use paas_core::{AddonId, AddonOrder, Engine, ErrorCode, Result, WorkflowHandle, WorkflowState};
use tokio::sync::{Semaphore, watch};

use crate::hooked::{Call, Hook, Hooked};
use crate::{hello, me};

const CODE: &str = "web: a\n---\n{\"addons\":[{\"service\":\"fakesql\",\"plan\":null,\"attachment\":null}]}";

/// Holds the first transaction back that takes a name: of a workflow, or of whoever asks from outside.
#[derive(Debug)]
struct Late {
    of_workflow: bool,
    /// The first one is let through once there is a permit.
    gate: Semaphore,
    held: watch::Sender<bool>,
}

#[async_trait]
impl Hook for Late {
    async fn before(&self, call: Call<'_>) -> Result<()> {
        if let Call::Commit(tx) = call
            && tx.fence.is_some() == self.of_workflow
            && tx.writes.iter().any(|write| write.table == Table::Addons)
            && !self.held.send_replace(true)
        {
            drop(self.gate.acquire().await.unwrap());
        }
        Ok(())
    }
}

struct Moment {
    platform: TestPlatform,
    store: Arc<Hooked<Late>>,
    engine: Engine,
}

impl Moment {
    async fn new(of_workflow: bool) -> Self {
        let platform = TestPlatform::new().unwrap();
        let (gate, held) = (Semaphore::new(0), watch::Sender::new(false));
        let store = Hooked::new(platform.clock(), Late { of_workflow, gate, held });
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
        self.store.hook.held.subscribe().wait_for(|held| *held).await.unwrap();
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
    moment.store.hook.gate.add_permits(1);
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
    moment.store.hook.gate.add_permits(1);
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
    moment.store.hook.gate.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap_err().code(), ErrorCode::Exists);
    made.succeeded().await.unwrap();
    moment.engine.app(&hello()).await.unwrap();
    assert_eq!(moment.engine.addons(&hello()).await.unwrap()[0].id, theirs);
}
