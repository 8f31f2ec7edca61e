//! Cuts the power at one write after another, and looks whether anything was lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::scenario::{Outcome, Scenario, app, deploy};
use super::{Cut, CutStore};
use crate::store::{ListQuery, QueueState, Store, Table};
use crate::testkit::history::{History, Violation};
use crate::testkit::world::{TestPlatform, check};
use crate::{Engine, Result, WorkflowState};

/// At which writes the power is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cuts {
    /// At each, before it and behind it.
    All,
    /// At one of so many, on one side: which ones, the seed tells.
    OneIn(u64, u64),
}

impl Cuts {
    /// All where the environment says `PAAS_CUTS=all`, else one of so many by the seed of the day: `PAAS_SEED`, or 0.
    pub fn one_in(number: u64) -> Self {
        if std::env::var("PAAS_CUTS").is_ok_and(|cuts| cuts == "all") {
            return Self::All;
        }
        Self::OneIn(number.max(1), crate::testkit::seeds(1).start)
    }

    /// The sides of the cut after `writes` writes.
    fn at(self, writes: u64) -> &'static [Cut] {
        match self {
            Self::All => &[Cut::Lost, Cut::Unanswered],
            Self::OneIn(number, seed) if (writes + seed).is_multiple_of(number) => {
                if ((writes + seed) / number).is_multiple_of(2) { &[Cut::Lost] } else { &[Cut::Unanswered] }
            }
            Self::OneIn(..) => &[],
        }
    }
}

/// Lets a scenario happen again and again, each time with a cut at another write, and lets another engine go on. Returns how
/// often it did. With `paused` the time is tokio's paused one, which only a store in memory can bear.
///
/// # Panics
/// Where something was lost, doubled or never ends, or a history breaks a promise.
pub fn power_cuts(
    scenario: Scenario,
    cuts: Cuts,
    paused: bool,
    store_of: &dyn Fn(&TestPlatform) -> Arc<dyn Store>,
) -> u64 {
    let mut done = 0;
    for writes in 1.. {
        assert!(writes < 300, "{scenario} never ends");
        for cut in cuts.at(writes) {
            let run = PowerCut { scenario, writes, cut: *cut, paused };
            if !run.cut(store_of) {
                return done;
            }
            done += 1;
        }
    }
    done
}

/// What comes to an end does so in far fewer.
const MOVES: u32 = 5000;

const LONGEST_LEASE: Duration = Duration::from_secs(3 * 3600);

struct PowerCut {
    scenario: Scenario,
    writes: u64,
    cut: Cut,
    paused: bool,
}

impl PowerCut {
    /// A runtime whose end is the end of everything on it.
    fn runtime(&self) -> Runtime {
        let built = Builder::new_current_thread().enable_all().start_paused(self.paused).build();
        built.expect("a runtime")
    }

    /// How often to look. Paused time costs nothing but the looks, of which an hour must not have too many.
    fn look(&self) -> Duration {
        match (self.paused, self.scenario.outcome) {
            (true, Outcome::Timeout) => Duration::from_secs(20),
            (true, _) => Duration::from_millis(200),
            (false, _) => Duration::from_millis(2),
        }
    }

    fn engine(&self, platform: &TestPlatform, store: Arc<dyn Store>) -> Engine {
        let mut options = platform.options();
        if self.paused {
            options.poll = self.look() * 5;
        }
        if self.scenario.outcome == Outcome::Timeout {
            options.build_timeout = Duration::from_millis(20);
            // Each renewal during the hour would be one more write to cut at.
            options.lease = LONGEST_LEASE;
        }
        platform.engine(store).and_then(|engine| engine.with_options(options).build()).expect("an engine")
    }

    /// False where the scenario ends before the cut.
    fn cut(&self, store_of: &dyn Fn(&TestPlatform) -> Arc<dyn Store>) -> bool {
        let platform = TestPlatform::new().expect("a platform");
        let store = store_of(&platform);
        self.runtime().block_on(async {
            let _passing = platform.let_time_pass();
            let engine = self.engine(&platform, store.clone());
            engine.start().await.expect("the engine starts");
            self.scenario.before(&engine).await.expect("what is there before");
            rest(store.as_ref(), self.look()).await;
            engine.shutdown().await;
        });
        let cutting = Arc::new(CutStore::new(store.clone(), self.writes, self.cut));
        let dying = self.runtime();
        let was_cut = dying.block_on(async {
            let _passing = platform.let_time_pass();
            let engine = self.engine(&platform, cutting.clone());
            let work = async {
                engine.start().await?;
                self.scenario.happen(&platform, &engine).await?;
                rest(cutting.as_ref(), self.look()).await;
                Ok::<_, crate::Error>(())
            };
            tokio::select! {
                result = work => { result.expect("what is asked for is acknowledged"); false }
                () = cutting.cut() => true,
            }
        });
        // Everything that the engine was doing ends here, in the middle.
        drop(dying);
        if matches!(self.scenario.outcome, Outcome::Cancel) {
            // Nobody may be there any more who cancels what hangs.
            platform.world.mend();
        }
        platform.clock.advance(LONGEST_LEASE);
        self.runtime().block_on(async {
            let _passing = platform.let_time_pass();
            self.goes_on(&platform, store).await;
        });
        was_cut
    }

    /// Waits until it is so: for as long as anything goes on at all, however slowly, but not for what goes on for ever.
    async fn comes_to(
        &self,
        platform: &TestPlatform,
        store: &dyn Store,
        mut so: impl AsyncFnMut() -> bool,
    ) -> bool {
        let patience = Duration::from_secs(if self.paused { 4 * 3600 } else { 120 });
        let (mut seen, mut cursor, mut moves) = (0, 0, 0);
        let mut quiet = Instant::now();
        while !so().await {
            let happened = platform.world.history().len();
            let told =
                store.events(cursor, None, 1000).await.ok().and_then(|events| events.last().map(|e| e.seq));
            if happened > seen || told.is_some() {
                (seen, cursor, moves) = (happened, told.unwrap_or(cursor), moves + 1);
                quiet = Instant::now();
            }
            if quiet.elapsed() > patience || moves > MOVES {
                return false;
            }
            tokio::time::sleep(self.look()).await;
        }
        true
    }

    /// Another engine brings everything to its end, and nothing is wrong then.
    async fn goes_on(&self, platform: &TestPlatform, store: Arc<dyn Store>) {
        let Self { scenario, writes, cut, .. } = self;
        let told = || format!("{scenario} cut at write {writes}, {cut:?}: {:#?}", platform.world.history());
        let engine = self.engine(platform, store.clone());
        engine.start().await.expect("the engine starts");
        let rested = self.comes_to(platform, store.as_ref(), async || rests(store.as_ref()).await).await;
        assert!(rested, "it does not come to rest: {}", told());
        // The reconciler's last word may be on its way.
        let wrong = async || sound(platform, &engine).await.expect("the engine can be asked");
        let well = self.comes_to(platform, store.as_ref(), async || wrong().await.is_empty()).await;
        assert!(well, "{:#?} {}", wrong().await, told());
        let keys = engine.key_state().await.expect("the keys can be looked at");
        assert_eq!(keys.behind, 0, "{keys:?} {}", told());
        let once = ["run ", "start ", "provision ", "deprovision ", "rotate ", "revoke "];
        let twice = platform.repeated();
        let doubled = twice.keys().any(|effect| once.iter().any(|one| effect.starts_with(one)));
        assert!(!doubled, "it happened twice: {twice:?} {}", told());
        // The platform works: a deploy goes through.
        if engine.app(&app()).await.is_ok() {
            platform.world.mend();
            platform.world.run_status(0);
            let last = async { deploy(&engine, "web: last\n").await?.ended().await };
            let last = last.await.expect("a deploy is acknowledged");
            assert_eq!(last.state, WorkflowState::Succeeded, "{:?} {}", last.failure, told());
        }
        engine.shutdown().await;
        let history = History::read(store.as_ref()).await.expect("a history");
        let broken = history.ran(platform.world.release_phases()).check();
        assert!(broken.is_empty(), "{broken:#?} {}", told());
    }
}

/// Waits until no workflow is open.
async fn rest(store: &dyn Store, look: Duration) {
    while !rests(store).await {
        tokio::time::sleep(look).await;
    }
}

async fn rests(store: &dyn Store) -> bool {
    let open = ListQuery::all().states([QueueState::Queued, QueueState::Active, QueueState::Parked]).limit(1);
    store.list(Table::Workflows, &open).await.is_ok_and(|rows| rows.is_empty())
}

async fn sound(platform: &TestPlatform, engine: &Engine) -> Result<Vec<Violation>> {
    if engine.apps().await?.is_empty() {
        let left = platform.world.instances().len() + platform.world.addons().len();
        let what = Violation(format!("{left} instances and resources are left of an app that is gone"));
        return Ok(if left == 0 { Vec::new() } else { vec![what] });
    }
    check(&platform.world, engine, &app()).await
}
