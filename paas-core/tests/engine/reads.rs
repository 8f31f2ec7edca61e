//! A store that doesn't answer for a moment.

use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use paas_core::store::Table;
use paas_core::testkit::world::TestPlatform;
use paas_core::{AddonOrder, Error, ErrorCode, Result, Retry};

use crate::hooked::{Call, Hook, Hooked};
use crate::{hello, me};

/// Fails one look at a row, so many looks from now on; none at 0 and below.
#[derive(Debug, Default)]
struct Away(AtomicI64);

#[async_trait]
impl Hook for Away {
    async fn before(&self, call: Call<'_>) -> Result<()> {
        match call {
            // Workflows are looked at by whoever waits for them, too.
            Call::Get(table) if table != Table::Workflows && self.0.fetch_sub(1, Ordering::SeqCst) == 1 => {
                Err(Error::new(ErrorCode::Unavailable, "away").with_retry(Retry::Backoff))
            }
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_release_that_is_said_to_be_live_is_live_whenever_the_store_did_not_answer() {
    for at in 1..200 {
        let platform = TestPlatform::new().unwrap();
        let store = Hooked::new(platform.clock(), Away::default());
        let engine = platform.engine(store.clone()).unwrap().build().unwrap();
        let _passing = platform.let_time_pass();
        engine.create_app(&hello(), &me()).await.unwrap();
        engine.start().await.unwrap();
        let first = TestPlatform::deploy(&engine, &hello(), "web: one\n").await.unwrap();
        first.succeeded().await.unwrap();
        store.hook.0.store(at, Ordering::SeqCst);
        let second = TestPlatform::deploy(&engine, &hello(), "web: two\n").await;
        let reached = store.hook.0.swap(0, Ordering::SeqCst);
        let ended = match second {
            Ok(second) => {
                store.hook.0.store(reached, Ordering::SeqCst);
                second.ended().await.unwrap().state
            }
            // It was never asked for.
            Err(_) => paas_core::WorkflowState::Failed,
        };
        let reached = store.hook.0.swap(0, Ordering::SeqCst) <= 0;
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
        let store = Hooked::new(platform.clock(), Away::default());
        let engine = platform.engine(store.clone()).unwrap().build().unwrap();
        let _passing = platform.let_time_pass();
        engine.create_app(&hello(), &me()).await.unwrap();
        engine.start().await.unwrap();
        let order = AddonOrder::new("fakesql".parse().unwrap());
        let (_, made) = engine.add_addon(&hello(), order, &me()).await.unwrap();
        store.hook.0.store(at, Ordering::SeqCst);
        made.succeeded().await.unwrap();
        let reached = store.hook.0.swap(0, Ordering::SeqCst) <= 0;
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
