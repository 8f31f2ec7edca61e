//! Which server the databases are on.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use paas_core::Result;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Connection};

use super::database::CONNECTIONS;
#[cfg(feature = "docker")]
use super::dedicated::OneServer;
use super::external::External;
use super::managed::{Managed, ManagedOptions};
use super::{PasswordKey, error};

/// The PostgreSQL server that add-ons are made on. Clones are the same server.
#[derive(Clone)]
pub struct PostgresServer {
    kind: Kind,
    /// One session stays open for looking things up, which every release does.
    session: Arc<Mutex<Option<Arc<Client>>>>,
}

#[derive(Clone)]
enum Kind {
    Managed(Arc<Managed>),
    External(Arc<External>),
    #[cfg(feature = "docker")]
    Dedicated(Arc<OneServer>),
}

/// Where apps find the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host name or address.
    pub(super) host: String,
    /// TCP port.
    pub(super) port: u16,
}

impl PostgresServer {
    /// A server that the platform sets up in this folder on first use, and starts and looks after from then on.
    ///
    /// It listens on loopback only and goes on when the engine ends, however it ends; the next engine on
    /// the folder finds it. Any number of engines may share the folder: it is started once.
    pub fn managed(folder: impl Into<PathBuf>) -> Self {
        Self::managed_with(folder, ManagedOptions::default())
    }

    /// The same, told how.
    pub fn managed_with(folder: impl Into<PathBuf>, options: ManagedOptions) -> Self {
        Self::of(Kind::Managed(Arc::new(Managed::new(folder.into(), options))))
    }

    /// A server that somebody else looks after: `postgres://user:password@host:port/database`. Apps must
    /// reach it at the same address. The user needs `SUPERUSER`, or `CREATEDB` and `CREATEROLE`.
    ///
    /// # Errors
    /// `invalid_params` when the URL isn't one or names several hosts or a socket; `unsupported` when it asks for TLS.
    pub fn external(url: &str, key: PasswordKey) -> Result<Self> {
        Ok(Self::of(Kind::External(Arc::new(External::new(url, key)?))))
    }

    /// One add-on's own.
    #[cfg(feature = "docker")]
    pub(super) fn dedicated(server: OneServer) -> Self {
        Self::of(Kind::Dedicated(Arc::new(server)))
    }

    fn of(kind: Kind) -> Self {
        Self { kind, session: Arc::default() }
    }

    /// Starts the server if it was used before, and looks after it; one that runs is adopted. Call it when the
    /// platform starts, so that apps find their databases also when no add-on is touched.
    ///
    /// # Errors
    /// `unavailable` with the server's last words and what to do.
    pub async fn resume(&self) -> Result<()> {
        match &self.kind {
            Kind::Managed(managed) => managed.resume().await,
            Kind::External(_) => Ok(()),
            #[cfg(feature = "docker")]
            Kind::Dedicated(one) => one.connect(None).await.map(drop),
        }
    }

    /// Stops the server cleanly: sessions are ended, everything is on disk when it returns. The next use starts it
    /// again. A server that somebody else looks after is left alone.
    ///
    /// # Errors
    /// `unavailable` when it doesn't end.
    pub async fn stop(&self) -> Result<()> {
        match &self.kind {
            Kind::Managed(managed) => managed.stop().await,
            Kind::External(_) => Ok(()),
            #[cfg(feature = "docker")]
            Kind::Dedicated(one) => one.stop().await,
        }
    }

    /// Why it can't be had here, and what to do about it.
    pub(super) async fn missing(&self) -> Option<String> {
        match &self.kind {
            Kind::Managed(managed) => managed.missing().await,
            Kind::External(_) => None,
            #[cfg(feature = "docker")]
            Kind::Dedicated(_) => None,
        }
    }

    /// Whether there is a server at all: one of ours that was never used holds no add-on.
    pub(super) fn exists(&self) -> bool {
        match &self.kind {
            Kind::Managed(managed) => managed.exists(),
            Kind::External(_) => true,
            #[cfg(feature = "docker")]
            Kind::Dedicated(one) => one.exists(),
        }
    }

    /// A session of the platform's own role in this database, or in the one for administration. Starts the
    /// server where that is ours to do.
    pub(super) async fn connect(&self, database: Option<&str>) -> Result<Client> {
        match &self.kind {
            Kind::Managed(managed) => managed.connect(database).await,
            Kind::External(external) => external.connect(database).await,
            #[cfg(feature = "docker")]
            Kind::Dedicated(one) => one.connect(database).await,
        }
    }

    /// A session that others use at the same time: for single statements that only read.
    pub(super) async fn session(&self) -> Result<Arc<Client>> {
        let mut kept = self.session.lock().await;
        if let Some(session) = kept.as_ref() {
            // It may not know yet that the server has died.
            if !session.is_closed() && session.batch_execute("").await.is_ok() {
                return Ok(session.clone());
            }
        }
        let session = Arc::new(self.connect(None).await?);
        *kept = Some(session.clone());
        Ok(session)
    }

    /// Where apps find it.
    pub(super) async fn endpoint(&self) -> Result<Endpoint> {
        match &self.kind {
            Kind::Managed(managed) => managed.endpoint().await,
            Kind::External(external) => Ok(external.endpoint().clone()),
            #[cfg(feature = "docker")]
            Kind::Dedicated(one) => one.endpoint(),
        }
    }

    /// What passwords are derived from.
    pub(super) fn key(&self) -> Result<PasswordKey> {
        match &self.kind {
            Kind::Managed(managed) => managed.key(),
            Kind::External(external) => Ok(external.key().clone()),
            #[cfg(feature = "docker")]
            Kind::Dedicated(one) => Ok(one.key().clone()),
        }
    }

    /// How many connections an add-on's role may have open at once.
    pub(super) fn connections(&self) -> u32 {
        match &self.kind {
            Kind::Managed(_) | Kind::External(_) => CONNECTIONS,
            #[cfg(feature = "docker")]
            Kind::Dedicated(one) => one.connections(),
        }
    }
}

impl fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Managed(managed) => managed.fmt(f),
            Kind::External(external) => external.fmt(f),
            #[cfg(feature = "docker")]
            Kind::Dedicated(one) => one.fmt(f),
        }
    }
}

/// Makes a fresh connection a session for administration, which ends when the client is dropped.
pub(super) async fn admin<S, T>(client: Client, connection: Connection<S, T>) -> Result<Client>
where
    Connection<S, T>: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Whoever waits for an answer on this session is told by their own call.
            tracing::debug!(error = %error, "a session with the database server ended");
        }
    });
    // A command that hangs must not hold an add-on's lock for ever.
    let limits = "SET statement_timeout = '5min'; SET idle_in_transaction_session_timeout = '1min'";
    client.batch_execute(limits).await.map_err(|e| error::sql("can't use the database server", e))?;
    Ok(client)
}
