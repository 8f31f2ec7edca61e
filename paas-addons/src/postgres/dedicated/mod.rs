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
mod servers;
mod session;
mod setup;
mod watch;

use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::try_join_all;
use paas_core::{AddonId, BindRequest, Context, Error, Plan, ProvisionRequest, Result};

pub use self::config::{DedicatedConfig, DedicatedPlan, Reach};
use self::record::{Record, Records};
use self::servers::Shared;
pub(super) use self::session::OneServer;
use self::watch::Watch;
use super::database::Database;
use super::{PasswordKey, PostgresServer};

/// The dedicated servers of a platform. Clones are the same.
#[derive(Clone)]
pub struct Dedicated {
    shared: Arc<Shared>,
    watch: Arc<Mutex<Option<Watch>>>,
}

impl Dedicated {
    /// Looks at nothing yet; see [`Dedicated::resume`].
    ///
    /// # Errors
    /// When the folder or the key in it can't be made or read.
    pub fn open(config: DedicatedConfig) -> Result<Self> {
        let records = Records::open(config.folder.clone())?;
        let key = PasswordKey::open(&records.key())?;
        Ok(Self { shared: Arc::new(Shared::new(config, records, key)), watch: Arc::default() })
    }

    /// Starts what doesn't run, and looks after all from then on. Call it when the platform starts.
    ///
    /// # Errors
    /// `unavailable` with a server's last words.
    pub async fn resume(&self) -> Result<()> {
        self.shared.left_alone.store(false, Ordering::SeqCst);
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

    /// Looks after them no more: they run on, and whoever resumes them next looks after them, in this process or another.
    pub fn let_go(&self) {
        self.shared.left_alone.store(true, Ordering::SeqCst);
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Stops all servers in order. [`Dedicated::resume`] starts them again.
    ///
    /// # Errors
    /// `unavailable` when Docker can't be asked.
    pub async fn stop(&self) -> Result<()> {
        self.let_go();
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
