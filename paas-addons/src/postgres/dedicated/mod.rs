//! The plan `dedicated`: a server of its own for each add-on, in a container with a volume, on the app's network.
//!
//! ```text
//!  provision ── record ── volume ── container ── answers ── role and database, as on a shared server ── ready
//!                 │                     ^
//!                 │                     └── made anew of the volume whenever it is gone
//!  deprovision ── container, volume, record: gone
//! ```
//!
//! Docker starts the servers again by itself, with the daemon too, so that apps have their databases while no engine
//! runs; while one runs, it also brings back what somebody stopped or removed. The password is in no label, argument or
//! environment: a new server is given a SCRAM verifier.

mod config;
mod container;
mod image;
mod record;
mod setup;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use paas_core::{
    AddonId, BindRequest, Clock, Context, Error, ErrorCode, Plan, ProvisionRequest, Result, Retry,
    SystemClock,
};
use postgres_protocol::password::scram_sha_256;
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

pub use self::config::{DedicatedConfig, DedicatedPlan, Reach};
use self::container::{ADMIN, Container};
use self::record::{Record, Records};
use self::watch::Watch;
use super::database::Database;
use super::server::{self, Endpoint};
use super::{PasswordKey, PostgresServer, database, error};

/// Recovery after a crash reads what was written since the last checkpoint: at most `max_wal_size`.
const START_LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);

/// The dedicated servers of a platform. Clones are the same.
#[derive(Clone)]
pub struct Dedicated {
    shared: Arc<Shared>,
    watch: Arc<Mutex<Option<Watch>>>,
}

struct Shared {
    config: DedicatedConfig,
    records: Records,
    key: PasswordKey,
    /// They were stopped on purpose.
    stopped: AtomicBool,
    servers: Mutex<HashMap<AddonId, PostgresServer>>,
    turns: Mutex<HashMap<AddonId, Arc<Turns>>>,
}

/// Who works on one server.
#[derive(Debug, Default)]
struct Turns {
    /// Making, binding, upgrading, destroying.
    life: tokio::sync::Mutex<()>,
    /// Whoever makes or removes its container, for a moment.
    container: tokio::sync::Mutex<()>,
}

impl Dedicated {
    /// Looks at nothing yet; see [`Dedicated::resume`].
    ///
    /// # Errors
    /// When the folder or the key in it can't be made or read.
    pub fn open(config: DedicatedConfig) -> Result<Self> {
        let records = Records::open(config.folder.clone())?;
        let key = PasswordKey::open(&records.key())?;
        let (servers, turns, stopped) = Default::default();
        let shared = Arc::new(Shared { config, records, key, stopped, servers, turns });
        Ok(Self { shared, watch: Arc::default() })
    }

    /// Starts what doesn't run, and looks after all from then on. Call it when the platform starts.
    ///
    /// # Errors
    /// `unavailable` with a server's last words.
    pub async fn resume(&self) -> Result<()> {
        self.shared.stopped.store(false, Ordering::SeqCst);
        let all = self.shared.records.ready()?;
        let all = all.into_iter().map(|addon| async move {
            let server = OneServer { shared: self.shared.clone(), addon };
            let client = server.connect(None).await?;
            self.shared.certify(addon, &client).await
        });
        let resumed = try_join_all(all).await;
        self.look_after();
        resumed.map(drop)
    }

    /// Stops all servers in order. [`Dedicated::resume`] starts them again.
    ///
    /// # Errors
    /// `unavailable` when Docker can't be asked.
    pub async fn stop(&self) -> Result<()> {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        let all = self.shared.records.ready()?;
        let all = all.into_iter().map(|addon| async move {
            let turns = self.shared.turns(addon);
            let _turn = turns.container.lock().await;
            self.shared.container(addon).stop().await
        });
        try_join_all(all).await.map(drop)
    }

    /// Puts every server onto what its image's name means today, such as the next minor version: asks the registry, and
    /// replaces each container whose image is another now. Sessions of apps end and come back in the second or two that
    /// takes. A server that doesn't start on its new image goes back to the old one. Says which were replaced.
    ///
    /// # Errors
    /// When one couldn't be replaced: it is what it was before, and those after it were not tried.
    pub async fn upgrade(&self) -> Result<Vec<AddonId>> {
        let shared = &self.shared;
        let mut upgraded = Vec::new();
        for addon in shared.records.ready()? {
            if shared.upgrade(addon).await? {
                upgraded.push(addon);
            }
        }
        Ok(upgraded)
    }

    fn look_after(&self) {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.as_ref().is_none_or(Watch::is_over) {
            *watch = Some(Watch::start(self.shared.clone()));
        }
    }

    /// Why none can be had just now.
    pub(super) async fn missing(&self) -> Option<String> {
        let asked = self.shared.config.docker.client().ping().await;
        asked.err().map(|e| paas_docker::failed("no database servers can be made", e).to_string())
    }

    pub(super) fn plans(&self) -> Vec<Plan> {
        let newest = self.shared.config.images.keys().next_back().copied().unwrap_or_default();
        let plans = self.shared.config.plans.iter();
        plans.map(|plan| Plan::new(plan.name.clone(), plan.description(newest))).collect()
    }

    pub(super) fn offers(&self, request: &ProvisionRequest) -> bool {
        self.shared.config.plans.iter().any(|plan| plan.name == request.plan)
    }

    /// The server of this add-on, whole or not; `None` where there is none.
    pub(super) fn find(&self, addon: AddonId) -> Result<Option<Found>> {
        let record = self.shared.records.read(addon)?;
        Ok(record.map(
            |record| {
                if record.ready { Found::Ready(self.shared.server(addon)) } else { Found::Making }
            },
        ))
    }

    /// Makes a server with its role and database.
    pub(super) async fn make(&self, ctx: &Context, request: &ProvisionRequest) -> Result<()> {
        let (shared, addon) = (&self.shared, request.addon);
        let turns = shared.turns(addon);
        let _turn = ctx.cancel.guard(turns.life.lock()).await?;
        let server = shared.server(addon);
        if shared.records.read(addon)?.is_some_and(|record| record.ready) {
            return ctx.cancel.guard(server.connect(None)).await?.map(drop);
        }
        let version = shared.version(request)?;
        // What an attempt left that died: nobody has been told how to reach it.
        shared.destroy(addon).await?;
        let image = image::bring(ctx, &shared.config.docker, &shared.config.images[&version]).await?;
        let record = Record {
            app: request.app.clone(),
            plan: request.plan.clone(),
            version,
            image,
            port: if shared.config.reach == Reach::Loopback { Some(free_port()?) } else { None },
            ready: false,
            bindings: [].into(),
            certified: None,
        };
        shared.records.write(addon, &record)?;
        ctx.log.line(format!("       Starting a PostgreSQL {version} server"));
        let client = ctx.cancel.guard(server.connect(None)).await??;
        setup::check_version(&client, &record).await?;
        setup::close(&client).await?;
        shared.certify(addon, &client).await?;
        let database = Database::new(&client, addon);
        database.lock().await?;
        database.ensure(&server, &shared.key).await?;
        shared.change(addon, |record| record.ready = true).await?;
        self.look_after();
        Ok(())
    }

    /// Puts it on the app's network for as long as the binding lasts.
    pub(super) async fn bind(&self, request: &BindRequest) -> Result<()> {
        let (shared, addon) = (&self.shared, request.addon);
        let turns = shared.turns(addon);
        let _turn = turns.life.lock().await;
        let binding = (request.app.clone(), request.attachment.clone());
        shared.change(addon, |record| record.bindings.extend([binding])).await?;
        shared.up(addon).await.map(drop)
    }

    pub(super) async fn unbind(&self, request: &BindRequest) -> Result<()> {
        let (shared, addon) = (&self.shared, request.addon);
        let turns = shared.turns(addon);
        let _turn = turns.life.lock().await;
        let binding = (request.app.clone(), request.attachment.clone());
        let record = shared.change(addon, |record| record.bindings.retain(|one| *one != binding)).await?;
        if record.apps().contains(&request.app) {
            return Ok(());
        }
        let _turn = turns.container.lock().await;
        shared.container(addon).leave(&request.app).await
    }

    /// Destroys the server and its data, or what is left of them.
    pub(super) async fn destroy(&self, addon: AddonId) -> Result<()> {
        let turns = self.shared.turns(addon);
        let _turn = turns.life.lock().await;
        self.shared.destroy(addon).await?;
        self.shared.forget(addon);
        Ok(())
    }
}

/// How far a server is.
pub(super) enum Found {
    Making,
    Ready(PostgresServer),
}

impl Shared {
    fn turns(&self, addon: AddonId) -> Arc<Turns> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(addon).or_default().clone()
    }

    fn server(self: &Arc<Self>, addon: AddonId) -> PostgresServer {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || PostgresServer::dedicated(OneServer { shared: self.clone(), addon });
        servers.entry(addon).or_insert_with(made).clone()
    }

    fn forget(&self, addon: AddonId) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).remove(&addon);
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever waits for it keeps it.
        turns.retain(|key, turns| *key != addon || Arc::strong_count(turns) > 2);
    }

    fn container(&self, addon: AddonId) -> Container<'_> {
        Container { docker: &self.config.docker, addon, reach: self.config.reach }
    }

    /// What the plan is today; where it is offered no more, the first one's size.
    fn plan(&self, record: &Record) -> DedicatedPlan {
        let plans = &self.config.plans;
        let plan = plans.iter().find(|plan| plan.name == record.plan).or_else(|| plans.first());
        plan.cloned().unwrap_or_else(|| DedicatedPlan::new(record.plan.clone()))
    }

    /// The major version that is asked for, or the newest.
    fn version(&self, request: &ProvisionRequest) -> Result<u16> {
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

    async fn change(&self, addon: AddonId, change: impl FnOnce(&mut Record)) -> Result<Record> {
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

    async fn certify(&self, addon: AddonId, client: &Client) -> Result<()> {
        let until = self.records.read(addon)?.and_then(|record| record.certified);
        let until = setup::certify(client, SystemClock::new().now().date_naive(), until).await?;
        self.change(addon, |record| record.certified = until).await.map(drop)
    }

    /// Makes sure that its container runs. What was begun is done also when nobody waits any more: a request that is cut
    /// off could be carried out after whatever comes next.
    async fn up(self: &Arc<Self>, addon: AddonId) -> Result<std::net::SocketAddr> {
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
    async fn bring_back(self: &Arc<Self>, addon: AddonId) -> Result<()> {
        if self.stopped.load(Ordering::SeqCst)
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

    async fn destroy(self: &Arc<Self>, addon: AddonId) -> Result<()> {
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
    async fn image(&self, record: &Record) -> Result<String> {
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

    async fn upgrade(self: &Arc<Self>, addon: AddonId) -> Result<bool> {
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
    async fn replace(self: &Arc<Self>, addon: AddonId, image: String) -> Result<()> {
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

/// One server, while somebody works with it.
pub(super) struct OneServer {
    shared: Arc<Shared>,
    addon: AddonId,
}

impl OneServer {
    pub(super) fn key(&self) -> &PasswordKey {
        &self.shared.key
    }

    pub(super) fn exists(&self) -> bool {
        // What can't be read is there: whoever uses it next is told.
        self.shared.records.read(self.addon).map_or(true, |record| record.is_some())
    }

    pub(super) async fn stop(&self) -> Result<()> {
        self.shared.container(self.addon).stop().await
    }

    /// How many connections an app's role may have open.
    pub(super) fn connections(&self) -> u32 {
        let record = self.shared.records.read(self.addon).ok().flatten();
        record.map_or(database::CONNECTIONS, |record| self.shared.plan(&record).connections)
    }

    pub(super) fn endpoint(&self) -> Result<Endpoint> {
        let record = self.shared.records.read(self.addon)?.ok_or_else(|| database::gone(self.addon))?;
        Ok(match record.port {
            Some(port) => Endpoint { host: Ipv4Addr::LOCALHOST.to_string(), port },
            None => Endpoint { host: self.shared.container(self.addon).alias(), port: 5432 },
        })
    }

    /// A session of the platform's own role. Starts the server where it doesn't run, and waits until it answers.
    pub(super) async fn connect(&self, database: Option<&str>) -> Result<Client> {
        let (shared, addon) = (&self.shared, self.addon);
        let mut config = Config::new();
        config.user(ADMIN).password(shared.key.dedicated_password(addon).as_bytes());
        config.dbname(database.unwrap_or("postgres")).application_name("paas");
        config.connect_timeout(Duration::from_secs(5));
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let address = shared.up(addon).await?;
            let mut config = config.clone();
            config.host(address.ip().to_string()).port(address.port());
            match config.connect(NoTls).await {
                Ok((client, connection)) => return server::admin(client, connection).await,
                Err(e) if e.code() == Some(&SqlState::INVALID_PASSWORD) => {
                    let what = format!(
                        "the database server of the add-on {addon} was made with another key than {}: bring that back",
                        shared.records.key().display()
                    );
                    return Err(Error::new(ErrorCode::WrongKey, what).with_retry(Retry::Never));
                }
                Err(e)
                    if Instant::now() < deadline
                        && e.code().is_none_or(|code| *code == SqlState::CANNOT_CONNECT_NOW) =>
                {
                    sleep(POLL).await;
                }
                Err(e) => {
                    let said = shared.container(addon).last_words().await;
                    return Err(error::sql(&format!("can't log in to the database server ({said})"), e));
                }
            }
        }
    }
}

impl fmt::Debug for OneServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresServer::dedicated({})", self.addon)
    }
}

impl fmt::Debug for Dedicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let folder = self.shared.records.folder();
        f.debug_struct("Dedicated")
            .field("docker", &self.shared.config.docker)
            .field("folder", &folder)
            .finish_non_exhaustive()
    }
}

/// A port of loopback that nobody uses today. It is the server's from then on.
fn free_port() -> Result<u16> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    port.map(|address| address.port()).map_err(|e| Error::from_io("can't find a free port", e))
}
