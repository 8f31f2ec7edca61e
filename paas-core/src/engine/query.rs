//! What there is to see.

use futures_util::stream::{self, BoxStream, StreamExt};

use super::Engine;
use crate::store::ListQuery;
use crate::{
    Addon, App, AppName, CertificateShelf, ConfigVars, Event, Instance, LogLine, LogQuery, Release, Result,
    Subject, Version, Workflow,
};

/// Events as they happen; an error ends it.
pub type EventStream = BoxStream<'static, Result<Event>>;

impl Engine {
    /// An app.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn app(&self, name: &AppName) -> Result<App> {
        Ok(self.inner.ledger.app(name).await?.value)
    }

    /// All apps by name.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn apps(&self) -> Result<Vec<App>> {
        self.inner.ledger.apps(&ListQuery::all()).await
    }

    /// The certificates of all hosts: how it stands with each, and where one's own are kept.
    pub fn certificates(&self) -> CertificateShelf {
        let inner = &self.inner;
        CertificateShelf::new(inner.store.clone(), inner.vault.clone(), inner.clock.clone())
    }

    /// An app's releases, the newest first.
    ///
    /// # Errors
    /// `not_found` for the app.
    pub async fn releases(&self, app: &AppName) -> Result<Vec<Release>> {
        let app = self.inner.ledger.app(app).await?.value;
        self.inner.ledger.releases(app.id, None).await
    }

    /// One release.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn release(&self, app: &AppName, version: Version) -> Result<Release> {
        let app = self.inner.ledger.app(app).await?.value;
        Ok(self.inner.ledger.release(&app, version).await?.value)
    }

    /// What runs of an app, of all its releases.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn instances(&self, app: &AppName) -> Result<Vec<Instance>> {
        self.inner.runtime.observe(app).await
    }

    /// An app's add-ons.
    ///
    /// # Errors
    /// `not_found` for the app.
    pub async fn addons(&self, app: &AppName) -> Result<Vec<Addon>> {
        let app = self.inner.ledger.app(app).await?.value;
        self.inner.ledger.addons(app.id).await
    }

    /// The config vars that an app's next release runs with, add-ons included: secrets, in the clear for whoever asks.
    ///
    /// # Errors
    /// `not_found` for the app, `wrong_key`.
    pub async fn config(&self, app: &AppName) -> Result<ConfigVars> {
        let app = self.inner.ledger.app(app).await?.value;
        self.inner.build_environment(&app).await
    }

    /// Workflows of a subject that have not ended, the first in line first.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn open_workflows(&self, subject: &Subject) -> Result<Vec<Workflow>> {
        let open = self.inner.ledger.open_workflows(subject).await?;
        Ok(open.into_iter().map(|(stored, _)| stored.value).collect())
    }

    /// An app's log.
    ///
    /// # Errors
    /// When the logs can't be read.
    pub async fn read_log(&self, app: &AppName, query: LogQuery) -> Result<BoxStream<'static, LogLine>> {
        self.inner.logs.read(app, query).await
    }

    /// Where people find an app.
    ///
    /// # Errors
    /// When the platform's domain is too long.
    pub fn url(&self, app: &AppName) -> Result<String> {
        self.inner.url(app)
    }

    /// Events after this place, at most `limit`, of one app where one is named.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn events(&self, after: u64, app: Option<&AppName>, limit: usize) -> Result<Vec<Event>> {
        self.inner.ledger.events(after, app, limit).await
    }

    /// Events after this place, then each new one as it happens. It reads by cursor: what was and what comes are the
    /// same, and a slow reader loses none.
    pub fn watch(&self, after: u64, app: Option<AppName>) -> EventStream {
        const PAGE: usize = 256;
        let start = (self.inner.clone(), after, app, self.inner.store.changes());
        let pages = stream::try_unfold(start, |(inner, after, app, mut changes)| async move {
            loop {
                changes.mark_unchanged();
                let page = inner.ledger.events(after, app.as_ref(), PAGE).await?;
                if let Some(last) = page.last() {
                    let next = last.seq;
                    let page: Vec<Result<Event>> = page.into_iter().map(Ok).collect();
                    return Ok::<_, crate::Error>(Some((stream::iter(page), (inner, next, app, changes))));
                }
                tokio::select! {
                    _ = changes.changed() => {}
                    () = tokio::time::sleep(inner.options.poll) => {}
                }
            }
        });
        futures_util::TryStreamExt::try_flatten(pages).boxed()
    }
}
