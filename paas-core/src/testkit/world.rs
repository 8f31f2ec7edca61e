//! A world of fakes: providers that keep their state here and count every effect by its key, so that a test can say
//! what happened once, twice or never. What goes wrong is planned by [`World::plan`].

mod addons;
mod build;
mod invariants;
mod platform;
mod routes;
mod run;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};

pub use addons::FakeAddons;
pub use build::{FakeBuilder, FakeSource};
pub use invariants::check;
pub use platform::{Parts, TestPlatform};
pub use routes::FakeRouter;
pub use run::FakeRuntime;

use crate::{
    AddonId, AppName, AppRoutes, Context, Digest, Error, ErrorCode, Instance, InstanceName, ReleaseId,
    Result, Retry, RuntimeEvent, Version, VolumeName, WorkflowId,
};

/// What goes wrong in one call of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It fails for good, before any effect.
    Fail(ErrorCode),
    /// It fails in a way that may pass, before any effect.
    Flake,
    /// It happens, and then fails in a way that may pass: the answer is lost.
    AnswerLost,
    /// It takes this long, of tokio's time.
    Delay(Duration),
    /// It hangs until it is cancelled.
    Hang,
}

/// What the fakes keep.
#[derive(Debug, Default)]
struct State {
    /// Every effect by its key: `start web.1 v2`, `route hello 3`, `provision …`.
    effects: BTreeMap<String, u32>,
    /// Everything that happened, in order.
    history: Vec<String>,
    /// What goes wrong, by the call's name.
    plan: BTreeMap<&'static str, VecDeque<Fault>>,
    instances: Vec<Instance>,
    /// What each instance was started with.
    specs: BTreeMap<(AppName, ReleaseId, InstanceName), Digest>,
    volumes: BTreeSet<(AppName, VolumeName)>,
    /// The newest claim of each workflow that was seen here.
    fences: BTreeMap<WorkflowId, u64>,
    /// What one-off runs gave, by key.
    runs: BTreeMap<String, i32>,
    routes: BTreeMap<AppName, AppRoutes>,
    addons: BTreeMap<AddonId, Vec<AppName>>,
    credentials: BTreeMap<AddonId, addons::Credentials>,
    /// Instances whose process type or release is named here crash instead of coming up.
    crashing: Vec<String>,
    /// Nobody can see what runs.
    blind: bool,
    /// What the engine calls beside workflows and gets no answer of, by app and call.
    stalled: BTreeSet<(AppName, &'static str)>,
    /// What one-off runs end with.
    run_status: i32,
    next_port: u16,
}

/// A world of fakes. Clones are the same world: it outlives engines.
#[derive(Debug, Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<RuntimeEvent>,
    mended: Arc<Notify>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty one, in which nothing goes wrong.
    pub fn new() -> Self {
        Self { state: Arc::default(), changes: broadcast::Sender::new(1024), mended: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next calls of this name go wrong so: `fetch`, `detect`, `build`, `ensure`, `run_once`, `retire`, `apply`, `drain`,
    /// `provision`, `bind`, `rotate`, `revoke`, `deprovision`, `forget`.
    pub fn plan(&self, call: &'static str, faults: impl IntoIterator<Item = Fault>) {
        self.lock().plan.entry(call).or_default().extend(faults);
    }

    /// How many planned faults of this call are still to come.
    pub fn planned(&self, call: &str) -> usize {
        self.lock().plan.get(call).map_or(0, VecDeque::len)
    }

    /// Instances of this process type crash instead of coming up, until [`World::mend`].
    pub fn crash(&self, process: &str) {
        self.lock().crashing.push(process.to_owned());
    }

    /// Nobody can see what runs, until [`World::mend`]: a look fails in a way that may pass, and counts as `look in vain`.
    pub fn blind(&self) {
        self.lock().blind = true;
    }

    /// Calls of this name for this app don't return, not even when they are cancelled, until [`World::mend`]. Of `ensure`, `retire`, `apply` only those that are made beside workflows, and `observe` of the
    /// runtime always.
    pub fn stall(&self, app: &AppName, call: &'static str) {
        self.lock().stalled.insert((app.clone(), call));
    }

    async fn stalled(&self, app: &AppName, call: &'static str, ctx: Option<&Context>) {
        let beside = ctx.is_none_or(|ctx| ctx.key.workflow.uuid().is_nil());
        let stalls = || beside && self.lock().stalled.contains(&(app.clone(), call));
        if stalls() {
            self.effect(format!("stall {call} {app}"));
        }
        loop {
            let mended = self.mended.notified();
            if !stalls() {
                return;
            }
            mended.await;
        }
    }

    /// Nothing goes wrong any more: instances come up and are seen, planned faults are forgotten.
    pub fn mend(&self) {
        let mut state = self.lock();
        state.blind = false;
        state.stalled.clear();
        state.crashing.clear();
        state.plan.clear();
        drop(state);
        self.mended.notify_waiters();
    }

    /// One-off runs end with this status.
    pub fn run_status(&self, status: i32) {
        self.lock().run_status = status;
    }

    /// How often an effect with this key happened.
    pub fn count(&self, effect: &str) -> u32 {
        self.lock().effects.get(effect).copied().unwrap_or(0)
    }

    /// Every effect and how often it happened.
    pub fn effects(&self) -> BTreeMap<String, u32> {
        self.lock().effects.clone()
    }

    /// Everything that happened, in order.
    pub fn history(&self) -> Vec<String> {
        self.lock().history.clone()
    }

    /// Each release phase that began, as often as it did.
    pub fn release_phases(&self) -> Vec<(AppName, Version)> {
        let history = self.lock().history.clone();
        let runs = history.iter().filter_map(|effect| effect.strip_prefix("run ")?.split_once(" release v"));
        runs.filter_map(|(app, version)| Some((app.parse().ok()?, Version::new(version.parse().ok()?)?)))
            .collect()
    }

    /// What runs, of every app.
    pub fn instances(&self) -> Vec<Instance> {
        self.lock().instances.clone()
    }

    /// The routes that users follow.
    pub fn routes(&self, app: &AppName) -> Option<AppRoutes> {
        self.lock().routes.get(app).cloned()
    }

    /// The resources that exist, with the apps that they are bound to.
    pub fn addons(&self) -> BTreeMap<AddonId, Vec<AppName>> {
        self.lock().addons.clone()
    }

    /// An instance ends by itself, and comes back on another port.
    pub fn restart_instance(&self, app: &AppName, name: &str) {
        let mut state = self.lock();
        state.next_port += 1;
        let address = address(state.next_port);
        for instance in &mut state.instances {
            if instance.app == *app && instance.name.to_string() == name {
                instance.address = Some(address);
                instance.restarts += 1;
            }
        }
        drop(state);
        self.changed(app);
    }

    /// The machine goes down and comes back: nothing runs, and the router knows nobody.
    pub fn reboot(&self) {
        let mut state = self.lock();
        state.instances.clear();
        state.routes.clear();
    }

    fn changed(&self, app: &AppName) {
        // Nobody listening is fine: it is a hint.
        let _ = self.changes.send(RuntimeEvent::new(app.clone(), None));
    }

    fn effect(&self, key: impl Into<String>) {
        let key = key.into();
        let mut state = self.lock();
        *state.effects.entry(key.clone()).or_default() += 1;
        state.history.push(key);
    }

    /// Refuses what an engine asks for that lost the workflow to another one, which was here already.
    fn refuse_older(&self, ctx: &Context, call: &str) -> Result<()> {
        let mut state = self.lock();
        let seen = state.fences.entry(ctx.key.workflow).or_default();
        *seen = ctx.fence.max(*seen);
        if ctx.fence == *seen {
            return Ok(());
        }
        let what = format!("{call} under the claim {}, after one under the claim {seen}", ctx.fence);
        Err(Error::new(ErrorCode::LeaseLost, what))
    }

    /// Carries out `effect` the way that the plan says.
    async fn act<T>(
        &self,
        ctx: &Context,
        call: &'static str,
        effect: impl FnOnce(&Self) -> Result<T> + Send,
    ) -> Result<T> {
        // What the engine does beside workflows is not planned: its time is nobody's to tell.
        let planned = !ctx.key.workflow.uuid().is_nil();
        if planned {
            self.refuse_older(ctx, call)?;
        }
        let fault = self.lock().plan.get_mut(call).filter(|_| planned).and_then(VecDeque::pop_front);
        match fault {
            None => effect(self),
            Some(Fault::Fail(code)) => Err(Error::new(code, format!("{call} was planned to fail"))),
            Some(Fault::Flake) => Err(flake(call)),
            Some(Fault::AnswerLost) => effect(self).and(Err(flake(call))),
            Some(Fault::Delay(time)) => {
                ctx.cancel.guard(tokio::time::sleep(time)).await?;
                self.refuse_older(ctx, call)?;
                effect(self)
            }
            Some(Fault::Hang) => Err(ctx.cancel.cancelled().await.into()),
        }
    }
}

fn flake(call: &str) -> Error {
    Error::new(ErrorCode::Unavailable, format!("{call} was planned to fail this time"))
        .with_retry(Retry::Backoff)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
