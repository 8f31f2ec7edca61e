//! The engines, each in its own weather, and their fates.

use std::sync::Arc;

use super::Storm;
use crate::testkit::chaos::Chaos;
use crate::testkit::random::Random;
use crate::testkit::world::{Parts, TestPlatform};
use crate::{Engine, Result, Store};

pub(super) struct Fleet<'a> {
    storm: &'a Storm,
    platform: &'a TestPlatform,
    store: &'a dyn MakeStore,
    parts: &'a dyn Fn() -> Result<Parts>,
    engines: Vec<Manned>,
    /// Stopped in order, and perhaps not done with it.
    ending: Vec<(tokio::task::JoinHandle<()>, Chaos)>,
    started: usize,
}

struct Manned {
    name: String,
    engine: Engine,
    chaos: Chaos,
}

/// An asynchronous closure as an object.
pub(super) trait MakeStore {
    fn make(&self) -> std::pin::Pin<Box<dyn Future<Output = Arc<dyn Store>> + '_>>;
}

impl<F: AsyncFn() -> Arc<dyn Store>> MakeStore for F {
    fn make(&self) -> std::pin::Pin<Box<dyn Future<Output = Arc<dyn Store>> + '_>> {
        Box::pin(self())
    }
}

impl<'a> Fleet<'a> {
    pub(super) fn new(
        storm: &'a Storm,
        platform: &'a TestPlatform,
        store: &'a dyn MakeStore,
        parts: &'a dyn Fn() -> Result<Parts>,
    ) -> Self {
        Self { storm, platform, store, parts, engines: Vec::new(), ending: Vec::new(), started: 0 }
    }

    /// One more engine.
    pub(super) async fn start(&mut self, random: &mut Random) {
        let chaos = Chaos::new(random.next()).with_rates(self.storm.weather());
        let store = chaos.store(self.store.make().await);
        let parts = chaos.around((self.parts)().expect("parts"));
        let builder = self.platform.engine_of(store, parts).expect("an engine's parts");
        let engine = builder.with_options(self.storm.options(self.platform)).build().expect("an engine");
        // A store that is away at the start is the embedder's to handle: it starts the engine again.
        while engine.start().await.is_err() {
            tokio::time::sleep(self.storm.lease / 10).await;
        }
        self.started += 1;
        self.engines.push(Manned { name: format!("engine {}", self.started), engine, chaos });
    }

    /// One that answers; they are asked in turn until one does.
    pub(super) fn any(&self, random: &mut Random) -> Option<(String, Engine)> {
        let awake: Vec<&Manned> = self.engines.iter().filter(|manned| !manned.chaos.is_frozen()).collect();
        if awake.is_empty() {
            return None;
        }
        let chosen = awake[random.index(0..awake.len())];
        Some((chosen.name.clone(), chosen.engine.clone()))
    }

    /// Something happens to an engine.
    pub(super) async fn suffer(&mut self, random: &mut Random, story: &mut Vec<String>) {
        let index = random.index(0..self.engines.len());
        match random.below(3) {
            0 => {
                let dead = self.engines.remove(index);
                story.push(format!("{} dies", dead.name));
                dead.chaos.kill();
                self.start(random).await;
            }
            1 => {
                let time = random.time(self.storm.lease * 3);
                let frozen = &self.engines[index];
                story.push(format!("{} freezes for {time:?}", frozen.name));
                let chaos = frozen.chaos.clone();
                chaos.freeze();
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    chaos.thaw();
                });
            }
            _ => {
                let Manned { name, engine, chaos } = self.engines.remove(index);
                story.push(format!("{name} is stopped"));
                self.ending.push((tokio::spawn(async move { engine.shutdown().await }), chaos));
                self.start(random).await;
            }
        }
    }

    /// Nothing goes wrong any more.
    pub(super) fn calm(&self) {
        for chaos in self.engines.iter().map(|m| &m.chaos).chain(self.ending.iter().map(|(_, c)| c)) {
            chaos.calm();
            chaos.thaw();
        }
    }

    /// Stops all in order; false where one doesn't.
    pub(super) async fn stop(self) -> bool {
        let all = async {
            for manned in &self.engines {
                manned.engine.shutdown().await;
            }
            for (ending, _) in self.ending {
                ending.await.expect("a shutdown doesn't panic");
            }
        };
        tokio::time::timeout(self.storm.patience, all).await.is_ok()
    }
}
