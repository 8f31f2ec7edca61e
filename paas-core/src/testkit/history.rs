//! Whether what a store tells of the past keeps the engine's promises.
//!
//! Give it the store of engines that have come to rest, and what clients were told meanwhile:
//!
//! ```
//! use paas_core::testkit::history::{Acknowledged, History};
//! use paas_core::testkit::world::TestPlatform;
//! use paas_core::{Principal, Store, store::MemoryStore};
//! # use std::sync::Arc;
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let platform = TestPlatform::new()?;
//! let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
//! let engine = platform.engine(store.clone())?.build()?;
//! engine.start().await?;
//! engine.create_app(&"hello".parse()?, &Principal::platform()).await?;
//! let handle = TestPlatform::deploy(&engine, &"hello".parse()?, "web: serve\n").await?;
//! let ended = handle.ended().await?;
//! engine.shutdown().await;
//!
//! let history = History::read(store.as_ref()).await?.told(Acknowledged::Ended(handle.id(), ended.state));
//! assert_eq!(history.check(), []);
//! # Ok::<(), paas_core::Error>(())
//! # }).unwrap();
//! # Ok::<(), std::io::Error>(())
//! ```

mod apps;
mod promises;
mod workflows;

use std::fmt;

use crate::store::{ListQuery, Store, Table};
use crate::{
    App, AppName, AppRoutes, ConfigKey, Error, ErrorCode, Event, Release, Result, Version, Workflow,
    WorkflowId, WorkflowState,
};

/// Something that must never be so, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

/// What a client was told, so it must be so.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acknowledged {
    /// This app is made.
    Made(AppName),
    /// This workflow is queued.
    Queued(WorkflowId),
    /// This workflow ended so.
    Ended(WorkflowId, WorkflowState),
    /// This config var of this app is changed.
    Configured(AppName, ConfigKey),
    /// This release of this app is live.
    Live(AppName, Version),
}

/// What happened, from the store, and from those who were told. The parts are open, so that a test can break them.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct History {
    /// Every event in the order of their places.
    pub events: Vec<Event>,
    /// The rows of workflows.
    pub workflows: Vec<Workflow>,
    /// The rows of apps.
    pub apps: Vec<App>,
    /// The rows of releases.
    pub releases: Vec<Release>,
    /// The rows of routes.
    pub routes: Vec<AppRoutes>,
    /// What clients were told.
    pub told: Vec<Acknowledged>,
    /// Each time that a runtime began a release phase, where one counts.
    pub release_phases: Vec<(AppName, Version)>,
}

impl History {
    /// Reads everything that a store keeps of it.
    ///
    /// # Errors
    /// When the store can't be read, or holds what isn't an engine's.
    pub async fn read(store: &dyn Store) -> Result<Self> {
        let mut history = Self::default();
        loop {
            let after = history.events.last().map_or(0, |event| event.seq);
            let page = store.events(after, None, 1000).await?;
            if page.is_empty() {
                break;
            }
            for row in page {
                let mut event: Event = decode(&row.body, "an event")?;
                event.seq = row.seq;
                history.events.push(event);
            }
        }
        history.workflows = rows(store, Table::Workflows).await?;
        history.apps = rows(store, Table::Apps).await?;
        history.releases = rows(store, Table::Releases).await?;
        history.routes = rows(store, Table::Routes).await?;
        Ok(history)
    }

    /// And a client was told this.
    #[must_use]
    pub fn told(mut self, what: Acknowledged) -> Self {
        self.told.push(what);
        self
    }

    /// And a runtime began these release phases.
    #[must_use]
    pub fn ran(mut self, release_phases: impl IntoIterator<Item = (AppName, Version)>) -> Self {
        self.release_phases.extend(release_phases);
        self
    }

    /// Every promise that is broken; none when it is empty. Nobody may be at work any more: what is open counts as lost.
    ///
    /// # Behavior
    /// - Events are in one order; each workflow is asked for once, claimed by ever newer claims, and ends once.
    /// - Of the workflows of one subject one works at a time, from its claim until it ends or is parked.
    /// - Versions of an app are dense; what is live never gets older; no generation of routes comes twice or goes back.
    /// - A release phase ran at most once for each release.
    /// - Rows and events tell the same: no state is without its event, and no event without its state.
    /// - Whatever was acknowledged is there.
    ///
    /// Where old events were removed, what began before them is not judged.
    pub fn check(&self) -> Vec<Violation> {
        let mut wrong = Wrong::default();
        workflows::lives(self, &mut wrong);
        workflows::turns(self, &mut wrong);
        workflows::rows(self, &mut wrong);
        apps::lives(self, &mut wrong);
        promises::release_phases(self, &mut wrong);
        promises::told(self, &mut wrong);
        wrong.0
    }

    /// Whether it begins with the first event.
    fn is_whole(&self) -> bool {
        self.events.first().is_none_or(|event| event.seq <= 1)
    }
}

/// What was found.
#[derive(Debug, Default)]
struct Wrong(Vec<Violation>);

impl Wrong {
    fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation(what()));
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(body: &str, what: &str) -> Result<T> {
    serde_json::from_str(body)
        .map_err(|e| Error::new(ErrorCode::Corrupt, format!("{what} can't be read")).with_source(e))
}

async fn rows<T: serde::de::DeserializeOwned>(store: &dyn Store, table: Table) -> Result<Vec<T>> {
    let rows = store.list(table, &ListQuery::all()).await?;
    rows.iter().map(|row| decode(&row.body, &format!("the row {} of {}", row.key, table.as_str()))).collect()
}
