//! The one thread that writes: it makes one transaction of all calls that wait, so that they share one sync of
//! the disk, which is what a commit costs.

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::store::changes::{Change, Changes};
use crate::{Error, ErrorCode, Result};

/// More calls than this aren't made to wait for each other.
const MOST: usize = 256;

/// How often somebody who listens learns of other processes' changes.
const LOOK: Duration = Duration::from_millis(100);

/// A call that waits for the writer.
pub(super) trait Job: Send {
    /// Does the work, inside a transaction.
    fn run(&mut self, connection: &Connection);

    /// What the work failed with.
    fn error(&self) -> Option<&Error>;

    /// Tells the caller how the work went, or why its transaction didn't happen. Says what it changed.
    fn answer(self: Box<Self>, ended: Result<(), &Error>) -> Option<Change>;
}

/// Some work with an answer.
pub(super) struct Call<T, W> {
    work: Option<W>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
    change: Option<Change>,
}

impl<T, W> Call<T, W> {
    /// `change` is what it changes when it goes well.
    pub(super) fn new(work: W, change: Option<Change>) -> (Self, oneshot::Receiver<Result<T>>) {
        let (reply, answer) = oneshot::channel();
        (Self { work: Some(work), result: None, reply, change }, answer)
    }
}

impl<T: Send, W: FnOnce(&Connection) -> Result<T> + Send> Job for Call<T, W> {
    fn run(&mut self, connection: &Connection) {
        if let Some(work) = self.work.take() {
            self.result = Some(within_savepoint(connection, work));
        }
    }

    fn error(&self) -> Option<&Error> {
        self.result.as_ref()?.as_ref().err()
    }

    fn answer(self: Box<Self>, ended: Result<(), &Error>) -> Option<Change> {
        let result = match (self.result, ended) {
            (Some(Err(own)), _) => Err(own),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (_, Err(e)) => Err(copy(e)),
            (None, Ok(())) => Err(Error::new(ErrorCode::Internal, "the store's writer left a call out")),
        };
        let change = self.change.filter(|_| result.is_ok());
        // Whoever doesn't wait any more doesn't want to know.
        let _ = self.reply.send(result);
        change
    }
}

/// Something to wake the writer with, so that it sees who listens.
pub(super) struct Look;

impl Job for Look {
    fn run(&mut self, _: &Connection) {}

    fn error(&self) -> Option<&Error> {
        None
    }

    fn answer(self: Box<Self>, _: Result<(), &Error>) -> Option<Change> {
        None
    }
}

/// Writes until nobody can call any more.
pub(super) fn run(connection: &Connection, jobs: &mpsc::Receiver<Box<dyn Job>>, changes: &Changes) {
    let mut others = None;
    while let Some(first) = next(connection, jobs, changes, &mut others) {
        let mut waiting: VecDeque<_> = std::iter::once(first).chain(jobs.try_iter().take(MOST - 1)).collect();
        let mut change = None;
        while !waiting.is_empty() {
            change = change.max(write_together(connection, &mut waiting));
        }
        if let Some(change) = change {
            changes.tell(change);
        }
    }
}

/// Waits for a call, and while somebody listens, looks for the commits of other processes.
fn next(
    connection: &Connection,
    jobs: &mpsc::Receiver<Box<dyn Job>>,
    changes: &Changes,
    others: &mut Option<i64>,
) -> Option<Box<dyn Job>> {
    loop {
        if changes.unheard() {
            return jobs.recv().ok();
        }
        // It changes with others' commits only. A failed look is made up for by the next one.
        let seen =
            connection.prepare_cached("PRAGMA data_version").and_then(|mut s| s.query_one([], |r| r.get(0)));
        if let Ok(seen) = seen
            && others.replace(seen) != Some(seen)
        {
            changes.tell(Change::Queue);
        }
        match jobs.recv_timeout(LOOK) {
            Ok(job) => return Some(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Carries out what waits in one transaction and answers each. Leaves over what came after a failure that
/// undid the whole transaction. Says what was changed.
fn write_together(connection: &Connection, waiting: &mut VecDeque<Box<dyn Job>>) -> Option<Change> {
    let mut done: Vec<Box<dyn Job>> = Vec::with_capacity(waiting.len());
    let ended = match execute(connection, "BEGIN IMMEDIATE") {
        Err(e) => {
            done.extend(waiting.drain(..));
            Err(e)
        }
        Ok(()) => loop {
            let Some(mut job) = waiting.pop_front() else { break execute(connection, "COMMIT") };
            job.run(connection);
            let undone = connection.is_autocommit();
            let cause = job.error().map(copy);
            done.push(job);
            if undone {
                let unknown = || Error::new(ErrorCode::Internal, "the store's transaction ended early");
                break Err(cause.unwrap_or_else(unknown));
            }
        },
    };
    if ended.is_err() && !connection.is_autocommit() {
        // Where even this fails, the next transaction can't begin and says so.
        let _ = execute(connection, "ROLLBACK");
    }
    let mut change = None;
    for job in done {
        change = change.max(job.answer(ended.as_ref().copied()));
    }
    change
}

/// Undoes what `work` did if it fails, and only that.
fn within_savepoint<T>(connection: &Connection, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    execute(connection, "SAVEPOINT call")?;
    let result = work(connection);
    // After the worst failures there is no transaction any more, and so nothing to undo.
    if result.is_err() && !connection.is_autocommit() {
        execute(connection, "ROLLBACK TO call")?;
    }
    if !connection.is_autocommit() {
        execute(connection, "RELEASE call")?;
    }
    result
}

fn execute(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

fn copy(error: &Error) -> Error {
    Error::new(error.code(), error.to_string()).with_retry(error.retry())
}
