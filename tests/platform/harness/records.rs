//! What the platform has written down, read through its own store.

use std::path::Path;
use std::sync::Arc;

use paas::store::{ListQuery, QueueState, SqliteStore, Table};
use paas::{App, Release, ReleaseState, Store, Subject, SystemClock};
use serde::de::DeserializeOwned;

/// A reader of a data folder's store.
#[derive(Debug)]
pub(crate) struct Records {
    runtime: tokio::runtime::Runtime,
    store: SqliteStore,
}

impl Records {
    pub(crate) fn open(data: &Path) -> Self {
        let store = SqliteStore::open(data.join("paas.db"), Arc::new(SystemClock::new())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, store }
    }

    fn list<T: DeserializeOwned>(&self, table: Table, query: &ListQuery) -> Vec<T> {
        let rows = self.runtime.block_on(self.store.list(table, query)).unwrap();
        rows.iter().map(|row| serde_json::from_str(&row.body).unwrap()).collect()
    }

    pub(crate) fn app(&self, name: &str) -> Option<App> {
        let row = self.runtime.block_on(self.store.get(Table::Apps, name)).unwrap();
        row.map(|row| serde_json::from_str(&row.body).unwrap())
    }

    /// An app's releases in their order; it must have no gap.
    pub(crate) fn releases(&self, app: &str) -> Vec<Release> {
        let Some(app) = self.app(app) else { return Vec::new() };
        let mut all: Vec<Release> = self.list(Table::Releases, &ListQuery::of(app.id.to_string()));
        all.sort_by_key(|release| release.version);
        let numbers: Vec<_> = all.iter().map(|release| release.version.number()).collect();
        let expected: Vec<_> = (1..).take(all.len()).collect();
        assert_eq!(numbers, expected, "the releases have a gap");
        assert_eq!(app.last_version, all.last().map(|release| release.version), "the newest is not the last");
        all
    }

    /// Of the release that users see, which commit it is and its number.
    pub(crate) fn live(&self, app: &str) -> Option<(String, u64)> {
        let live = self.app(app)?.live?;
        let all = self.releases(app);
        let release =
            all.iter().find(|release| release.id == live.release).expect("the live release is kept");
        assert_eq!(release.state, ReleaseState::Succeeded, "{release:?} is live");
        Some((release.revision.id.clone().unwrap_or_default(), release.version.number().into()))
    }

    /// How many workflows are not over.
    pub(crate) fn open_workflows(&self) -> usize {
        self.not_over(ListQuery::all())
    }

    /// How many of this app's are not over.
    pub(crate) fn open_workflows_of(&self, app: &str) -> usize {
        self.not_over(ListQuery::of(Subject::App(app.parse().unwrap()).to_string()))
    }

    fn not_over(&self, query: ListQuery) -> usize {
        let query = query.states([QueueState::Queued, QueueState::Active, QueueState::Parked]);
        self.runtime.block_on(self.store.list(Table::Workflows, &query)).unwrap().len()
    }
}
