//! A [`Runtime`] for simple backends: implement the small [`Launcher`], and restarts, back-off, health checks, one-off
//! commands and adoption come with it.
//!
//! ```text
//! ensure ──> slot web.1 ──launch──> process ──health──> up ──ends──> crashed ──back-off──┐
//!            slot web.2     ^                                                            │
//!            …              └────────────────────────────────────────────────────────────┘
//! observe, watch <── board
//! ```
//!
//! Nothing here is durable but what the launcher keeps: at its start the supervisor lists the launches, adopts those
//! that run, and remembers the others as crashed until the next `ensure` brings their spec. Config vars are never
//! written down.

mod backoff;
mod board;
mod health;
mod launcher;
mod once;
mod slot;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use paas_core::{
    AppName, Clock, Console, Context, Error, Exit, Instance, InstanceName, Logs, NodeName, ProcessSpec,
    ReleaseId, Result, RunSpec, Runtime, RuntimeCapabilities, RuntimeEvent, VolumeName, Window,
};
use rustix::fs::FlockOperation;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use backoff::Backoff;
pub use launcher::{CutOff, End, Found, Kill, Label, Launch, LaunchId, Launcher, Once, Process, Up};

use board::{Board, Place};
use slot::{Begin, Life, Slot};

/// Keeps processes running. See the [module](self).
///
/// Dropping it ends no process: the next one that is started on the same launcher adopts them.
pub struct Supervisor<L> {
    shared: Arc<Shared<L>>,
    node: Option<NodeName>,
    /// What nobody else supervises meanwhile; held by what still writes, too.
    lock: Option<Arc<File>>,
    /// What ends with it: all that looks after something.
    #[cfg_attr(not(feature = "docker"), allow(dead_code, reason = "it only has to be dropped"))]
    closing: Vec<DropGuard>,
}

struct Shared<L> {
    launcher: L,
    logs: Arc<dyn Logs>,
    clock: Arc<dyn Clock>,
    backoff: Backoff,
    board: Board,
    slots: Mutex<HashMap<Place, Arc<Slot>>>,
    /// One change at a time for each app.
    turns: Mutex<BTreeMap<AppName, Arc<tokio::sync::Mutex<()>>>>,
    /// The supervisor is gone.
    closed: CancellationToken,
}

impl<L> Shared<L> {
    fn slots(&self) -> MutexGuard<'_, HashMap<Place, Arc<Slot>>> {
        // Each change is one step: a panic elsewhere leaves the table whole.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot has ended: its place is free unless another has taken it over.
    fn release(&self, slot: &Arc<Slot>) {
        let mut slots = self.slots();
        if slots.get(&slot.place).is_some_and(|current| Arc::ptr_eq(current, slot)) {
            slots.remove(&slot.place);
        }
    }

    async fn turn(&self, app: &AppName) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(app.clone()).or_default())
        };
        turn.lock_owned().await
    }
}

impl<L: Launcher> Supervisor<L> {
    /// Takes over what the launcher finds running, and supervises it from now on.
    ///
    /// # Errors
    /// When the launcher can't list its launches.
    pub async fn start(
        launcher: L,
        logs: Arc<dyn Logs>,
        clock: Arc<dyn Clock>,
        backoff: Backoff,
    ) -> Result<Self> {
        let mut found = launcher.list(None).await?;
        let (board, slots, turns) = Default::default();
        let closed = CancellationToken::new();
        let closing = closed.clone().drop_guard();
        let shared = Shared { launcher, logs, clock, backoff, board, slots, turns, closed };
        let supervisor = Self { shared: Arc::new(shared), node: None, lock: None, closing: vec![closing] };
        // Newest first: an older launch for the same place is what a crash left half replaced.
        found.sort_by_key(|found| std::cmp::Reverse(found.process.id));
        for found in found {
            if found.label.once.is_none() {
                supervisor.adopt(found).await?;
            } else {
                supervisor.see_to_its_end(&found);
            }
        }
        Ok(supervisor)
    }

    /// As that of this machine, among several whose engines share a store.
    #[must_use]
    pub fn on(mut self, node: Option<NodeName>) -> Self {
        self.node = node;
        self
    }

    /// Nobody else supervises what this file locks until this is closed.
    #[cfg(any(feature = "docker", feature = "process"))]
    #[must_use]
    pub(crate) fn holding(mut self, lock: Arc<File>) -> Self {
        self.lock = Some(lock);
        self
    }

    /// Ends this too when it is dropped.
    #[cfg(feature = "docker")]
    #[must_use]
    pub(crate) fn ending(mut self, with: DropGuard) -> Self {
        self.closing.push(with);
        self
    }

    async fn adopt(&self, found: Found) -> Result<()> {
        let launcher = &self.shared.launcher;
        let Label { app, release, name, .. } = found.label.clone();
        let place = Place { app, release, name };
        let taken = self.shared.slots().contains_key(&place);
        let stopped = found.end.as_ref().is_some_and(|end| end.stopped);
        if taken || stopped {
            if found.end.is_none() {
                launcher.kill(found.process.id, Kill::Term).await?;
                launcher.wait(found.process.id).await?;
            }
            return launcher.forget(found.process.id).await;
        }
        self.begin(place, found.label.digest, None, Begin::Adopt(Box::new(found)));
        Ok(())
    }

    /// What starts and ends the processes.
    pub fn launcher(&self) -> &L {
        &self.shared.launcher
    }

    fn begin(
        &self,
        place: Place,
        digest: paas_core::Digest,
        spec: Option<Arc<ProcessSpec>>,
        begin: Begin,
    ) -> Arc<Slot> {
        let slot = Arc::new(Slot::new(place.clone(), digest, spec));
        self.shared.slots().insert(place, Arc::clone(&slot));
        let (shared, begun) = (Arc::clone(&self.shared), Arc::clone(&slot));
        let life = Life { shared, slot: begun, restarts: 0, crashes: 0 };
        if let Begin::Adopt(found) = &begin {
            // Before anybody can ask what there is.
            life.show(found);
        }
        tokio::spawn(life.run(begin));
        slot
    }

    /// Looks after nothing any more, as when it is dropped, whoever else still holds it: the processes go on, and the
    /// next supervisor of the same folder, in this process or another, adopts them. Nothing may be asked of this one any
    /// more.
    ///
    /// # Errors
    /// When the folder can't be unlocked.
    pub async fn close(&self) -> Result<()> {
        self.shared.closed.cancel();
        self.shared.launcher.close().await;
        let Some(lock) = &self.lock else { return Ok(()) };
        rustix::fs::flock(&**lock, FlockOperation::Unlock)
            .map_err(|e| Error::from_io("can't leave the instances to another process", e.into()))
    }

    /// Tells slots to stop; they are gone when the returned tokens are.
    fn stop(&self, which: impl Fn(&Place) -> bool) -> Vec<Arc<Slot>> {
        let slots = self.shared.slots();
        let stopped: Vec<_> = slots.values().filter(|slot| which(&slot.place)).cloned().collect();
        for slot in &stopped {
            slot.stop.cancel();
        }
        stopped
    }

    /// Ends the instances and one-off commands of an app, of one of its releases or of all.
    async fn stop_of(&self, ctx: &Context, app: &AppName, release: Option<ReleaseId>) -> Result<()> {
        let wanted = |id: ReleaseId| release.is_none_or(|release| release == id);
        let stopped = self.stop(|place| place.app == *app && wanted(place.release));
        for found in self.shared.launcher.list(Some(app)).await? {
            let Label { release, once, .. } = &found.label;
            if wanted(*release) && once.is_some() && found.end.is_none() {
                ctx.cancel.guard(self.stop_once(found.process.id)).await??;
            }
        }
        for slot in stopped {
            ctx.cancel.guard(slot.gone.cancelled()).await?;
        }
        Ok(())
    }

    /// Ends every instance of every app, as before the machine goes down, and forgets nothing else.
    pub async fn stop_all(&self) {
        for slot in self.stop(|_| true) {
            slot.gone.cancelled().await;
        }
    }
}

#[async_trait]
impl<L: Launcher> Runtime for Supervisor<L> {
    fn capabilities(&self) -> RuntimeCapabilities {
        self.shared.launcher.capabilities()
    }

    async fn ensure(&self, ctx: &Context, spec: &ProcessSpec) -> Result<()> {
        if !spec.volumes.is_empty() && !self.capabilities().volumes {
            return Err(Error::unsupported("volumes"));
        }
        let _turn = ctx.cancel.guard(self.shared.turn(&spec.app)).await?;
        let ours = |place: &Place| {
            place.app == spec.app && place.release == spec.release && place.name.process == spec.process
        };
        let stopped = self.stop(|place| ours(place) && place.name.index > spec.quantity);
        if spec.quantity == 0 {
            for slot in stopped {
                ctx.cancel.guard(slot.gone.cancelled()).await?;
            }
            return Ok(());
        }
        let digest = self.spec_digest(spec);
        let shared_spec = Arc::new(spec.clone());
        let mut wanted = Vec::new();
        for index in 1..=spec.quantity {
            let name = InstanceName::new(spec.process.clone(), index);
            let place = Place { app: spec.app.clone(), release: spec.release, name };
            let there = self.shared.slots().get(&place).cloned();
            let slot = match there {
                Some(slot) if slot.digest == digest && !slot.stop.is_cancelled() => {
                    slot.spec.send_replace(Some(Arc::clone(&shared_spec)));
                    slot
                }
                other => {
                    let before = other.map(|slot| {
                        slot.stop.cancel();
                        slot.gone.clone()
                    });
                    self.begin(place, digest, Some(Arc::clone(&shared_spec)), Begin::Launch(before))
                }
            };
            wanted.push(slot);
        }
        for slot in wanted {
            ctx.cancel.guard(slot.launched()).await??;
        }
        Ok(())
    }

    async fn observe(&self, app: &AppName) -> Result<Vec<Instance>> {
        Ok(self.shared.board.of(app))
    }

    async fn apps(&self) -> Result<Vec<AppName>> {
        Ok(self.shared.board.apps().into_iter().collect())
    }

    fn watch(&self) -> BoxStream<'static, RuntimeEvent> {
        self.shared.board.watch()
    }

    async fn run_once(&self, ctx: &Context, spec: &RunSpec) -> Result<Exit> {
        self.once(ctx, spec).await
    }

    async fn attach(&self, ctx: &Context, spec: &RunSpec, window: Option<Window>) -> Result<Console> {
        self.console(ctx, spec, window).await
    }

    async fn retire(&self, ctx: &Context, app: &AppName, release: ReleaseId) -> Result<()> {
        let _turn = ctx.cancel.guard(self.shared.turn(app)).await?;
        self.stop_of(ctx, app, Some(release)).await?;
        self.shared.launcher.tidy(app).await
    }

    async fn forget(&self, ctx: &Context, app: &AppName) -> Result<()> {
        let _turn = ctx.cancel.guard(self.shared.turn(app)).await?;
        self.stop_of(ctx, app, None).await?;
        self.shared.launcher.forget_app(app).await
    }

    async fn volumes(&self, app: &AppName) -> Result<Vec<VolumeName>> {
        self.shared.launcher.volumes(app).await
    }

    async fn remove_volume(&self, ctx: &Context, app: &AppName, volume: &VolumeName) -> Result<()> {
        let _turn = ctx.cancel.guard(self.shared.turn(app)).await?;
        self.shared.launcher.remove_volume(app, volume).await
    }

    fn node(&self) -> Option<&NodeName> {
        self.node.as_ref()
    }
}

impl<L: fmt::Debug> fmt::Debug for Supervisor<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { launcher, backoff, .. } = &*self.shared;
        f.debug_struct("Supervisor")
            .field("launcher", launcher)
            .field("backoff", backoff)
            .finish_non_exhaustive()
    }
}
