//! Which containers of ours there are, and what became of them: told by Docker's events, and looked at in full now and
//! then, since events may be missed.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum as Status, ContainerSummary,
    ContainerSummaryStateEnum as Shown, EventMessage,
};
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions, RemoveContainerOptions};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use paas_core::{Clock, Error, ErrorCode, Result};
use paas_docker::{Docker, Happened, bollard, failed, label};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::Reach;
use super::record::Record;
use crate::supervisor::LaunchId;

/// How often a daemon that doesn't answer is asked again.
const REST: Duration = Duration::from_millis(250);

/// How long before we noticed it a daemon may have begun to go.
const SLACK: chrono::TimeDelta = chrono::TimeDelta::seconds(5);

/// What became of a container. It only ever goes on: a launch is started once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// It is being made, or was made and not started.
    Made,
    Running,
    Ended,
    /// There is no such container any more.
    Gone,
}

/// One container of ours.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Its id, once it is known.
    pub(super) container: Option<String>,
    pub(super) record: Record,
    /// When Docker started it.
    pub(super) started_at: Option<DateTime<Utc>>,
    /// Where it can be reached, if it was told to listen.
    pub(super) address: Option<SocketAddr>,
    state: watch::Sender<State>,
    /// Held by whoever finds out how it ended.
    pub(super) settling: Arc<tokio::sync::Mutex<()>>,
    /// Looks that began before this don't know of it.
    since: u64,
}

impl Row {
    pub(super) fn state(&self) -> State {
        *self.state.borrow()
    }
}

/// A container ran out of memory.
#[derive(Debug)]
pub(super) struct OutOfMemory(pub(super) LaunchId);

/// All containers of ours.
#[derive(Debug)]
pub(super) struct Census {
    docker: Docker,
    clock: Arc<dyn Clock>,
    reach: Reach,
    rows: Mutex<Rows>,
    /// When the daemon didn't answer.
    outages: Mutex<Vec<(DateTime<Utc>, DateTime<Utc>)>>,
    out_of_memory: mpsc::UnboundedSender<OutOfMemory>,
}

#[derive(Debug, Default)]
struct Rows {
    by_id: HashMap<LaunchId, Row>,
    looks: u64,
}

impl Census {
    /// Looks at what is there. Whoever calls this makes [`Census::follow`] run.
    pub(super) async fn open(
        docker: Docker,
        clock: Arc<dyn Clock>,
        reach: Reach,
        out_of_memory: mpsc::UnboundedSender<OutOfMemory>,
    ) -> Result<Self> {
        let (rows, outages) = Default::default();
        let census = Self { docker, clock, reach, rows, outages, out_of_memory };
        for found in census.list().await? {
            let Some((id, record)) = launch_of(&found) else {
                let name = found.names.unwrap_or_default().concat();
                tracing::warn!(
                    container = name,
                    "a container carries our labels, but not what it is: it is left alone"
                );
                continue;
            };
            census.expect(id, record);
            census.take_in(id, &found);
        }
        Ok(census)
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        // Each change is one step: a panic elsewhere leaves the table whole.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Knows of a launch whose container is about to be made.
    pub(super) fn expect(&self, id: LaunchId, record: Record) {
        let mut rows = self.rows();
        let (state, since) = (watch::Sender::new(State::Made), rows.looks + 1);
        let row = Row {
            container: None,
            record,
            started_at: None,
            address: None,
            state,
            settling: Arc::default(),
            since,
        };
        rows.by_id.insert(id, row);
    }

    pub(super) fn get(&self, id: LaunchId) -> Option<Row> {
        self.rows().by_id.get(&id).cloned()
    }

    pub(super) fn all(&self) -> Vec<(LaunchId, Row)> {
        self.rows().by_id.iter().map(|(id, row)| (*id, row.clone())).collect()
    }

    /// Knows nothing of it any more.
    pub(super) fn drop_row(&self, id: LaunchId) {
        self.rows().by_id.remove(&id);
    }

    /// Waits until it has ended or is gone.
    pub(super) async fn ended(&self, id: LaunchId) -> Result<()> {
        let state = self.get(id).map(|row| row.state.subscribe());
        let Some(mut state) = state else {
            return Err(Error::new(ErrorCode::NotFound, format!("nothing is kept of the launch {id}")));
        };
        // The sender lives in the row; without a row there is nothing to wait for.
        let _ = state.wait_for(|state| *state >= State::Ended).await;
        Ok(())
    }

    /// Whether the daemon was away when something ended at this time.
    pub(super) fn was_away(&self, at: DateTime<Utc>) -> bool {
        let outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
        outages.iter().any(|(from, to)| (*from - SLACK..=*to).contains(&at))
    }

    /// Looks at one container in full, as after it was started; `None` if it isn't there.
    pub(super) async fn look(
        &self,
        id: LaunchId,
        container: &str,
    ) -> Result<Option<ContainerInspectResponse>> {
        let found =
            match self.docker.client().inspect_container(container, None::<InspectContainerOptions>).await {
                Ok(found) => found,
                Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                    self.advance(id, State::Gone);
                    return Ok(None);
                }
                Err(e) => return Err(failed("can't look at a container", e)),
            };
        let state = found.state.clone().unwrap_or_default();
        if let Some(row) = self.rows().by_id.get_mut(&id) {
            row.container.clone_from(&found.id);
            row.started_at = state.started_at.as_deref().and_then(time);
            row.address = row.record.port.and_then(|port| address(&found, self.reach, port));
        }
        self.advance(
            id,
            match state.status {
                Some(Status::CREATED) => State::Made,
                Some(Status::EXITED | Status::DEAD | Status::REMOVING) => State::Ended,
                _ => State::Running,
            },
        );
        Ok(Some(found))
    }

    /// What ended or went without a word. Containers of launches that nobody knows of are what was left of a start
    /// that was given up: they are removed.
    async fn look_at_all(&self) -> Result<()> {
        let look = {
            let mut rows = self.rows();
            rows.looks += 1;
            rows.looks
        };
        let found = self.list().await?;
        let mut there = HashMap::new();
        for found in found {
            if let Some((id, _)) = launch_of(&found) {
                there.insert(id, found);
            }
        }
        for (id, row) in self.all() {
            match there.remove(&id) {
                Some(found) => self.take_in(id, &found),
                None if row.since <= look && row.container.is_some() => self.advance(id, State::Gone),
                None => {}
            }
        }
        for (id, found) in there {
            // It may have been begun since.
            if self.get(id).is_none() {
                tracing::warn!(launch.id = %id, "a container that nobody knows of is removed");
                self.remove(&found.id.unwrap_or_default(), true).await?;
            }
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<ContainerSummary>> {
        let mut filters = self.docker.ours(&[]);
        filters.entry("label".into()).or_default().push(label::LAUNCH.into());
        let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
        let listed = self.docker.client().list_containers(Some(options)).await;
        listed.map_err(|e| failed("can't list containers", e))
    }

    /// Removes a container with its anonymous volumes, a running one only by `force`. One that isn't there is fine.
    pub(super) async fn remove(&self, container: &str, force: bool) -> Result<()> {
        let options = RemoveContainerOptions { force, v: true, ..Default::default() };
        match self.docker.client().remove_container(container, Some(options)).await {
            Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                Ok(())
            }
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, message })
                if message.contains("already in progress") =>
            {
                Ok(())
            }
            Err(e) => Err(failed("can't remove a container", e)),
        }
    }

    fn take_in(&self, id: LaunchId, found: &ContainerSummary) {
        let state = match found.state {
            Some(Shown::CREATED) => State::Made,
            Some(Shown::EXITED | Shown::DEAD | Shown::REMOVING) => State::Ended,
            _ => State::Running,
        };
        if let Some(row) = self.rows().by_id.get_mut(&id) {
            row.container.clone_from(&found.id);
        }
        self.advance(id, state);
    }

    fn advance(&self, id: LaunchId, state: State) {
        if let Some(row) = self.rows().by_id.get(&id) {
            row.state.send_if_modified(|known| {
                let on = state > *known;
                *known = (*known).max(state);
                on
            });
        }
    }

    /// Follows what happens until the task is given up.
    pub(super) async fn follow(&self) {
        let mut since = self.clock.now();
        loop {
            let Err(lost) = self.listen(&mut since).await;
            let gone_at = self.clock.now();
            tracing::warn!(error = %lost, "Docker is away; it is waited for");
            while self.docker.client().ping().await.is_err() {
                sleep(REST).await;
            }
            let back_at = self.clock.now();
            tracing::info!(seconds = (back_at - gone_at).as_seconds_f32(), "Docker is back");
            self.was_gone(gone_at, back_at);
        }
    }

    fn was_gone(&self, from: DateTime<Utc>, to: DateTime<Utc>) {
        let mut outages = self.outages.lock().unwrap_or_else(PoisonError::into_inner);
        outages.push((from, to));
        // Whoever ended longer ago has been asked after.
        let excess = outages.len().saturating_sub(1024);
        outages.drain(..excess);
    }

    async fn listen(&self, since: &mut DateTime<Utc>) -> Result<std::convert::Infallible> {
        let kinds = ["create", "die", "destroy", "oom"];
        let mut happening = self.docker.follow(&[], &kinds, Some(since.timestamp()));
        while let Some(happened) = happening.next().await {
            let look = match happened? {
                Happened::Event(event) => self.happened(&event, since) == Told::Unknown,
                _ => true,
            };
            if look {
                self.look_at_all().await?;
            }
        }
        Err(Error::new(ErrorCode::Unavailable, "Docker tells no more of what happens to containers"))
    }

    fn happened(&self, event: &EventMessage, since: &mut DateTime<Utc>) -> Told {
        let at = DateTime::from_timestamp_nanos(event.time_nano.unwrap_or_default());
        let new = at > *since;
        *since = at.max(*since);
        let launch = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref()?.get(label::LAUNCH));
        let Some(id) = launch.and_then(|id| id.parse().ok()) else { return Told::Known };
        match event.action.as_deref() {
            Some("die") => self.advance(id, State::Ended),
            Some("destroy") => self.advance(id, State::Gone),
            // What an engine that was killed asked for with its last breath; our own are expected before they are made.
            Some("create") if self.get(id).is_none() => return Told::Unknown,
            // Told again after a reconnect, it has been said.
            Some("oom") if new => {
                // Nobody listens only while all of this is being given up.
                let _ = self.out_of_memory.send(OutOfMemory(id));
            }
            _ => {}
        }
        Told::Known
    }
}

/// Of what an event told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Known,
    /// Of a container that nobody here expected.
    Unknown,
}

fn launch_of(found: &ContainerSummary) -> Option<(LaunchId, Record)> {
    let labels = found.labels.as_ref()?;
    let record = serde_json::from_str(labels.get(label::RECORD)?).ok()?;
    Some((labels.get(label::LAUNCH)?.parse().ok()?, record))
}

/// A time as Docker tells it; it says the year 1 where there is none.
pub(super) fn time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().filter(|at| at.timestamp() > 0).map(|at| at.to_utc())
}

fn address(found: &ContainerInspectResponse, reach: Reach, port: u16) -> Option<SocketAddr> {
    let network = found.network_settings.as_ref()?;
    match reach {
        Reach::Container => {
            let mut all = network.networks.as_ref()?.values();
            let ip = all.find_map(|network| network.ip_address.as_ref()?.parse::<IpAddr>().ok())?;
            Some(SocketAddr::new(ip, port))
        }
        Reach::Loopback => {
            let published = network.ports.as_ref()?.get(&format!("{port}/tcp"))?.as_ref()?;
            let port = published.iter().find_map(|one| one.host_port.as_ref()?.parse::<u16>().ok())?;
            Some(SocketAddr::from(([127, 0, 0, 1], port)))
        }
    }
}
