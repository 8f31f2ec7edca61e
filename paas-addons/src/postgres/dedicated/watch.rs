//! Brings servers back that somebody stopped or removed: Docker tells of it, and now and then all are looked at.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use paas_docker::bollard::query_parameters::EventsOptions;
use paas_docker::{bollard, label};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Shared;

/// How often everything is looked at, whatever Docker tells.
const TRUTH: Duration = Duration::from_secs(15);
/// How soon a daemon that went away is asked again.
const REST: Duration = Duration::from_secs(1);

/// Goes on until it is dropped; the servers stay.
#[derive(Debug)]
pub(super) struct Watch(JoinHandle<()>);

impl Watch {
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        Self(tokio::spawn(async move {
            loop {
                follow(&shared).await;
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
async fn follow(shared: &Arc<Shared>) {
    let docker = &shared.config.docker;
    let mut filters = docker.ours(&[(label::KIND, "addon")]);
    filters.insert("type".into(), vec!["container".into()]);
    filters.insert("event".into(), ["die", "destroy"].map(String::from).to_vec());
    let client = docker.patient(Duration::from_secs(365 * 86_400));
    let mut events =
        client.events(Some(EventsOptions { filters: Some(filters), ..EventsOptions::default() }));
    let mut truth = interval(TRUTH);
    truth.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    let ended = |event: bollard::models::EventMessage| {
                        event.actor?.attributes?.get(label::ADDON)?.parse().ok()
                    };
                    if let Some(addon) = ended(event) {
                        bring_back(shared, addon).await;
                    }
                }
                Some(Err(_)) | None => return,
            },
            _ = truth.tick() => {
                match shared.records.ready() {
                    Ok(all) => for addon in all {
                        bring_back(shared, addon).await;
                    },
                    Err(e) => tracing::error!(error = %e, "the database servers can't be looked after"),
                }
            }
        }
    }
}

async fn bring_back(shared: &Arc<Shared>, addon: paas_core::AddonId) {
    if let Err(e) = shared.bring_back(addon).await {
        tracing::error!(error = %e, addon.id = %addon, "a database server can't be started; trying again");
    }
}
