//! A platform on one machine, in one folder.

mod backup;

use std::fmt;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use paas_core::store::{SqliteStore, StoreBackup};
use paas_core::vault::KeyFile;
use paas_core::{
    Cancel, CancelReason, Clock, DirBlobs, Engine, EngineBuilder, EngineOptions, Error, ErrorCode, Result,
    SteadyClock, SystemClock, Vault,
};
use paas_run::logs::{FileLogs, LogBounds};
use paas_run::process::{ProcessConfig, ProcessRuntime};
use paas_run::proxy::{Proxy, ProxyConfig};
use paas_sandbox::Helper;
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::task::JoinHandle;

/// The parts of a platform on one machine, kept in one folder: SQLite, local processes and the built-in proxy, with the
/// slugs, logs and the key that they share.
///
/// It only puts together what you could put together yourself: every part is there to be used, and
/// [`Local::engine`] is an [`Engine::builder`] to go on with. Whoever needs another part than these begins there.
#[non_exhaustive]
pub struct Local {
    /// Where everything is kept.
    pub folder: PathBuf,
    /// Where users' requests arrive.
    pub address: SocketAddr,
    /// The time, which doesn't jump when the machine's clock is set.
    pub clock: Arc<dyn Clock>,
    /// Sources and slugs.
    pub blobs: Arc<DirBlobs>,
    /// The logs.
    pub logs: Arc<FileLogs>,
    /// What must not be lost.
    pub store: Arc<SqliteStore>,
    /// The apps' processes.
    pub runtime: Arc<ProcessRuntime>,
    /// The router.
    pub proxy: Proxy,
    helper: Helper,
    stop: Cancel,
    server: JoinHandle<Result<()>>,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local")
            .field("folder", &self.folder)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Local {
    /// Opens the folder, which is made where it is missing, adopts the apps that run in it, and listens for users' requests.
    ///
    /// # Errors
    /// `not_initialised` when [`paas::init`](crate::init) wasn't called; `unavailable` when another platform uses the folder;
    /// when the folder can't be used or nothing can listen on that address.
    pub async fn open(folder: impl AsRef<Path>, listen: impl ToSocketAddrs) -> Result<Self> {
        let helper = Helper::current()
            .map_err(|e| Error::new(ErrorCode::NotInitialised, e.to_string()).with_source(e))?;
        let folder = folder.as_ref();
        let failed = |e| Error::from_io(format!("can't use the folder {}", folder.display()), e);
        // Apps have users of their own, who pass through it; what is in it is closed to them by itself.
        std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder).map_err(failed)?;
        let folder = folder.canonicalize().map_err(failed)?;
        let deaf = |e| Error::from_io("can't listen for users' requests", e);
        let listener = TcpListener::bind(listen).await.map_err(deaf)?;
        let address = listener.local_addr().map_err(deaf)?;

        let clock: Arc<dyn Clock> = Arc::new(SteadyClock::new());
        let blobs = Arc::new(DirBlobs::open(folder.join("blobs"))?.with_clock(clock.clone()));
        let logs = Arc::new(FileLogs::open(folder.join("logs"), LogBounds::default())?);
        let process = ProcessConfig::new(
            folder.join("run"),
            blobs.clone(),
            logs.clone(),
            clock.clone(),
            helper.clone(),
        );
        let runtime = Arc::new(ProcessRuntime::open(process).await?);
        let store = Arc::new(SqliteStore::open(folder.join("paas.db"), clock.clone())?);
        // The runtime has the folder for itself, so whoever holds a lease is dead.
        store.end_leases().await?;
        let proxy = Proxy::new(ProxyConfig::default(), logs.clone(), Arc::new(SystemClock::new()));
        let stop = Cancel::new();
        let server = tokio::spawn({
            let (proxy, stop) = (proxy.clone(), stop.clone());
            async move { proxy.serve(listener, stop).await }
        });
        Ok(Self { folder, address, clock, blobs, logs, store, runtime, proxy, helper, stop, server })
    }

    /// An engine over these parts, to which sources and builders are still to be added.
    ///
    /// # Errors
    /// When the master key in the folder can't be read or made.
    pub fn engine(&self) -> Result<EngineBuilder> {
        let vault = Vault::of_file(KeyFile::new(self.folder.join("master.key")))?;
        Ok(Engine::builder(self.store.clone(), self.runtime.clone(), Arc::new(self.proxy.clone()))
            .with_options(self.options())
            .with_vault(vault)
            .with_blobs(self.blobs.clone())
            .with_logs(self.logs.clone())
            .with_clock(self.clock.clone()))
    }

    /// The settings that [`Local::engine`] uses: apps answer to `NAME.localhost`, on this port. To change some, change these and
    /// give them to [`EngineBuilder::with_options`].
    pub fn options(&self) -> EngineOptions {
        let mut options = EngineOptions::default();
        options.public_port = Some(self.address.port());
        options.work_dir = self.folder.join("work");
        options
    }

    /// Copies what must not be lost into a new folder of mode 0700, while the platform works: the store as it is at one moment,
    /// the master keys, and the sources and slugs, each checked against its digest. The engine is the one on these
    /// parts.
    ///
    /// The folder opens everything that the platform keeps secret: keep it as you keep the master key. Not in it: running
    /// instances and what they wrote, logs, caches, the data of add-ons, git repositories; `docs/backup.md` tells of each.
    ///
    /// # Errors
    /// `exists` when there is something of that name; `disk_full`; `corrupt` when content is damaged. What was copied until
    /// then stays, without the store, which comes last to its name.
    pub async fn backup(&self, engine: &Engine, to: impl AsRef<Path>) -> Result<StoreBackup> {
        backup::backup(self, engine, to.as_ref()).await
    }

    /// Makes a folder for [`Local::open`] out of a backup, here or on another machine.
    ///
    /// Only one platform may go on from a backup: two would answer for the same apps and add-ons.
    ///
    /// # Errors
    /// `exists` when the folder isn't empty; `not_found` when that is no backup; `corrupt` when content is damaged.
    pub async fn restore(from: impl AsRef<Path>, folder: impl AsRef<Path>) -> Result<()> {
        backup::restore(from.as_ref(), folder.as_ref()).await
    }

    /// A builder that runs buildpacks in a sandbox, to whom this folder is hidden.
    ///
    /// # Errors
    /// When its folder can't be used or the machine can't make a sandbox.
    #[cfg(feature = "buildpack")]
    pub async fn buildpacks(&self) -> Result<paas_build::BuildpackBuilder> {
        let blobs = self.blobs.clone();
        let config = paas_build::BuildpackConfig::new(self.folder.join("build"), blobs, self.helper.clone());
        paas_build::BuildpackBuilder::open(config.hiding(&self.folder)).await
    }

    /// Ends the apps and the proxy. Shut the engine down first, or it starts them again. Without this call apps outlive
    /// the program, and the next [`Local::open`] adopts them.
    ///
    /// # Errors
    /// When the proxy ended by itself before, why it did.
    pub async fn stop(self) -> Result<()> {
        self.runtime.stop_all().await;
        self.stop.cancel(CancelReason::Shutdown);
        self.server.await.map_err(|e| Error::new(ErrorCode::Internal, "the proxy panicked").with_source(e))?
    }
}
