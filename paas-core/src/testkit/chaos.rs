//! Weather for an engine: its providers and its store fail, answer late or never, and the engine itself may freeze.
//!
//! One [`Chaos`] is the weather of one engine. Wrap whatever the engine is made of, and let it work:
//!
//! ```
//! use paas_core::testkit::chaos::{Chaos, Rates};
//! use paas_core::testkit::world::TestPlatform;
//! use paas_core::{Store, store::MemoryStore};
//! # use std::sync::Arc;
//! let platform = TestPlatform::new()?;
//! let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
//! let chaos = Chaos::new(7).with_rates(Rates::default());
//! let engine = platform.engine_of(chaos.store(store), chaos.around(platform.parts()?))?.build()?;
//! # let _ = engine;
//! # Ok::<(), paas_core::Error>(())
//! ```

mod providers;
mod store;

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::random::Random;
use super::world::{Fault, Parts};
use crate::{
    AddonProvider, Blobs, Builder, Cancel, Digest, Error, ErrorCode, Logs, Result, Retry, Router, Runtime,
    Source, Store,
};

/// Of a thousand calls, how many go wrong, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rates {
    /// Fail, and have done nothing.
    pub before: u32,
    /// Happen, and say that they failed.
    pub after: u32,
    /// Take up to [`Rates::slow`].
    pub delay: u32,
    /// Hang until they are cancelled; those that can't be, for [`Rates::stuck`].
    pub hang: u32,
    /// The longest delay.
    pub slow: Duration,
    /// How long a call hangs that nobody can cancel.
    pub stuck: Duration,
}

impl Rates {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self { before: 0, after: 0, delay: 0, hang: 0, ..Self::default() }
    }

    /// A part of it.
    #[must_use]
    pub fn one_in(self, parts: u32) -> Self {
        let Self { before, after, delay, hang, .. } = self;
        Self {
            before: before / parts,
            after: after / parts,
            delay: delay / parts,
            hang: hang / parts,
            ..self
        }
    }

    /// With these times.
    #[must_use]
    pub fn lasting(self, slow: Duration, stuck: Duration) -> Self {
        Self { slow, stuck, ..self }
    }
}

impl Default for Rates {
    /// Every sixth call goes wrong.
    fn default() -> Self {
        let (slow, stuck) = (Duration::from_secs(3), Duration::from_secs(30));
        Self { before: 40, after: 40, delay: 60, hang: 20, slow, stuck }
    }
}

/// Before a call's effect or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Side {
    /// Nothing has happened yet.
    Before,
    /// It has happened, and nobody has heard.
    After,
}

/// The weather of one engine. Clones are the same weather.
///
/// What goes wrong is told by the seed, the call's name and how many such calls there were: not by what else happens at
/// the same time.
#[derive(Debug, Clone)]
pub struct Chaos {
    seed: u64,
    rates: Rates,
    store: Rates,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: Mutex<BTreeMap<&'static str, u64>>,
    /// Where the engine is to freeze.
    trap: Mutex<Option<Trap>>,
    sky: watch::Sender<Sky>,
}

#[derive(Debug)]
struct Trap {
    call: &'static str,
    side: Side,
    /// How many such calls are let through before.
    passes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sky {
    calm: bool,
    frozen: bool,
    dead: bool,
}

impl Chaos {
    /// Weather of this seed, with the default rates; a store's are a quarter of them, since every step calls it often.
    pub fn new(seed: u64) -> Self {
        let state = Arc::default();
        Self { seed, rates: Rates::default(), store: Rates::default().one_in(4), state }
    }

    /// With these rates, and a quarter of them for stores.
    #[must_use]
    pub fn with_rates(self, rates: Rates) -> Self {
        Self { rates, store: rates.one_in(4), ..self }
    }

    /// Nothing goes wrong any more, and what hangs fails now.
    pub fn calm(&self) {
        self.state.sky.send_modify(|sky| sky.calm = true);
    }

    /// No call of this engine goes on, as if its process had been stopped: what was asked of a provider already happens
    /// late, once it thaws, or never.
    pub fn freeze(&self) {
        self.state.sky.send_modify(|sky| sky.frozen = true);
    }

    /// As [`Chaos::freeze`], and nothing thaws it: the engine is dead, and its process with it.
    pub fn kill(&self) {
        self.state.sky.send_modify(|sky| sky.dead = true);
    }

    /// Freezes at the `number`th call from now of this name, such as `commit` or `ensure`: a method of a trait, or for those
    /// that two traits have `routes` and `get_blob`, `renew_blob`, `list_blobs`.
    pub fn freeze_at(&self, call: &'static str, side: Side, number: u64) {
        *lock(&self.state.trap) = Some(Trap { call, side, passes: number.saturating_sub(1) });
    }

    /// Calls go on where they were.
    pub fn thaw(&self) {
        self.state.sky.send_modify(|sky| sky.frozen = false);
    }

    /// Whether it is frozen now, or dead.
    pub fn is_frozen(&self) -> bool {
        let sky = self.state.sky.borrow();
        sky.frozen || sky.dead
    }

    /// Waits until it is frozen.
    pub async fn frozen(&self) {
        // The sender lives as long as this.
        let _ = self.state.sky.subscribe().wait_for(|sky| sky.frozen).await;
    }

    /// Puts the weather around all parts.
    #[must_use]
    pub fn around(&self, parts: Parts) -> Parts {
        Parts {
            runtime: self.runtime(parts.runtime),
            router: self.router(parts.router),
            sources: parts.sources.into_iter().map(|source| self.source(source)).collect(),
            builders: parts.builders.into_iter().map(|builder| self.builder(builder)).collect(),
            addons: parts.addons.into_iter().map(|provider| self.addon(provider)).collect(),
            blobs: self.blobs(parts.blobs),
            logs: self.logs(parts.logs),
        }
    }

    /// Around a source.
    pub fn source(&self, inner: Arc<dyn Source>) -> Arc<dyn Source> {
        Arc::new(providers::Wrapped::new(self, inner))
    }

    /// Around a builder.
    pub fn builder(&self, inner: Arc<dyn Builder>) -> Arc<dyn Builder> {
        Arc::new(providers::Wrapped::new(self, inner))
    }

    /// Around a runtime.
    pub fn runtime(&self, inner: Arc<dyn Runtime>) -> Arc<dyn Runtime> {
        Arc::new(providers::Wrapped::new(self, inner))
    }

    /// Around a router.
    pub fn router(&self, inner: Arc<dyn Router>) -> Arc<dyn Router> {
        Arc::new(providers::Wrapped::new(self, inner))
    }

    /// Around a provider of add-ons.
    pub fn addon(&self, inner: Arc<dyn AddonProvider>) -> Arc<dyn AddonProvider> {
        Arc::new(providers::Wrapped::new(self, inner))
    }

    /// Around blobs.
    pub fn blobs(&self, inner: Arc<dyn Blobs>) -> Arc<dyn Blobs> {
        Arc::new(providers::Wrapped::new(self, inner))
    }

    /// Around logs.
    pub fn logs(&self, inner: Arc<dyn Logs>) -> Arc<dyn Logs> {
        Arc::new(providers::Wrapped::new(self, inner))
    }

    /// Around a store.
    pub fn store(&self, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(store::StormyStore::new(self, inner))
    }

    /// Carries out a call of a provider the way that the weather is.
    async fn pass<T>(
        &self,
        call: &'static str,
        cancel: Option<&Cancel>,
        effect: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.go(call, self.rates, cancel, effect).await
    }

    async fn go<T>(
        &self,
        call: &'static str,
        rates: Rates,
        cancel: Option<&Cancel>,
        effect: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let fault = self.draw(call, rates);
        self.warm(call, Side::Before).await;
        let answer = match fault {
            None => effect.await,
            Some(Fault::AnswerLost) => effect.await.and(Err(away(call))),
            Some(Fault::Delay(time)) => match cancelled(cancel, tokio::time::sleep(time)).await {
                Ok(()) => effect.await,
                Err(stopped) => Err(stopped),
            },
            Some(Fault::Hang) => self.hang(call, rates, cancel).await,
            Some(_) => Err(away(call)),
        };
        self.warm(call, Side::After).await;
        answer
    }

    /// What goes wrong with the next call of this name.
    fn draw(&self, call: &'static str, rates: Rates) -> Option<Fault> {
        let mut calls = lock(&self.state.calls);
        let number = calls.entry(call).or_default();
        *number += 1;
        let key = Digest::of_parts([self.seed.to_string(), call.to_owned(), number.to_string()]).hex();
        drop(calls);
        if self.state.sky.borrow().calm {
            return None;
        }
        let mut random = Random::new(u64::from_str_radix(&key[..16], 16).unwrap_or_default());
        let mut dice = random.below(1000);
        let mut falls = |rate: u32| {
            let hit = dice < u64::from(rate);
            dice = dice.saturating_sub(u64::from(rate));
            hit
        };
        if falls(rates.before) {
            Some(Fault::Flake)
        } else if falls(rates.after) {
            Some(Fault::AnswerLost)
        } else if falls(rates.delay) {
            Some(Fault::Delay(random.time(rates.slow)))
        } else {
            falls(rates.hang).then_some(Fault::Hang)
        }
    }

    /// Waits while it is frozen.
    async fn warm(&self, call: &'static str, side: Side) {
        let falls = |trap: &mut Trap| {
            let meant = trap.call == call && trap.side == side;
            let now = meant && trap.passes == 0;
            trap.passes -= u64::from(meant && !now);
            now
        };
        if lock(&self.state.trap).take_if(falls).is_some() {
            self.freeze();
        }
        // The sender lives as long as this.
        let _ = self.state.sky.subscribe().wait_for(|sky| !sky.frozen && !sky.dead).await;
    }

    async fn hang<T>(&self, call: &'static str, rates: Rates, cancel: Option<&Cancel>) -> Result<T> {
        let mut sky = self.state.sky.subscribe();
        let calm = async {
            // The sender lives as long as this.
            let _ = sky.wait_for(|sky| sky.calm).await;
        };
        let stuck = async {
            match cancel {
                Some(_) => pending().await,
                None => tokio::time::sleep(rates.stuck).await,
            }
        };
        let ended = async {
            tokio::select! {
                () = calm => {}
                () = stuck => {}
            }
        };
        cancelled(cancel, ended).await.and(Err(away(call)))
    }
}

/// Waits, unless it is cancelled.
async fn cancelled(cancel: Option<&Cancel>, wait: impl Future<Output = ()>) -> Result<()> {
    if let Some(cancel) = cancel {
        return cancel.guard(wait).await;
    }
    wait.await;
    Ok(())
}

fn away(call: &str) -> Error {
    Error::new(ErrorCode::Unavailable, format!("the weather is bad: {call} may or may not have happened"))
        .with_retry(Retry::Backoff)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
