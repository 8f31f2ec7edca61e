//! The engine's nouns as rows of the store.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::{
    Expect, Fence, ListQuery, NewEvent, QueueEntry, QueueState, Queued, Row, Store, Table, Transaction, Write,
};
use crate::{
    Addon, AddonId, App, AppId, AppName, AppRoutes, Artifact, Clock, Digest, DomainName, Error, ErrorCode,
    Event, EventKind, Release, Result, Subject, Version, Workflow, WorkflowId, WorkflowState,
};

/// A noun with the revision of its row, for compare-and-set.
#[derive(Debug, Clone)]
pub(crate) struct Stored<T> {
    pub(crate) rev: u64,
    pub(crate) value: T,
}

/// Reads and writes nouns.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// An app's row of who owns a host name.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct DomainOwner {
    pub(crate) app: AppName,
    pub(crate) app_id: AppId,
}

/// A build that can be used again.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct ArtifactRow {
    #[serde(flatten)]
    pub(crate) artifact: Artifact,
    /// When it was made or used the last time.
    pub(crate) used_at: DateTime<Utc>,
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::new(ErrorCode::Internal, "a row can't be written as JSON").with_source(e))
}

pub(crate) fn decode<T: DeserializeOwned>(row: &Row, what: &str) -> Result<T> {
    serde_json::from_str(&row.body).map_err(|e| {
        Error::new(ErrorCode::Corrupt, format!("the row of {what} {} can't be read", row.key)).with_source(e)
    })
}

pub(crate) fn release_key(app: AppId, version: Version) -> String {
    // Padded, so that the order of the text is the order of the numbers.
    format!("{app}/{:010}", version.number())
}

impl Ledger {
    async fn get<T: DeserializeOwned>(
        &self,
        table: Table,
        key: &str,
        what: &str,
    ) -> Result<Option<Stored<T>>> {
        let row = self.store.get(table, key).await?;
        row.map(|row| Ok(Stored { rev: row.rev, value: decode(&row, what)? })).transpose()
    }

    async fn list<T: DeserializeOwned>(&self, table: Table, query: &ListQuery, what: &str) -> Result<Vec<T>> {
        let rows = self.store.list(table, query).await?;
        rows.iter().map(|row| decode(row, what)).collect()
    }

    pub(crate) async fn find_app(&self, name: &AppName) -> Result<Option<Stored<App>>> {
        self.get(Table::Apps, name.as_str(), "the app").await
    }

    pub(crate) async fn app(&self, name: &AppName) -> Result<Stored<App>> {
        self.find_app(name).await?.ok_or_else(|| {
            Error::new(ErrorCode::NotFound, format!("there is no app {name}")).with("app", name)
        })
    }

    /// The app, if it is still in the life `id`.
    pub(crate) async fn app_in_life(&self, name: &AppName, id: AppId) -> Result<Stored<App>> {
        let app = self.app(name).await?;
        if app.value.id != id {
            return Err(Error::new(ErrorCode::NotFound, format!("the app {name} was destroyed meanwhile")));
        }
        Ok(app)
    }

    pub(crate) async fn apps(&self, query: &ListQuery) -> Result<Vec<App>> {
        self.list(Table::Apps, query, "the app").await
    }

    pub(crate) async fn find_release(&self, app: AppId, version: Version) -> Result<Option<Stored<Release>>> {
        self.get(Table::Releases, &release_key(app, version), "the release").await
    }

    pub(crate) async fn release(&self, app: &App, version: Version) -> Result<Stored<Release>> {
        self.find_release(app.id, version).await?.ok_or_else(|| {
            Error::new(ErrorCode::NotFound, format!("the app {} has no release {version}", app.name))
        })
    }

    pub(crate) async fn releases(&self, app: AppId, limit: Option<usize>) -> Result<Vec<Release>> {
        let mut query = ListQuery::of(app.to_string()).descending();
        query.limit = limit;
        self.list(Table::Releases, &query, "the release").await
    }

    pub(crate) async fn addon(&self, id: AddonId) -> Result<Option<Stored<Addon>>> {
        self.get(Table::Addons, &id.to_string(), "the add-on").await
    }

    pub(crate) async fn addons(&self, app: AppId) -> Result<Vec<Addon>> {
        self.list(Table::Addons, &ListQuery::of(app.to_string()), "the add-on").await
    }

    pub(crate) async fn routes(&self, app: &AppName) -> Result<Option<Stored<AppRoutes>>> {
        self.get(Table::Routes, app.as_str(), "the routes").await
    }

    pub(crate) async fn all_routes(&self) -> Result<Vec<AppRoutes>> {
        self.list(Table::Routes, &ListQuery::all(), "the routes").await
    }

    pub(crate) async fn artifact(&self, key: Digest) -> Result<Option<Artifact>> {
        let row = self.get::<ArtifactRow>(Table::Artifacts, &key.hex(), "the artifact").await?;
        Ok(row.map(|row| row.value.artifact))
    }

    pub(crate) async fn domain(&self, domain: &DomainName) -> Result<Option<Stored<DomainOwner>>> {
        self.get(Table::Domains, domain.as_str(), "the domain").await
    }

    pub(crate) async fn find_workflow(&self, id: WorkflowId) -> Result<Option<(Stored<Workflow>, Queued)>> {
        let Some(row) = self.store.get(Table::Workflows, &id.to_string()).await? else { return Ok(None) };
        open_workflow(&row).map(Some)
    }

    pub(crate) async fn workflow(&self, id: WorkflowId) -> Result<(Stored<Workflow>, Queued)> {
        let found = self.find_workflow(id).await?;
        found.ok_or_else(|| Error::new(ErrorCode::NotFound, format!("there is no workflow {id}")))
    }

    pub(crate) async fn workflows(&self, query: &ListQuery) -> Result<Vec<(Stored<Workflow>, Queued)>> {
        self.store.list(Table::Workflows, query).await?.iter().map(open_workflow).collect()
    }

    /// The workflows of a subject that have not ended, the first in line first.
    pub(crate) async fn open_workflows(&self, subject: &Subject) -> Result<Vec<(Stored<Workflow>, Queued)>> {
        let open = [QueueState::Queued, QueueState::Active, QueueState::Parked];
        let mut all = self.workflows(&ListQuery::of(subject.to_string()).states(open)).await?;
        all.sort_by_key(|(_, queued)| queued.place);
        Ok(all)
    }

    pub(crate) fn event(
        &self,
        app: Option<&AppName>,
        workflow: Option<WorkflowId>,
        kind: EventKind,
    ) -> Event {
        Event { seq: 0, at: self.clock.now(), app: app.cloned(), workflow, kind }
    }

    pub(crate) fn note(tx: &mut Transaction, event: &Event) -> Result<()> {
        let subject = event.app.as_ref().map(|app| Subject::App(app.clone()).to_string());
        tx.events
            .push(NewEvent::new(subject.unwrap_or_else(|| Subject::Platform.to_string()), encode(event)?));
        Ok(())
    }

    pub(crate) async fn events(&self, after: u64, app: Option<&AppName>, limit: usize) -> Result<Vec<Event>> {
        let subject = app.map(|app| Subject::App(app.clone()).to_string());
        let rows = self.store.events(after, subject.as_deref(), limit).await?;
        let events = rows.into_iter().map(|row| {
            let event: Result<Event, _> = serde_json::from_str(&row.body);
            let mut event = event.map_err(|e| {
                Error::new(ErrorCode::Corrupt, format!("the event {} can't be read", row.seq)).with_source(e)
            })?;
            event.seq = row.seq;
            Ok(event)
        });
        events.collect()
    }
}

fn open_workflow(row: &Row) -> Result<(Stored<Workflow>, Queued)> {
    let value = decode(row, "the workflow")?;
    let missing =
        || Error::new(ErrorCode::Corrupt, format!("the workflow {} has no place in the queue", row.key));
    let queued = row.queue.clone().ok_or_else(missing)?;
    Ok((Stored { rev: row.rev, value }, queued))
}

pub(crate) fn put_app(app: &App, expect: Expect) -> Result<Write> {
    Ok(Write::put(Table::Apps, app.name.as_str(), "", expect, encode(app)?))
}

pub(crate) fn put_release(release: &Release, expect: Expect) -> Result<Write> {
    let key = release_key(release.app_id, release.version);
    Ok(Write::put(Table::Releases, key, release.app_id.to_string(), expect, encode(release)?))
}

pub(crate) fn put_addon(addon: &Addon, expect: Expect) -> Result<Write> {
    Ok(Write::put(Table::Addons, addon.id.to_string(), addon.app_id.to_string(), expect, encode(addon)?))
}

pub(crate) fn put_routes(routes: &AppRoutes, expect: Expect) -> Result<Write> {
    Ok(Write::put(Table::Routes, routes.app.as_str(), "", expect, encode(routes)?))
}

pub(crate) fn put_artifact(key: Digest, app: AppId, row: &ArtifactRow) -> Result<Write> {
    Ok(Write::put(Table::Artifacts, key.hex(), app.to_string(), Expect::Any, encode(row)?))
}

pub(crate) fn put_workflow(workflow: &Workflow, expect: Expect) -> Result<Write> {
    let state = match workflow.state {
        WorkflowState::Queued => QueueState::Queued,
        WorkflowState::Running | WorkflowState::Undoing | WorkflowState::Rewinding => QueueState::Active,
        WorkflowState::Parked => QueueState::Parked,
        WorkflowState::Succeeded
        | WorkflowState::Failed
        | WorkflowState::Cancelled
        | WorkflowState::Superseded
        | WorkflowState::Abandoned => QueueState::Ended,
    };
    let subject = workflow.subject.to_string();
    let mut entry = QueueEntry::queued(subject.clone(), workflow.kind.clone(), workflow.kind_version);
    entry.state = state;
    entry.not_before = workflow.not_before;
    entry.turn = workflow.turn;
    let write = Write::put(Table::Workflows, workflow.id.to_string(), subject, expect, encode(workflow)?);
    let write = write.standing(entry);
    // Whoever waits for a time gives the lease back, so that the wait costs nobody anything.
    Ok(if workflow.not_before.is_some() && state == QueueState::Active { write.yielding() } else { write })
}

/// Proof of a claim, from the row that the claim gave.
pub(crate) fn fence_of(workflow: WorkflowId, queued: &Queued) -> Option<Fence> {
    queued.owner.map(|owner| Fence::new(workflow, owner, queued.fence))
}
