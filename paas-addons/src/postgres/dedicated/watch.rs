//! Brings servers back that somebody stopped or removed: Docker tells of it, and now and then all are looked at.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use paas_core::{AddonId, Result};
use paas_docker::bollard::models::EventMessage;
use paas_docker::{Happened, label};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::servers::Shared;

/// How soon a daemon that went away is asked again.
const REST: Duration = Duration::from_secs(1);
/// How many servers are brought back at once: one that doesn't start, which is known after half a minute, keeps few
/// others waiting.
const AT_ONCE: usize = 8;

/// Goes on until it is dropped; the servers stay.
#[derive(Debug)]
pub(super) struct Watch(JoinHandle<()>);

impl Watch {
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        Self(tokio::spawn(async move {
            loop {
                if let Err(e) = follow(&shared).await {
                    tracing::warn!(error = %e, "the database servers can't be looked after; trying again");
                }
                sleep(REST).await;
            }
        }))
    }

    /// Whether it has ended, such as with the runtime that it was on.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Until Docker tells no more.
async fn follow(shared: &Arc<Shared>) -> Result<()> {
    let docker = &shared.config.docker;
    let mut happening = docker.follow(&[(label::KIND, "addon")], &["die", "destroy"], None);
    let mut rescue = Rescue::new(shared.clone());
    loop {
        tokio::select! {
            happened = happening.next() => match happened {
                Some(Ok(Happened::Event(event))) => rescue.begin(addon(*event)),
                Some(Ok(_)) => rescue.begin(shared.records.ready()?),
                Some(Err(e)) => return Err(e),
                None => return Ok(()),
            },
            Some(done) = rescue.tasks.join_next() => rescue.end(done.ok()),
        }
    }
}

/// Of which add-on's server an event tells.
fn addon(event: EventMessage) -> Option<AddonId> {
    event.actor?.attributes?.get(label::ADDON)?.parse().ok()
}

/// The servers that are being brought back, each by itself.
struct Rescue {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    tasks: JoinSet<AddonId>,
    under_way: HashSet<AddonId>,
    /// Something happened to them since that was begun.
    again: HashSet<AddonId>,
}

impl Rescue {
    fn new(shared: Arc<Shared>) -> Self {
        let (tasks, under_way, again) = Default::default();
        Self { shared, room: Arc::new(Semaphore::new(AT_ONCE)), tasks, under_way, again }
    }

    fn begin(&mut self, addons: impl IntoIterator<Item = AddonId>) {
        for addon in addons {
            if !self.under_way.insert(addon) {
                self.again.insert(addon);
                continue;
            }
            let (shared, room) = (self.shared.clone(), self.room.clone());
            self.tasks.spawn(async move {
                // It is never closed.
                let _room = room.acquire().await;
                if let Err(e) = shared.bring_back(addon).await {
                    tracing::error!(error = %e, addon.id = %addon, "a database server can't be started; trying again");
                }
                addon
            });
        }
    }

    /// `None`: it panicked, and which it was is learnt with the next look at all.
    fn end(&mut self, done: Option<AddonId>) {
        let Some(addon) = done else {
            self.under_way.clear();
            return;
        };
        self.under_way.remove(&addon);
        if self.again.remove(&addon) {
            self.begin([addon]);
        }
    }
}
