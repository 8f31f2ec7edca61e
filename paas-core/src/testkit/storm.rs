//! A storm: random wishes of users, on several apps and engines, while everything around the engines fails, hangs and
//! dies. Then the calm, in which all that was begun must end; and then the question whether a promise was broken.
//!
//! ```
//! use paas_core::Store;
//! use paas_core::store::MemoryStore;
//! use paas_core::testkit::storm::Storm;
//! use paas_core::testkit::world::TestPlatform;
//! # use std::sync::Arc;
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
//! # runtime.block_on(async {
//! let platform = TestPlatform::new()?;
//! let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
//! Storm::new(1).with_wishes(10).over(&platform, async || store.clone(), || platform.parts()).await;
//! # Ok::<(), paas_core::Error>(())
//! # }).unwrap();
//! # Ok::<(), std::io::Error>(())
//! ```

mod calm;
mod fleet;
mod users;

use std::sync::Arc;
use std::time::Duration;

use self::fleet::Fleet;
use self::users::Users;
use super::chaos::Rates;
use super::random::Random;
use super::world::{Parts, TestPlatform};
use crate::{EngineOptions, Result, Store};

/// A storm of this seed: the same wishes and the same faults each time. What happens at once in several threads may still
/// come in another order.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Storm {
    seed: u64,
    engines: usize,
    apps: usize,
    wishes: usize,
    rates: Rates,
    lease: Duration,
    patience: Duration,
    fakes: bool,
}

impl Storm {
    /// Three engines, three apps, forty wishes, for tokio's paused time: everything takes as long as in life.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            engines: 3,
            apps: 3,
            wishes: 40,
            rates: Rates::default(),
            lease: Duration::from_secs(10),
            patience: Duration::from_secs(4 * 3600),
            fakes: true,
        }
    }

    /// So many engines share the store.
    #[must_use]
    pub fn with_engines(self, engines: usize) -> Self {
        Self { engines: engines.max(1), ..self }
    }

    /// So many apps at a time.
    #[must_use]
    pub fn with_apps(self, apps: usize) -> Self {
        Self { apps: apps.max(1), ..self }
    }

    /// So many wishes of users.
    #[must_use]
    pub fn with_wishes(self, wishes: usize) -> Self {
        Self { wishes, ..self }
    }

    /// With these rates of faults.
    #[must_use]
    pub fn with_rates(self, rates: Rates) -> Self {
        Self { rates, ..self }
    }

    /// For time that really passes, as stores and providers need that are more than memory: everything is as much faster
    /// as leases are shorter.
    #[must_use]
    pub fn in_real_time(self, lease: Duration) -> Self {
        Self { lease, patience: Duration::from_secs(120), ..self }
    }

    /// With providers of an embedder's own: then only the history is judged, not a world of fakes.
    #[must_use]
    pub fn with_own_providers(self) -> Self {
        Self { fakes: false, ..self }
    }

    /// Lets it rage over a platform. Each engine gets a store and parts of its own.
    ///
    /// # Panics
    /// Where a promise was broken, with the seed and the story.
    pub async fn over<S, P>(self, platform: &TestPlatform, store: S, parts: P)
    where
        S: AsyncFn() -> Arc<dyn Store>,
        P: Fn() -> Result<Parts>,
    {
        let passing = platform.let_time_pass();
        let mut random = Random::new(self.seed);
        let mut fleet = Fleet::new(&self, platform, &store, &parts);
        platform.world.crash(users::CRASHING);
        for _ in 0..self.engines {
            fleet.start(&mut random).await;
        }
        let mut users = Users::new(self.apps, self.lease, platform.keys());
        for _ in 0..self.wishes {
            if random.below(8) == 0 {
                fleet.suffer(&mut random, &mut users.story).await;
            } else {
                users.wish(&mut random, &fleet).await;
            }
            tokio::time::sleep(random.time(self.lease / 5)).await;
        }
        let wrong = calm::judge(&self, platform, fleet, &mut users, &store).await;
        drop(passing);
        assert!(
            wrong.is_empty(),
            "the storm of seed {} (PAAS_SEED={0} replays it) broke promises: {wrong:#?}\n{}\nwhat happened: {:#?}",
            self.seed,
            users.story.join("\n"),
            platform.world.history(),
        );
    }

    /// The faults, which last as long as fits the leases.
    fn weather(&self) -> Rates {
        self.rates.lasting(self.lease / 4, self.lease * 3)
    }

    fn options(&self, platform: &TestPlatform) -> EngineOptions {
        let mut options = platform.options();
        options.lease = self.lease;
        options.poll = self.lease / 20;
        options.max_backoff = self.lease / 20;
        options.stop_grace = self.lease / 5;
        options.keep_unused = self.lease * 60;
        options
    }
}
