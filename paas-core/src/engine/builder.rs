//! Puts an engine together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio_util::task::TaskTracker;
use tower::{BoxError, Layer, Service};

use super::kind::{StepCall, StepDef, StepOutput, WorkflowKind};
use super::ledger::Ledger;
use super::options::EngineOptions;
use super::waist::{Steps, Waist};
use super::{Engine, Inner, kinds};
use crate::vault::Vault;
use crate::{
    Access, AddonProvider, Blobs, Builder, Cancel, Clock, DenyAll, Error, ErrorCode, KindName, Logs,
    MemoryLogs, NoBlobs, OwnerId, Result, Router, Runtime, Source, SteadyClock, StepName, Store,
};

type LayerFn = Box<dyn FnOnce(Waist) -> Waist + Send>;

/// Puts an engine together; every part but the three of [`Engine::builder`] has a default.
#[must_use = "nothing happens before build()"]
pub struct EngineBuilder {
    options: EngineOptions,
    store: Arc<dyn Store>,
    runtime: Arc<dyn Runtime>,
    router: Arc<dyn Router>,
    vault: Option<Vault>,
    blobs: Arc<dyn Blobs>,
    logs: Arc<dyn Logs>,
    clock: Arc<dyn Clock>,
    access: Option<Arc<dyn Access>>,
    sources: Vec<Arc<dyn Source>>,
    builders: Vec<Arc<dyn Builder>>,
    addons: Vec<Arc<dyn AddonProvider>>,
    kinds: Vec<WorkflowKind>,
    inserts: Vec<(KindName, StepName, StepDef)>,
    layers: Vec<LayerFn>,
}

impl std::fmt::Debug for EngineBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}

impl EngineBuilder {
    pub(super) fn new(store: Arc<dyn Store>, runtime: Arc<dyn Runtime>, router: Arc<dyn Router>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SteadyClock::new());
        Self {
            options: EngineOptions::default(),
            store,
            runtime,
            router,
            vault: None,
            blobs: Arc::new(NoBlobs::new()),
            logs: Arc::new(MemoryLogs::new()),
            clock,
            access: None,
            sources: Vec::new(),
            builders: Vec::new(),
            addons: Vec::new(),
            kinds: Vec::new(),
            inserts: Vec::new(),
            layers: Vec::new(),
        }
    }

    /// Settings.
    pub fn with_options(mut self, options: EngineOptions) -> Self {
        self.options = options;
        self
    }

    /// What encrypts secrets at rest. Required.
    pub fn with_vault(mut self, vault: Vault) -> Self {
        self.vault = Some(vault);
        self
    }

    /// Where sources and slugs are kept. Deploys need one.
    pub fn with_blobs(mut self, blobs: Arc<dyn Blobs>) -> Self {
        self.blobs = blobs;
        self
    }

    /// Where logs are kept; a short time in memory by default.
    pub fn with_logs(mut self, logs: Arc<dyn Logs>) -> Self {
        self.logs = logs;
        self
    }

    /// The time; a [`SteadyClock`] by default. The store's must agree with it.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Who may do what, for the edges that ask, and for whoever repairs; nobody anything by default.
    pub fn with_access(mut self, access: Arc<dyn Access>) -> Self {
        self.access = Some(access);
        self
    }

    /// One more source.
    pub fn with_source(mut self, source: Arc<dyn Source>) -> Self {
        self.sources.push(source);
        self
    }

    /// One more builder: the first that recognises the code builds it.
    pub fn with_builder(mut self, builder: Arc<dyn Builder>) -> Self {
        self.builders.push(builder);
        self
    }

    /// One more add-on provider.
    pub fn with_addon(mut self, provider: Arc<dyn AddonProvider>) -> Self {
        self.addons.push(provider);
        self
    }

    /// One more kind of workflow, or a newer version of one.
    pub fn with_workflow(mut self, kind: WorkflowKind) -> Self {
        self.kinds.push(kind);
        self
    }

    /// One more step in the workflow `kind`, after its step `anchor`.
    pub fn with_step_after(mut self, kind: KindName, anchor: StepName, def: StepDef) -> Self {
        self.inserts.push((kind, anchor, def));
        self
    }

    /// Wraps every step of every workflow in a tower layer: a limit, a policy gate, an audit. The last one is the outermost.
    pub fn step_layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Waist> + Send + 'static,
        L::Service:
            Service<StepCall, Response = StepOutput, Error = BoxError> + Clone + Send + Sync + 'static,
        <L::Service as Service<StepCall>>::Future: Send + 'static,
    {
        self.layers.push(Box::new(move |waist| Waist::new(layer.layer(waist))));
        self
    }

    /// Puts it together.
    ///
    /// # Errors
    /// `invalid_params` without a vault, with two providers of one name, or a step inserted after one that isn't there.
    pub fn build(self) -> Result<Engine> {
        let Some(vault) = self.vault else {
            let what = "the engine needs a vault for secrets: with_vault(Vault::new(MasterKey::open_or_create(path)?))";
            return Err(Error::new(ErrorCode::InvalidParams, what));
        };
        let vault = Arc::new(vault);
        let mut sources = BTreeMap::new();
        for source in self.sources {
            let name = source.name();
            if sources.insert(name.clone(), source).is_some() {
                return Err(Error::new(
                    ErrorCode::InvalidParams,
                    format!("there are two sources named {name}"),
                ));
            }
        }
        let owner = OwnerId::new();
        let cell: kinds::InnerCell = Arc::new(std::sync::OnceLock::new());
        let mut known = BTreeMap::new();
        for mut kind in kinds::ours(&cell).into_iter().chain(self.kinds) {
            let name = kind.name.clone();
            for (_, anchor, def) in self.inserts.iter().filter(|(kind, ..)| *kind == name) {
                kind.insert_after(anchor, def.clone())?;
            }
            known.insert((kind.name.clone(), kind.version), Arc::new(kind));
        }
        if let Some((name, ..)) =
            self.inserts.iter().find(|(name, ..)| !known.keys().any(|(kind, _)| kind == name))
        {
            let what = format!("there is no workflow {name} to put a step into");
            return Err(Error::new(ErrorCode::NotFound, what));
        }
        let kinds = Arc::new(known);
        let waist = Waist::new(Steps::new(kinds.clone(), vault.clone()));
        let waist = self.layers.into_iter().fold(waist, |waist, layer| layer(waist));
        let inner = Arc::new(Inner {
            ledger: Ledger { store: self.store.clone(), clock: self.clock.clone() },
            options: self.options,
            store: self.store,
            vault,
            blobs: self.blobs,
            logs: self.logs,
            clock: self.clock,
            guarded: self.access.is_some(),
            access: self.access.unwrap_or_else(|| Arc::new(DenyAll::new())),
            runtime: self.runtime,
            router: self.router,
            sources,
            builders: self.builders,
            addons: self.addons,
            kinds,
            waist,
            owner,
            shutdown: Cancel::new(),
            tasks: TaskTracker::new(),
            looks: Arc::default(),
            routed: tokio::sync::watch::Sender::new(false),
            wrapping: tokio::sync::RwLock::default(),
            running: Mutex::default(),
        });
        // The cell is new, so nobody else can have set it.
        let _ = cell.set(Arc::downgrade(&inner));
        Ok(Engine { inner })
    }
}
