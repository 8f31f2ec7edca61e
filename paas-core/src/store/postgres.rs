//! A store in a PostgreSQL database, for any number of engines on any number of machines.

mod commit;
mod error;
mod listen;
mod options;
mod pool;
mod queue;
mod rows;
mod schema;
mod session;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use uuid::Uuid;

pub use self::options::PostgresOptions;
use self::pool::Pool;
use self::session::{Connector, Driver};
use self::writer::{Call, Writer};
use super::changes::{Change, Changes};
use super::{ClaimRequest, EventRow, Fence, ListQuery, Row, Store, Table, Transaction};
use crate::{Clock, Error, ErrorCode, Result};

/// Keeps everything in one schema of a PostgreSQL database, which any number of engines share.
///
/// Leases and due times go by the database's clock, so the engines' clocks may differ. Each commit is on the server's
/// disk when it returns, also where the server's `synchronous_commit` is off. One task commits: calls that wait for it at
/// the same time become one transaction and share its sync, each with its own answer. Claims, leases and reads don't
/// wait for it.
///
/// A connection that is lost is opened again. A call that was interrupted answers `unavailable`: it may have happened.
/// No call takes longer than [`PostgresOptions::connect_timeout`] and four times
/// [`PostgresOptions::statement_timeout`], but to wait for other calls.
///
/// The store's tasks live on the tokio runtime in which it was connected.
pub struct PostgresStore {
    connector: Arc<Connector>,
    clock: Arc<dyn Clock>,
    pool: Pool,
    calls: mpsc::UnboundedSender<Call>,
    changes: Changes,
    /// Tells our own notifications from others'.
    me: String,
    _listener: Driver,
}

impl PostgresStore {
    /// Connects to the store in the schema `paas` of this database, or makes it.
    /// `postgres://user:password@host:port/database`; several hosts and
    /// `target_session_attrs=read-write` follow a failover. The user needs the right to make a schema once, or one
    /// that is theirs.
    ///
    /// `clock` is the engine's: [`Store::next_due`] is told by it, however far it is from the database's.
    ///
    /// # Errors
    /// `invalid_params` when the URL isn't one, `unavailable` when the server can't be reached or doesn't let us in,
    /// `unsupported` when a newer version wrote the schema or the URL asks for TLS, `corrupt` when the schema is
    /// another program's.
    pub async fn connect(url: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::connect_with(url, PostgresOptions::default(), clock).await
    }

    /// The same, told how.
    ///
    /// # Errors
    /// As [`PostgresStore::connect`]; `invalid_params` when an option can't be.
    pub async fn connect_with(url: &str, options: PostgresOptions, clock: Arc<dyn Clock>) -> Result<Self> {
        let connector = Arc::new(Connector::new(url, options)?);
        let located = |e: Error| e.with("store", connector.place());
        let session = connector.open().await.map_err(located)?;
        schema::migrate(&connector, &session).await.map_err(located)?;
        let changes = Changes::new();
        let mut heard = changes.rows();
        let (me, channel) = (Uuid::new_v4().simple().to_string(), &connector.options.schema);
        let writer = Writer {
            connector: connector.clone(),
            changes: changes.clone(),
            channel: channel.clone(),
            me: me.clone(),
            session: Some(session),
        };
        let (calls, waiting) = mpsc::unbounded_channel();
        // It ends by itself when nobody can call it any more, and not before what was asked for is done.
        tokio::spawn(writer.run(waiting));
        let listener = connector.spawn(listen::listen(connector.clone(), me.clone(), changes.clone()));
        // It says so when it listens; where it can't yet, it goes on trying.
        if timeout(connector.options.connect_timeout, heard.changed()).await.is_err() {
            tracing::warn!("not hearing of other engines' changes yet; polling finds them meanwhile");
        }
        let pool = Pool::new(connector.clone());
        Ok(Self { connector, clock, pool, calls, changes, me, _listener: listener })
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let schema = &self.connector.options.schema;
        f.debug_struct("PostgresStore")
            .field("at", &self.connector)
            .field("schema", schema)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn commit(&self, transaction: Transaction) -> Result<u64> {
        let (call, answer) = Call::new(transaction);
        let gone = || Error::new(ErrorCode::Internal, "the store's runtime has ended");
        self.calls.send(call).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>> {
        rows::get(&self.pool, table, key).await
    }

    async fn list(&self, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
        rows::list(&self.pool, table, query).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<Row>> {
        queue::claim(&self.pool, request).await
    }

    async fn renew(&self, fence: &Fence, ttl: Duration) -> Result<u64> {
        queue::renew(&self.pool, fence, ttl).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        queue::lease(&self.pool, name, owner, ttl).await
    }

    async fn unlease(&self, name: &str, owner: &str) -> Result<()> {
        let (channel, change) = (&self.connector.options.schema, Change::of_lease(name));
        if queue::unlease(&self.pool, name, owner, channel, &listen::note(&self.me, change)).await? {
            self.changes.tell(change);
        }
        Ok(())
    }

    async fn leased(&self, name: &str) -> Result<Option<String>> {
        queue::holder(&self.pool, name).await
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>> {
        queue::next_due(&self.pool, &*self.clock).await
    }

    async fn events(&self, after: u64, subject: Option<&str>, limit: usize) -> Result<Vec<EventRow>> {
        rows::events(&self.pool, after, subject, limit).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.rows()
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.changes.queue()
    }
}

#[cfg(test)]
mod tests;
