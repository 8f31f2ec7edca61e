//! All servers: what is written of each, whose turn it is, and that each runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use paas_core::{AddonId, Clock, Error, ErrorCode, ProvisionRequest, Result, SystemClock};
use postgres_protocol::password::scram_sha_256;
use tokio_postgres::Client;

use super::super::{PasswordKey, PostgresServer, database, error};
use super::config::{DedicatedConfig, DedicatedPlan};
use super::container::Container;
use super::record::{Record, Records};
use super::session::OneServer;
use super::{image, setup};

pub(super) struct Shared {
    pub(super) config: DedicatedConfig,
    pub(super) records: Records,
    pub(super) key: PasswordKey,
    /// They are not brought back: they were stopped on purpose, or another process looks after them.
    pub(super) left_alone: AtomicBool,
    servers: Mutex<HashMap<AddonId, PostgresServer>>,
    turns: Mutex<HashMap<AddonId, Arc<Turns>>>,
}

/// Who works on one server.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Making, binding, upgrading, destroying.
    pub(super) life: tokio::sync::Mutex<()>,
    /// Whoever makes or removes its container, for a moment.
    pub(super) container: tokio::sync::Mutex<()>,
}

impl Shared {
    pub(super) fn new(config: DedicatedConfig, records: Records, key: PasswordKey) -> Self {
        let (servers, turns, left_alone) = Default::default();
        Self { config, records, key, left_alone, servers, turns }
    }

    pub(super) fn turns(&self, addon: AddonId) -> Arc<Turns> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(addon).or_default().clone()
    }

    pub(super) fn server(self: &Arc<Self>, addon: AddonId) -> PostgresServer {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || PostgresServer::dedicated(OneServer { shared: self.clone(), addon });
        servers.entry(addon).or_insert_with(made).clone()
    }

    pub(super) fn forget(&self, addon: AddonId) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).remove(&addon);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits for it keeps it.
        turns.retain(|key, turns| *key != addon || Arc::strong_count(turns) > 2);
    }

    pub(super) fn container(&self, addon: AddonId) -> Container<'_> {
        Container { docker: &self.config.docker, addon, reach: self.config.reach }
    }

    /// What the plan is today; where it is offered no more, the first one's size.
    pub(super) fn plan(&self, record: &Record) -> DedicatedPlan {
        let plans = &self.config.plans;
        let plan = plans.iter().find(|plan| plan.name == record.plan).or_else(|| plans.first());
        plan.cloned().unwrap_or_else(|| DedicatedPlan::new(record.plan.clone()))
    }

    /// The major version that is asked for, or the newest.
    pub(super) fn version(&self, request: &ProvisionRequest) -> Result<u16> {
        let images = &self.config.images;
        let versions = || images.keys().rev().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let wrong = |what: String| Error::new(ErrorCode::InvalidParams, what);
        if let Some(other) = request.options.keys().find(|option| *option != "version") {
            return Err(wrong(format!(
                "the plan {} has the option `version` only, but {other:?} was given",
                request.plan
            )));
        }
        let Some(asked) = request.options.get("version") else {
            let newest = images.keys().next_back().copied();
            return newest.ok_or_else(|| wrong("no version of PostgreSQL is set up".to_owned()));
        };
        let version = asked.parse().ok().filter(|version| images.contains_key(version));
        version.ok_or_else(|| {
            wrong(format!("there is no PostgreSQL {asked:?} here; `version` may be {}", versions()))
        })
    }

    pub(super) async fn change(&self, addon: AddonId, change: impl FnOnce(&mut Record)) -> Result<Record> {
        let turns = self.turns(addon);
        let _turn = turns.container.lock().await;
        let mut record = self.records.read(addon)?.ok_or_else(|| database::gone(addon))?;
        let before = record.clone();
        change(&mut record);
        if record != before {
            self.records.write(addon, &record)?;
        }
        Ok(record)
    }

    pub(super) async fn certify(&self, addon: AddonId, client: &Client) -> Result<()> {
        let until = self.records.read(addon)?.and_then(|record| record.certified);
        let until = setup::certify(client, SystemClock::new().now().date_naive(), until).await?;
        self.change(addon, |record| record.certified = until).await.map(drop)
    }

    /// Makes sure that its container runs. What was begun is done also when nobody waits any more: a request that is cut
    /// off could be carried out after whatever comes next.
    pub(super) async fn up(self: &Arc<Self>, addon: AddonId) -> Result<std::net::SocketAddr> {
        let shared = self.clone();
        let work = tokio::spawn(async move {
            let turns = shared.turns(addon);
            let _turn = turns.container.lock().await;
            let mut record = shared.records.read(addon)?.ok_or_else(|| database::gone(addon))?;
            let first =
                (!record.ready).then(|| scram_sha_256(shared.key.dedicated_password(addon).as_bytes()));
            let (container, plan) = (shared.container(addon), shared.plan(&record));
            let up = container.up(&record, &plan, first.as_deref()).await;
            let docker = &shared.config.docker;
            let missing = up.as_ref().is_err_and(|e| e.code() == ErrorCode::NotFound);
            if missing && image::here(docker, &record.image).await?.is_none() {
                // Somebody removed its image: the name's of today takes its place.
                record.image = shared.image(&record).await?;
                shared.records.write(addon, &record)?;
                return container.up(&record, &plan, first.as_deref()).await;
            }
            up
        });
        work.await
            .map_err(|e| Error::new(ErrorCode::Internal, "starting a server panicked").with_source(e))?
    }

    /// Unless it was stopped on purpose or is no more.
    pub(super) async fn bring_back(self: &Arc<Self>, addon: AddonId) -> Result<()> {
        if self.left_alone.load(Ordering::SeqCst)
            || !self.records.read(addon)?.is_some_and(|record| record.ready)
        {
            return Ok(());
        }
        match self.up(addon).await {
            // Destroyed meanwhile.
            Err(e) if e.code() == ErrorCode::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    pub(super) async fn destroy(self: &Arc<Self>, addon: AddonId) -> Result<()> {
        let shared = self.clone();
        let work = tokio::spawn(async move {
            let turns = shared.turns(addon);
            let _turn = turns.container.lock().await;
            if let Some(mut record) = shared.records.read(addon)?.filter(|record| record.ready) {
                // From here on it is nobody's.
                record.ready = false;
                shared.records.write(addon, &record)?;
            }
            shared.container(addon).destroy().await?;
            shared.records.remove(addon)
        });
        work.await
            .map_err(|e| Error::new(ErrorCode::Internal, "destroying a server panicked").with_source(e))?
    }

    /// The id of what the image's name means today.
    pub(super) async fn image(&self, record: &Record) -> Result<String> {
        let (docker, version) = (&self.config.docker, record.version);
        let reference = self.config.images.get(&version).ok_or_else(|| {
            error::unavailable(format!(
                "no image is set up for PostgreSQL {version}, and there are servers of it"
            ))
        })?;
        // What is only here, such as an image that was built here, is taken as it is.
        let pulled = image::pull(docker, reference).await;
        match image::here(docker, reference).await? {
            Some(image) => Ok(image),
            None => Err(pulled.err().unwrap_or_else(|| image::missing(reference))),
        }
    }

    pub(super) async fn upgrade(self: &Arc<Self>, addon: AddonId) -> Result<bool> {
        let turns = self.turns(addon);
        let _turn = turns.life.lock().await;
        let Some(record) = self.records.read(addon)?.filter(|record| record.ready) else { return Ok(false) };
        let image = self.image(&record).await?;
        if self.container(addon).runs_on().await?.is_some_and(|id| id == image) {
            return Ok(false);
        }
        let tried = self.replace(addon, image).await;
        if tried.is_err() {
            self.replace(addon, record.image).await?;
        }
        tried.map(|()| true)
    }

    /// Another container on the same data.
    pub(super) async fn replace(self: &Arc<Self>, addon: AddonId, image: String) -> Result<()> {
        {
            let turns = self.turns(addon);
            let _turn = turns.container.lock().await;
            let mut record = self.records.read(addon)?.ok_or_else(|| database::gone(addon))?;
            record.image = image;
            self.container(addon).stop().await?;
            self.container(addon).remove().await?;
            self.records.write(addon, &record)?;
        }
        OneServer { shared: self.clone(), addon }.connect(None).await.map(drop)
    }
}
