//! A store in a file, for one machine: what the platform uses unless it is told otherwise.

mod backup;
mod commit;
mod error;
mod queue;
mod rows;
mod schema;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use tokio::sync::watch;

pub use self::backup::StoreBackup;
use self::writer::{Call, Job, Look};
use super::changes::{Change, Changes};
use super::{ClaimRequest, EventRow, Fence, ListQuery, Row, Store, Table, Transaction, rules};
use crate::blocking;
use crate::{Clock, Error, ErrorCode, Result};

/// Keeps everything in one SQLite file with a write-ahead log, each commit synced to the disk.
///
/// Several processes of one machine may work on one file. The file must lie on a disk of that machine: over
/// NFS and its like, locks and the log's shared memory don't work, and data is lost.
///
/// One thread writes. Calls that wait for it at the same time become one transaction of the database and share
/// its sync, each with its own answer; a refused one undoes nothing of the others.
pub struct SqliteStore {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    jobs: mpsc::Sender<Box<dyn Job>>,
    readers: Arc<Mutex<Vec<Connection>>>,
    changes: Changes,
}

/// So many connections are kept for the next readers.
const IDLE_READERS: usize = 4;

impl SqliteStore {
    /// Opens the store in this file, or makes it with mode 0600. Leases end by this clock, which all processes
    /// that share the file must agree on.
    ///
    /// # Errors
    /// `unavailable` when the file can't be opened or written, `corrupt` when it isn't a store, `unsupported` when a
    /// newer version wrote it or its disk can't keep a write-ahead log, `disk_full`.
    pub fn open(path: impl Into<PathBuf>, clock: Arc<dyn Clock>) -> Result<Self> {
        let path = path.into();
        let connection = schema::open_and_migrate(&path).map_err(|e| located(e, &path))?;
        let (jobs, waiting) = mpsc::channel();
        let changes = Changes::new();
        let told = changes.clone();
        let thread = std::thread::Builder::new().name("paas-store".into());
        thread
            .spawn(move || writer::run(&connection, &waiting, &told))
            .map_err(|e| Error::from_io("can't start the store's writer", e))?;
        Ok(Self { path, clock, jobs, readers: Arc::default(), changes })
    }

    /// Ends every lease: what a process that died had claimed can be gone on with now, instead of when its lease would
    /// have run out. It is for whoever knows that no other process works on this file. One that did would lose what it
    /// has claimed to whoever claims next, as after a lease that ran out, and harm nothing.
    ///
    /// # Errors
    /// `unavailable`, `disk_full`.
    pub async fn end_leases(&self) -> Result<()> {
        self.write(Some(Change::Queue), queue::end_leases).await
    }

    async fn write<T: Send + 'static>(
        &self,
        change: Option<Change>,
        work: impl FnOnce(&Connection, DateTime<Utc>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let clock = self.clock.clone();
        // The time is asked for once the call is alone with the store, so that it never goes back between calls.
        let (call, answer) = Call::new(move |c: &Connection| work(c, rules::rounded(clock.now())), change);
        let gone = || Error::new(ErrorCode::Internal, "the store's writer has ended");
        self.jobs.send(Box::new(call)).map_err(|_| gone())?;
        let result = answer.await.map_err(|_| gone())?;
        result.map_err(|e| located(e, &self.path))
    }

    /// Tells the writer that somebody listens: it may be asleep since nobody did. If it has ended, every call says so.
    fn heard(&self, changes: watch::Receiver<u64>) -> watch::Receiver<u64> {
        let _ = self.jobs.send(Box::new(Look));
        changes
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (readers, path) = (self.readers.clone(), self.path.clone());
        blocking(move || {
            let idle = || readers.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = idle().pop();
            let connection = taken.map_or_else(|| schema::open(&path), Ok);
            let result = connection.and_then(|connection| {
                let result = work(&connection)?;
                // One that failed is not kept: the next reader opens another.
                let mut idle = idle();
                if idle.len() < IDLE_READERS {
                    idle.push(connection);
                }
                Ok(result)
            });
            result.map_err(|e| located(e, &path))
        })
        .await
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Says which file it was, where the file is to blame.
fn located(error: Error, path: &Path) -> Error {
    use ErrorCode::{Corrupt, DiskFull, Internal, Unavailable, Unsupported};
    match error.code() {
        Corrupt | DiskFull | Internal | Unavailable | Unsupported => error.with("store", path.display()),
        _ => error,
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn commit(&self, transaction: Transaction) -> Result<u64> {
        self.write(Some(Change::of(&transaction)), move |c, now| commit::commit(c, transaction, now)).await
    }

    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>> {
        let key = key.to_owned();
        self.read(move |c| rows::get(c, table, &key)).await
    }

    async fn list(&self, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
        let query = query.clone();
        self.read(move |c| rows::list(c, table, &query)).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<Row>> {
        let request = request.clone();
        self.write(None, move |c, now| queue::claim(c, &request, now)).await
    }

    async fn renew(&self, fence: &Fence, ttl: Duration) -> Result<u64> {
        let fence = *fence;
        self.write(None, move |c, now| queue::renew(c, &fence, ttl, now)).await
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        let (name, owner) = (name.to_owned(), owner.to_owned());
        self.write(None, move |c, now| queue::lease(c, &name, &owner, ttl, now)).await
    }

    async fn unlease(&self, name: &str, owner: &str) -> Result<()> {
        let (name, owner) = (name.to_owned(), owner.to_owned());
        self.write(Some(Change::of_lease(&name)), move |c, _| queue::unlease(c, &name, &owner)).await
    }

    async fn leased(&self, name: &str) -> Result<Option<String>> {
        let (name, now) = (name.to_owned(), rules::rounded(self.clock.now()));
        self.read(move |c| queue::holder(c, &name, now)).await
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>> {
        let now = rules::rounded(self.clock.now());
        self.read(move |c| queue::next_due(c, now)).await
    }

    async fn events(&self, after: u64, subject: Option<&str>, limit: usize) -> Result<Vec<EventRow>> {
        let subject = subject.map(str::to_owned);
        self.read(move |c| commit::events(c, after, subject.as_deref(), limit)).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.heard(self.changes.rows())
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.heard(self.changes.queue())
    }
}

#[cfg(test)]
mod tests;
