//! The durable engine.
//!
//! Fixed, named steps with checkpoints. Two loops: [`dispatch`] claims workflows and carries them out, one step
//! at a time; [`reconcile`] keeps what is live running and routed.

mod actions;
mod builder;
mod decide;
mod dispatch;
mod environment;
mod explain;
mod fleet;
mod freeze;
mod garbage;
mod handle;
mod identity;
mod kind;
mod kinds;
mod ledger;
mod node;
mod options;
mod presence;
mod query;
mod reconcile;
mod rollout;
mod run;
mod steps;
mod submit;
mod turn;
mod volumes;
mod waist;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

pub use actions::{AddonOrder, ConfigEdit, DeployOrder, KeyState, RollbackOrder, Volume};
pub use builder::EngineBuilder;
pub use fleet::{FleetRouter, RouteFollower};
pub use garbage::Collected;
pub use handle::WorkflowHandle;
pub use kind::{Changes, Flow, Moment, Step, StepAction, StepCall, StepDef, StepOutput, WorkflowKind};
pub use options::{EngineOptions, FirstSight};
pub use query::EventStream;
pub use turn::Turn;
pub use waist::Waist;

use decide::Rules;
pub(crate) use ledger::{Ledger, decode, encode};
use run::Running;
use waist::Kinds;

use crate::vault::Vault;
use crate::{
    Access, AddonProvider, AddonService, AppName, Blobs, Builder, Cancel, CancelReason, Clock, DomainName,
    Error, ErrorCode, LogSource, LogWriter, Logs, OwnerId, ProviderName, Result, Router, Runtime, Source,
    StepName, Store, Workflow, WorkflowId,
};

/// A platform: providers composed into durable workflows.
///
/// Clones are the same engine. Dropping all of them stops nothing and loses nothing: call [`Engine::shutdown`] to stop in
/// order; after a crash, the next start on the same store goes on.
#[derive(Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: EngineOptions,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) ledger: Ledger,
    pub(crate) vault: Arc<Vault>,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) logs: Arc<dyn Logs>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) access: Arc<dyn Access>,
    /// Whether the embedder set an access up, which those who repair are asked for.
    pub(crate) guarded: bool,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) router: Arc<dyn Router>,
    pub(crate) sources: BTreeMap<ProviderName, Arc<dyn Source>>,
    pub(crate) builders: Vec<Arc<dyn Builder>>,
    pub(crate) addons: Vec<Arc<dyn AddonProvider>>,
    pub(crate) kinds: Arc<Kinds>,
    pub(crate) waist: Waist,
    pub(crate) owner: OwnerId,
    pub(crate) shutdown: Cancel,
    pub(crate) tasks: TaskTracker,
    /// What the reconciler looks at.
    pub(crate) looks: Arc<reconcile::Looks>,
    /// Whether the router leads to what runs since the start.
    pub(crate) routed: watch::Sender<bool>,
    /// Held while a key is wrapped and stored, and alone while the master key to wrap with changes.
    pub(crate) wrapping: tokio::sync::RwLock<()>,
    running: Mutex<HashMap<WorkflowId, Running>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("owner", &self.owner)
            .field("store", &self.store)
            .field("runtime", &self.runtime)
            .field("router", &self.router)
            .field("sources", &self.sources)
            .field("builders", &self.builders)
            .field("addons", &self.addons)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Engine {
    /// Begins to build an engine of what every platform needs; the rest has defaults.
    pub fn builder(
        store: Arc<dyn Store>,
        runtime: Arc<dyn Runtime>,
        router: Arc<dyn Router>,
    ) -> EngineBuilder {
        EngineBuilder::new(store, runtime, router)
    }

    /// Begins to work: resumes what was under way, keeps what is live running and routed.
    ///
    /// Returns at once; the work goes on in tasks of the current runtime.
    ///
    /// # Errors
    /// `wrong_key` when the store's secrets were encrypted with another key; `exists` when the blobs belong to another
    /// store; what the store and the blobs say.
    pub async fn start(&self) -> Result<()> {
        // Before the keys are looked at: whoever changes them meanwhile sees that we are there.
        presence::announce(&self.inner).await?;
        self.inner.vault.unlock(self.inner.store.as_ref()).await?;
        self.inner.blobs.claim(&identity::store_id(self.inner.store.as_ref()).await?).await?;
        steps::sweep(&self.inner.options.work_dir).await?;
        self.inner.tasks.spawn(dispatch::dispatch(self.inner.clone()));
        self.inner.tasks.spawn(reconcile::reconcile(self.inner.clone()));
        self.inner.tasks.spawn(garbage::keep_house(self.inner.clone()));
        self.inner.tasks.spawn(presence::stay(self.inner.clone()));
        Ok(())
    }

    /// Waits until the router knows every app: those that run are reached, those that are about to be started hold their
    /// requests. Whoever accepts users' requests only then answers none of them too early.
    ///
    /// Pending until [`Engine::start`]; returns at a shutdown, too.
    pub async fn routed(&self) {
        let mut routed = self.inner.routed.subscribe();
        tokio::select! {
            // The sender lives as long as this engine.
            _ = routed.wait_for(|routed| *routed) => {}
            _ = self.inner.shutdown.cancelled() => {}
        }
    }

    /// Stops in order: nothing new begins, what runs is told to stop and given back, so that a peer or the
    /// next start goes on at once. Apps keep running.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.shutdown.cancel(CancelReason::Shutdown);
        for running in inner.running().values() {
            running.stop.cancel(CancelReason::Shutdown);
        }
        inner.tasks.close();
        inner.tasks.wait().await;
    }

    /// Who decides who may do what.
    pub fn access(&self) -> &Arc<dyn Access> {
        &self.inner.access
    }

    /// Content by digest.
    pub fn blobs(&self) -> &Arc<dyn Blobs> {
        &self.inner.blobs
    }

    /// The logs.
    pub fn logs(&self) -> &Arc<dyn Logs> {
        &self.inner.logs
    }

    /// The time.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// The settings.
    pub fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    /// The add-on providers.
    pub fn addon_providers(&self) -> &[Arc<dyn AddonProvider>] {
        &self.inner.addons
    }

    /// The host name that every app has by itself.
    ///
    /// # Errors
    /// When the platform's domain is so long that none is left for apps.
    pub fn default_domain(&self, app: &AppName) -> Result<DomainName> {
        self.inner.default_domain(app)
    }
}

impl Inner {
    pub(crate) fn running(&self) -> MutexGuard<'_, HashMap<WorkflowId, Running>> {
        // A panic elsewhere leaves a map of tokens, which is never half-changed.
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn rules_of(&self, workflow: &Workflow) -> Option<Rules> {
        let kind = self.kinds.get(&(workflow.kind.clone(), workflow.kind_version))?;
        Some(run::rules(workflow, kind, self.options.max_takeovers))
    }

    pub(crate) fn default_domain(&self, app: &AppName) -> Result<DomainName> {
        Ok(DomainName::new(format!("{app}.{}", self.options.domain))?)
    }

    /// Where people find an app.
    pub(crate) fn url(&self, app: &AppName) -> Result<String> {
        let host = self.default_domain(app)?;
        let port = self.options.public_port.map(|port| format!(":{port}")).unwrap_or_default();
        Ok(format!("{}://{host}{port}/", self.options.public_scheme))
    }

    /// The provider of a service, by its name or one of its aliases.
    pub(crate) async fn provider(
        &self,
        service: &AddonService,
    ) -> Result<(Arc<dyn AddonProvider>, crate::Catalog)> {
        let mut known = Vec::new();
        for provider in &self.addons {
            let catalog = provider.catalog().await;
            if catalog.is_called(service) {
                return Ok((provider.clone(), catalog));
            }
            known.push(catalog.service.to_string());
        }
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let what = format!("there is no add-on service {service} here; there are: {known}");
        Err(Error::new(ErrorCode::NotFound, what))
    }

    pub(crate) fn log(&self, app: AppName, process: &str) -> LogWriter {
        LogWriter::new(self.logs.clone(), self.clock.clone(), app, LogSource::Platform, process)
    }

    /// Where a step speaks: builds and release phases as the app, the rest as the platform.
    pub(crate) fn step_log(&self, workflow: &Workflow, step: &StepName) -> LogWriter {
        let app = workflow.app().cloned().or_else(|| kinds::app_of(workflow));
        let app = app.unwrap_or_else(|| AppName::new("platform").expect("a constant"));
        let log = self.log(app, workflow.kind.as_str()).during(workflow.id);
        match step.as_str() {
            "fetch" | "build" => log.speaking_as(LogSource::App, "build"),
            "release_phase" => log.speaking_as(LogSource::App, "release"),
            _ => log,
        }
    }
}
