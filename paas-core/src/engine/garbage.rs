//! Garbage: what no release and no open workflow refers to any more.
//!
//! It is found by reference, never by looking unused. Whoever is about to refer to old content renews it first, and what was
//! put or renewed a short while ago is left alone: so a collection runs safely beside any work.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::ledger::{ArtifactRow, Ledger, decode};
use super::{Engine, Inner};
use crate::store::{Expect, ListQuery, QueueState, Row, Table, Transaction, Write};
use crate::{
    App, AppName, Artifact, ArtifactKind, Context, Digest, Error, ErrorCode, EventKind, IdempotencyKey,
    Release, ReleaseState, Result, StepName, Workflow, WorkflowId,
};

/// How many rows are looked at in one go.
const PAGE: usize = 500;

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Sources and slugs.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Builds that can't be used again.
    pub artifacts: u64,
    /// Workflows that have ended.
    pub workflows: u64,
    /// Events.
    pub events: u64,
}

impl Engine {
    /// Removes what nothing refers to any more, within the bounds of [`EngineOptions`](super::EngineOptions): sources, slugs
    /// and images of releases that are too old to go back to, and of builds that never became a release; workflows and
    /// events that are over for long. A started engine does it by itself, too.
    ///
    /// # Errors
    /// When the store or the blobs can't be read or written; what was removed until then is gone, the rest stays.
    pub async fn collect_garbage(&self) -> Result<Collected> {
        collect(&self.inner).await
    }
}

impl Engine {
    /// Marks the content that releases and open workflows refer to as used now, and says how much it is. Nothing of it is collected
    /// before [`keep_unused`](super::EngineOptions::keep_unused) is over: so whoever then copies first the store and
    /// then the content gets all that the copy of the store refers to.
    ///
    /// # Errors
    /// When the store or the blobs can't be read or written.
    pub async fn renew_referenced(&self) -> Result<u64> {
        let mut renewed = 0;
        for digest in self.inner.reached().await? {
            renewed += u64::from(self.inner.blobs.renew(digest).await?);
        }
        Ok(renewed)
    }
}

/// Collects now and then until the engine shuts down; of several engines one does it.
pub(crate) async fn keep_house(inner: Arc<Inner>) {
    let every = inner.options.collect_every;
    // Not at once: whoever has started on the wrong backup still has the content of the right one.
    tokio::select! {
        () = tokio::time::sleep(every) => {}
        _ = inner.shutdown.cancelled() => return,
    }
    let mut look = tokio::time::interval(every / 4);
    for number in 0u64.. {
        tokio::select! {
            _ = inner.shutdown.cancelled() => return,
            _ = look.tick() => {}
        }
        // Nobody gives this lease back: it says that a collection was made in this period, also by us.
        let turn = inner.store.lease("collect garbage", &format!("{}/{number}", inner.owner), every).await;
        let collected = match turn {
            Ok(true) => collect(&inner).await.map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(error),
        };
        match collected {
            Ok(Some(collected)) => tracing::debug!(?collected, "garbage is collected"),
            Ok(None) => {}
            Err(error) => tracing::warn!(error = %error, "garbage can't be collected; trying again"),
        }
    }
}

async fn collect(inner: &Inner) -> Result<Collected> {
    let now = inner.clock.now();
    let unused = ago(now, inner.options.keep_unused);
    let mut collected = Collected::default();
    // What begins after this look renews what it refers to.
    let reached = inner.reached().await?;
    inner.collect_artifacts(&reached, unused, &mut collected).await?;
    inner.collect_contents(&reached, unused, &mut collected).await?;
    inner.collect_history(ago(now, inner.options.keep_history), &mut collected).await?;
    let Collected { contents, bytes, artifacts, workflows, events } = collected;
    // Old events alone are no news: that would only make the next old event.
    if contents + artifacts + workflows > 0 {
        let kind = EventKind::GarbageCollected { contents, bytes, artifacts, workflows, events };
        let mut tx = Transaction::new();
        Ledger::note(&mut tx, &inner.ledger.event(None, None, kind))?;
        inner.store.commit(tx).await?;
    }
    Ok(collected)
}

fn ago(now: DateTime<Utc>, time: std::time::Duration) -> DateTime<Utc> {
    let time = chrono::Duration::from_std(time).unwrap_or(chrono::Duration::MAX);
    now.checked_sub_signed(time).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

impl Inner {
    /// The digests that releases and open workflows refer to.
    async fn reached(&self) -> Result<HashSet<Digest>> {
        let mut reached = HashSet::new();
        // Open workflows first: one that ends meanwhile has left its release for the second look.
        let open = [QueueState::Queued, QueueState::Active, QueueState::Parked];
        let mut workflows = Pages::of(Table::Workflows, ListQuery::all().states(open));
        while let Some(rows) = workflows.next(self).await? {
            for row in rows {
                digests(&decode(&row, "the workflow")?, &mut reached);
            }
        }
        let mut apps = Pages::of(Table::Apps, ListQuery::all());
        while let Some(rows) = apps.next(self).await? {
            for row in rows {
                self.reached_by(&decode(&row, "the app")?, &mut reached).await?;
            }
        }
        Ok(reached)
    }

    /// What the live release, those that one may go back to, and those that are being made refer to.
    async fn reached_by(&self, app: &App, reached: &mut HashSet<Digest>) -> Result<()> {
        let (mut kept, live) = (0, app.live.as_ref().map(|live| live.version));
        let mut releases = Pages::of(Table::Releases, ListQuery::of(app.id.to_string()).descending());
        while kept < self.options.keep_releases.max(1)
            && let Some(rows) = releases.next(self).await?
        {
            for row in rows {
                let release: Release = decode(&row, "the release")?;
                let keeps = match release.state {
                    ReleaseState::Pending => true,
                    ReleaseState::Failed => false,
                    ReleaseState::Succeeded => {
                        kept += 1;
                        kept <= self.options.keep_releases || Some(release.version) == live
                    }
                };
                if keeps {
                    reached.insert(release.artifact.digest);
                    reached.extend(release.source);
                }
            }
        }
        Ok(())
    }

    async fn collect_artifacts(
        &self,
        reached: &HashSet<Digest>,
        unused: DateTime<Utc>,
        collected: &mut Collected,
    ) -> Result<()> {
        let mut gone = Vec::new();
        let mut artifacts = Pages::of(Table::Artifacts, ListQuery::all());
        while let Some(rows) = artifacts.next(self).await? {
            for row in rows {
                let built: ArtifactRow = decode(&row, "the artifact")?;
                if built.used_at >= unused || reached.contains(&built.artifact.digest) {
                    continue;
                }
                // First the row, so that no build finds it any more, then what it names.
                let delete = Write::delete(Table::Artifacts, row.key, Expect::Rev(row.rev));
                match self.store.commit(Transaction::new().write(delete)).await {
                    Ok(_) => gone.push(built.artifact),
                    // It is being used just now.
                    Err(error) if error.code() == ErrorCode::Conflict => {}
                    Err(error) => return Err(error),
                }
            }
        }
        collected.artifacts += gone.len() as u64;
        // Two builds may have made the same: what one of them still needs is not the other's to discard.
        let left = if gone.is_empty() { HashSet::new() } else { self.artifacts().await? };
        for artifact in gone.iter().filter(|artifact| !left.contains(&artifact.digest)) {
            self.discard(artifact).await?;
        }
        Ok(())
    }

    /// The digests of all artifacts that a build may find.
    async fn artifacts(&self) -> Result<HashSet<Digest>> {
        let mut found = HashSet::new();
        let mut artifacts = Pages::of(Table::Artifacts, ListQuery::all());
        while let Some(rows) = artifacts.next(self).await? {
            for row in rows {
                let built: ArtifactRow = decode(&row, "the artifact")?;
                found.insert(built.artifact.digest);
            }
        }
        Ok(found)
    }

    /// Tells the builder that made it; slugs are content, which is collected by itself.
    async fn discard(&self, artifact: &Artifact) -> Result<()> {
        if artifact.kind == ArtifactKind::Slug {
            return Ok(());
        }
        let Some(builder) = self.builders.iter().find(|builder| builder.id().name == artifact.builder) else {
            tracing::warn!(builder = %artifact.builder, artifact = %artifact.digest, "the builder of an old artifact is gone; remove it by hand");
            return Ok(());
        };
        let step = StepName::new("collect").expect("a constant");
        let key = IdempotencyKey::new(WorkflowId::from(uuid::Uuid::nil()), step);
        let log = self.log(AppName::new("platform").expect("a constant"), "collect");
        builder.discard(&Context::new(key, self.shutdown.clone(), self.clock.clone(), log), artifact).await
    }

    async fn collect_contents(
        &self,
        reached: &HashSet<Digest>,
        unused: DateTime<Utc>,
        collected: &mut Collected,
    ) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.blobs.list(after, PAGE).await?;
            for entry in &page {
                if reached.contains(&entry.digest) || entry.used_at >= unused {
                    continue;
                }
                if self.blobs.collect(entry.digest, unused).await? {
                    collected.contents += 1;
                    collected.bytes += entry.size;
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.digest),
                _ => return Ok(()),
            }
        }
    }

    /// Workflows and events that are over for long.
    async fn collect_history(&self, before: DateTime<Utc>, collected: &mut Collected) -> Result<()> {
        let mut ended = Pages::of(Table::Workflows, ListQuery::all().states([QueueState::Ended]));
        // Their keys sort by the time of their making, so the first young one ends it.
        let mut young = false;
        while !young && let Some(rows) = ended.next(self).await? {
            let mut tx = Transaction::new();
            for row in rows {
                let workflow: Workflow = decode(&row, "the workflow")?;
                young |= workflow.created_at >= before;
                if workflow.ended_at.is_some_and(|at| at < before) {
                    tx = tx.write(Write::delete(Table::Workflows, row.key, Expect::Rev(row.rev)));
                }
            }
            collected.workflows += tx.writes.len() as u64;
            self.store.commit(tx).await?;
        }
        let mut place = 0;
        loop {
            let events = self.ledger.events(place, None, PAGE).await?;
            let old = events.iter().take_while(|event| event.at < before).count();
            let Some(last) = events[..old].last() else { return Ok(()) };
            place = last.seq;
            let newest = self.store.commit(Transaction::new().trim(place)).await?;
            // The newest one stays.
            collected.events += old as u64 - u64::from(newest == place);
        }
    }

    /// Says that this content is about to be referred to.
    ///
    /// # Errors
    /// `not_found` when it was collected.
    pub(crate) async fn keep_artifact(&self, artifact: &Artifact, of: impl std::fmt::Display) -> Result<()> {
        if artifact.kind != ArtifactKind::Slug || self.blobs.renew(artifact.digest).await? {
            return Ok(());
        }
        let kept = self.options.keep_releases;
        let what = format!(
            "the code of {of} is no longer kept: only that of the {kept} newest releases is; deploy it again"
        );
        Err(Error::new(ErrorCode::NotFound, what))
    }
}

/// The rows of a table, or of a part of it, page by page.
struct Pages {
    table: Table,
    query: Option<ListQuery>,
}

impl Pages {
    fn of(table: Table, query: ListQuery) -> Self {
        Self { table, query: Some(query.limit(PAGE)) }
    }

    async fn next(&mut self, inner: &Inner) -> Result<Option<Vec<Row>>> {
        let Some(query) = self.query.take() else { return Ok(None) };
        let rows = inner.store.list(self.table, &query).await?;
        self.query = rows.last().filter(|_| rows.len() == PAGE).map(|last| query.after(last.key.clone()));
        Ok(Some(rows))
    }
}

/// Every digest that stands anywhere in a value: a workflow of any kind says in its input and outputs what it needs.
fn digests(value: &Value, found: &mut HashSet<Digest>) {
    match value {
        Value::String(text) => found.extend(text.parse::<Digest>()),
        Value::Array(values) => values.iter().for_each(|value| digests(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| digests(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
