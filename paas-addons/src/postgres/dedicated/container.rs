//! A dedicated server's container and volume. The volume is the server; the container is made anew whenever it is gone.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bollard::errors::Error as Refusal;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum as Status, EndpointSettings,
    HostConfig, HostConfigLogConfig, Mount, MountType, NetworkConnectRequest, NetworkDisconnectRequest,
    NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, LogsOptions, RemoveContainerOptions,
    RemoveVolumeOptions, StartContainerOptions, StopContainerOptions,
};
use futures_util::StreamExt;
use paas_core::{AddonId, AppName, Result};
use paas_docker::{Docker, bollard, failed, label};

use super::config::{DedicatedPlan, Reach};
use super::record::Record;
use crate::postgres::error;

/// Where the volume is mounted: above every place in which an official image keeps its data by itself.
const HOME: &str = "/var/lib/postgresql";
const DATA: &str = "/var/lib/postgresql/paas";
const PORT: u16 = 5432;
/// The platform's own role.
pub(super) const ADMIN: &str = "paas";
/// What the server may take to end in order, which the engine's own stop waits for too.
const STOPPING: i32 = 60;
/// A server that ended so often of itself will do it again.
const ENDS: i64 = 5;
const POLL: Duration = Duration::from_millis(100);
/// Docker's word for a container that can't be changed just now lasts no longer, in looks.
const LOOKS: u32 = 300;

/// What one server is on the daemon.
#[derive(Debug)]
pub(super) struct Container<'a> {
    pub(super) docker: &'a Docker,
    pub(super) addon: AddonId,
    pub(super) reach: Reach,
}

impl Container<'_> {
    /// Of the container and of the volume.
    fn name(&self) -> String {
        format!("{}.postgres.{}", self.docker.platform(), self.addon)
    }

    /// Makes sure that it runs, and says where the platform reaches it. `first` is the verifier of the platform's own
    /// password, where the data is still to be made.
    pub(super) async fn up(
        &self,
        record: &Record,
        plan: &DedicatedPlan,
        first: Option<&str>,
    ) -> Result<SocketAddr> {
        for _ in 0..LOOKS {
            let Some(found) = self.look().await? else {
                self.create(record, plan, first).await?;
                continue;
            };
            let state = found.state.clone().unwrap_or_default();
            if found.restart_count.unwrap_or_default() >= ENDS {
                return Err(error::unavailable(format!(
                    "the database server keeps ending; {}",
                    self.last_words().await
                )));
            }
            match state.status {
                Some(Status::RUNNING) if self.is_everywhere(record, &found).await? => {
                    if let Some(address) = self.address(record, &found) {
                        return Ok(address);
                    }
                }
                Some(Status::CREATED | Status::EXITED) => self.start().await?,
                Some(Status::PAUSED) => {
                    let on = self.docker.client().unpause_container(&self.name()).await;
                    on.map_err(|e| failed("can't wake the database server", e))?;
                }
                Some(Status::DEAD) => self.remove().await?,
                // Docker is at it.
                _ => {}
            }
            tokio::time::sleep(POLL).await;
        }
        Err(error::unavailable(format!("the database server doesn't start; {}", self.last_words().await)))
    }

    async fn look(&self) -> Result<Option<ContainerInspectResponse>> {
        let name = self.name();
        match self.docker.client().inspect_container(&name, None::<InspectContainerOptions>).await {
            Ok(found) => Ok(Some(found)),
            Err(Refusal::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(e) => Err(failed("can't look at the database server", e)),
        }
    }

    /// The image's id.
    pub(super) async fn runs_on(&self) -> Result<Option<String>> {
        Ok(self.look().await?.and_then(|found| found.image))
    }

    async fn create(&self, record: &Record, plan: &DedicatedPlan, first: Option<&str>) -> Result<()> {
        let name = self.name();
        let labels = self.docker.labels([
            (label::KIND, "addon".to_owned()),
            (label::ADDON, self.addon.to_string()),
            (label::APP, record.app.to_string()),
        ]);
        // One that is there stays as it is.
        let volume = VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(labels.clone()),
            ..VolumeCreateRequest::default()
        };
        let made = self.docker.client().create_volume(volume).await;
        made.map_err(|e| failed("can't make the volume of a database server", e))?;
        let network = self.docker.network(&record.app).await?;
        let mut env = vec![format!("PGDATA={DATA}")];
        if let Some(verifier) = first {
            env.push(format!("POSTGRES_USER={ADMIN}"));
            env.push("POSTGRES_DB=postgres".to_owned());
            // By which a server knows a password, and which nobody can log in with.
            env.push(format!("POSTGRES_PASSWORD={verifier}"));
            env.push("POSTGRES_INITDB_ARGS=--encoding=UTF8 --locale=C.UTF-8 --data-checksums".to_owned());
        }
        let endpoints = HashMap::from([(network.clone(), self.endpoint())]);
        let body = ContainerCreateBody {
            image: Some(record.image.clone()),
            cmd: Some(arguments(plan)),
            env: Some(env),
            labels: Some(labels),
            // Ends sessions, and not only waits for them.
            stop_signal: Some("SIGINT".to_owned()),
            stop_timeout: Some(STOPPING.into()),
            host_config: Some(host(record, plan, name.clone(), network)),
            networking_config: Some(NetworkingConfig { endpoints_config: Some(endpoints) }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions { name: Some(name), ..CreateContainerOptions::default() };
        match self.docker.client().create_container(Some(options), body).await {
            // Somebody else was faster.
            Ok(_) | Err(Refusal::DockerResponseServerError { status_code: 409, .. }) => Ok(()),
            Err(e) => Err(failed("can't make the container of a database server", e)),
        }
    }

    fn endpoint(&self) -> EndpointSettings {
        EndpointSettings { aliases: Some(vec![self.alias()]), ..EndpointSettings::default() }
    }

    /// How apps on its networks call it: its address may change, this doesn't.
    pub(super) fn alias(&self) -> String {
        format!("postgres-{}", self.addon.uuid().simple())
    }

    async fn start(&self) -> Result<()> {
        match self.docker.client().start_container(&self.name(), None::<StartContainerOptions>).await {
            Ok(()) => Ok(()),
            // It has gone; or a network that it was on has, since nobody else was on it: another container gets another.
            Err(Refusal::DockerResponseServerError { status_code: 404, .. }) => self.remove().await,
            Err(e) => Err(failed("can't start the database server", e)),
        }
    }

    /// Puts it on the networks of all apps that use it; false where it has to be looked at again.
    async fn is_everywhere(&self, record: &Record, found: &ContainerInspectResponse) -> Result<bool> {
        let mut all = true;
        for app in record.apps() {
            let network = self.docker.network(app).await?;
            let on = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
            if on.is_some_and(|on| on.contains_key(&network)) {
                continue;
            }
            let request =
                NetworkConnectRequest { container: self.name(), endpoint_config: Some(self.endpoint()) };
            match self.docker.client().connect_network(&network, request).await {
                // It or the network is gone: the next look tells which.
                Ok(()) | Err(Refusal::DockerResponseServerError { status_code: 404, .. }) => {}
                Err(Refusal::DockerResponseServerError { message, .. })
                    if message.contains("already exists") => {}
                Err(e) => return Err(failed("can't put the database server on an app's network", e)),
            }
            all = false;
        }
        Ok(all)
    }

    /// Takes it from the network of an app that uses it no more.
    pub(super) async fn leave(&self, app: &AppName) -> Result<()> {
        let network = self.docker.network(app).await?;
        let request = NetworkDisconnectRequest { container: self.name(), force: Some(true) };
        match self.docker.client().disconnect_network(&network, request).await {
            Ok(()) | Err(Refusal::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(Refusal::DockerResponseServerError { message, .. })
                if message.contains("is not connected") =>
            {
                Ok(())
            }
            Err(e) => Err(failed("can't take the database server from an app's network", e)),
        }
    }

    /// Where the platform reaches it.
    fn address(&self, record: &Record, found: &ContainerInspectResponse) -> Option<SocketAddr> {
        if let (Reach::Loopback, Some(port)) = (self.reach, record.port) {
            return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        let mut networks = found.network_settings.as_ref()?.networks.as_ref()?.values();
        let ip = networks.find_map(|network| network.ip_address.as_ref()?.parse::<IpAddr>().ok())?;
        Some(SocketAddr::new(ip, PORT))
    }

    /// What the server said last, for people.
    pub(super) async fn last_words(&self) -> String {
        let options =
            LogsOptions { stdout: true, stderr: true, tail: "5".to_owned(), ..LogsOptions::default() };
        let said = self.docker.client().logs(&self.name(), Some(options));
        let said: Vec<String> = said
            .filter_map(|line| async move { line.ok().map(|line| line.to_string().trim().to_owned()) })
            .collect()
            .await;
        if said.is_empty() {
            "it said nothing".to_owned()
        } else {
            format!("its last words: {}", said.join(" / "))
        }
    }

    /// Asks the server to end, and waits until it has.
    pub(super) async fn stop(&self) -> Result<()> {
        let patient = self.docker.patient(Duration::from_secs(STOPPING.unsigned_abs().into()));
        let options = StopContainerOptions { t: Some(STOPPING), ..StopContainerOptions::default() };
        match patient.stop_container(&self.name(), Some(options)).await {
            Ok(()) | Err(Refusal::DockerResponseServerError { status_code: 304 | 404, .. }) => Ok(()),
            Err(e) => Err(failed("can't stop the database server", e)),
        }
    }

    /// Removes the container, running or not. The data stays.
    pub(super) async fn remove(&self) -> Result<()> {
        let name = self.name();
        for _ in 0..LOOKS {
            let options =
                RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
            match self.docker.client().remove_container(&name, Some(options)).await {
                Ok(()) => {}
                Err(Refusal::DockerResponseServerError { status_code: 404, .. }) => return Ok(()),
                // Docker is at it already.
                Err(Refusal::DockerResponseServerError { status_code: 409, .. }) => {
                    tokio::time::sleep(POLL).await;
                }
                Err(e) => return Err(failed("can't remove the container of a database server", e)),
            }
        }
        Err(error::unavailable(format!("Docker is still removing the container {name}")))
    }

    /// Removes container and data.
    pub(super) async fn destroy(&self) -> Result<()> {
        self.remove().await?;
        let removed = self.docker.client().remove_volume(&self.name(), None::<RemoveVolumeOptions>).await;
        match removed {
            Ok(()) | Err(Refusal::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
            Err(e) => Err(failed("can't remove the volume of a database server", e)),
        }
    }
}

/// What the server is told, beside what the image tells it.
fn arguments(plan: &DedicatedPlan) -> Vec<String> {
    // Three stay free for the platform itself.
    let connections = plan.connections.saturating_add(3);
    [
        "postgres".to_owned(),
        "-c".to_owned(),
        format!("max_connections={connections}"),
        "-c".to_owned(),
        format!("shared_buffers={}kB", plan.memory / 4 / 1024),
        "-c".to_owned(),
        "password_encryption=scram-sha-256".to_owned(),
    ]
    .to_vec()
}

fn host(record: &Record, plan: &DedicatedPlan, volume: String, network: String) -> HostConfig {
    let limit = |value: u64| i64::try_from(value).ok().filter(|value| *value > 0);
    let memory = limit(plan.memory);
    let mount = Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume),
        target: Some(HOME.to_owned()),
        ..Mount::default()
    };
    let bindings = record.port.map(|port| {
        let binding =
            PortBinding { host_ip: Some(Ipv4Addr::LOCALHOST.to_string()), host_port: Some(port.to_string()) };
        HashMap::from([(format!("{PORT}/tcp"), Some(vec![binding]))])
    });
    let log_config = [("max-size", "5m"), ("max-file", "2")].map(|(key, value)| (key.into(), value.into()));
    HostConfig {
        network_mode: Some(network),
        mounts: Some(vec![mount]),
        port_bindings: bindings,
        memory,
        memory_swap: memory,
        // For queries in parallel; PostgreSQL asks for as much as they need.
        shm_size: limit(plan.memory / 4),
        nano_cpus: limit(u64::from(plan.millicpus) * 1_000_000),
        // A process for each connection, and its own.
        pids_limit: limit(u64::from(plan.connections) * 2 + 64),
        cap_drop: Some(vec!["ALL".into()]),
        // What it takes to hand the data to the server's user and to become it.
        cap_add: Some(["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"].map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".into()]),
        // Apps need their database also while no engine runs.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from(log_config)),
        }),
        ..HostConfig::default()
    }
}
