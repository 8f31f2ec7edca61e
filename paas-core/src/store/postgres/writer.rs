//! The one task that commits: it makes one transaction of all calls that wait, so that they share one sync of the
//! disk. Engines take turns, so that places and events appear in their order; the turn is taken, used and given back by
//! one batch of statements, which the database carries out without waiting for the engine in between. An engine that
//! freezes or dies holds nobody up.

use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::commit::{Batch, Found, Step};
use super::error::{is_overtaken, lost};
use super::listen::note;
use super::rows;
use super::session::{Connector, Session};
use crate::store::Transaction;
use crate::store::changes::{Change, Changes};
use crate::{Error, ErrorCode, Result, Retry};

/// More calls than this aren't made to wait for each other.
const MOST: usize = 256;

/// So many times a batch is made again because somebody was faster: each time somebody else got further.
const ATTEMPTS: usize = 50;

/// A commit and who waits for it.
pub(super) struct Call {
    transaction: Transaction,
    reply: oneshot::Sender<Result<u64>>,
}

impl Call {
    pub(super) fn new(transaction: Transaction) -> (Self, oneshot::Receiver<Result<u64>>) {
        let (reply, answer) = oneshot::channel();
        (Self { transaction, reply }, answer)
    }
}

pub(super) struct Writer {
    pub(super) connector: Arc<Connector>,
    pub(super) changes: Changes,
    /// Where it tells other engines of what it changed, and as whom.
    pub(super) channel: String,
    pub(super) me: String,
    pub(super) session: Option<Session>,
}

/// Why a batch wasn't written.
enum Failed {
    /// It was made from what isn't true any more.
    Overtaken(Error),
    Other(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Writer {
    /// Writes until nobody can call any more.
    pub(super) async fn run(mut self, mut calls: mpsc::UnboundedReceiver<Call>) {
        let mut waiting = Vec::new();
        while calls.recv_many(&mut waiting, MOST).await > 0 {
            let (transactions, replies): (Vec<_>, Vec<_>) =
                waiting.drain(..).map(|call| (call.transaction, call.reply)).unzip();
            let answers = self.answer(&transactions).await;
            // Before anybody hears of it, so that whoever waits for a change has been told of it.
            self.changes.tell(change(&transactions));
            for (answer, reply) in answers.into_iter().zip(replies) {
                // Whoever doesn't wait any more doesn't want to know.
                let _ = reply.send(answer);
            }
        }
    }

    /// Takes the turn, and tells other engines once the transaction is over.
    fn begin(&self, change: Change) -> String {
        let (channel, note) = (&self.channel, note(&self.me, change));
        format!(
            "BEGIN; SELECT pg_advisory_xact_lock(hashtext('paas commit'), hashtext('{channel}'));
             SELECT pg_notify('{channel}', '{note}')"
        )
    }

    async fn answer(&mut self, transactions: &[Transaction]) -> Vec<Result<u64>> {
        let copy = |e: &Error| Error::new(e.code(), e.to_string()).with_retry(e.retry());
        match self.write_together(transactions).await {
            Ok(answers) => answers,
            // One of them can't be written at all: the others don't suffer for it.
            Err(e) if e.retry() == Retry::Never && transactions.len() > 1 => {
                let mut answers = Vec::with_capacity(transactions.len());
                for transaction in transactions {
                    let alone = self.write_together(std::slice::from_ref(transaction)).await;
                    answers.extend(alone.unwrap_or_else(|e| vec![Err(e)]));
                }
                answers
            }
            Err(e) => transactions.iter().map(|_| Err(copy(&e))).collect(),
        }
    }

    /// An answer for each, or why nobody's happened, or may not have.
    async fn write_together(&mut self, transactions: &[Transaction]) -> Result<Vec<Result<u64>>> {
        let transactions: Vec<&Transaction> = transactions.iter().collect();
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let session = match self.session.take().filter(|session| !session.is_closed()) {
                Some(session) => session,
                None => self.connector.open().await?,
            };
            let found = match Found::read(&session, &transactions).await {
                // The connection may have broken long ago: nothing was written yet, so another one will do.
                Err(e) if e.code() == ErrorCode::Unavailable && last.is_none() => {
                    last = Some(e);
                    continue;
                }
                other => other?,
            };
            let mut batch = Batch::new(&found);
            let answers: Vec<_> = transactions.iter().map(|transaction| batch.add(transaction)).collect();
            let (events, newest) = (batch.events() as u64, batch.newest());
            match self.write(&session, batch.steps(), change(transactions.iter().copied())).await {
                Ok(written) => {
                    self.session = Some(session);
                    let newest = written.unwrap_or(newest);
                    let placed = |so_far: usize| newest - (events - so_far as u64);
                    return Ok(answers.into_iter().map(|answer| answer.map(placed)).collect());
                }
                Err(Failed::Overtaken(e)) => {
                    self.session = Some(session);
                    last = Some(e);
                }
                Err(Failed::Other(e)) => return Err(e),
            }
        }
        Err(last.unwrap_or_else(|| lost("the store is too busy to write this")))
    }

    /// Carries out the statements in a transaction and tells the newest event, where there is anything to do.
    async fn write(
        &self,
        session: &Session,
        steps: Vec<Step>,
        change: Change,
    ) -> Result<Option<u64>, Failed> {
        if steps.is_empty() {
            return Ok(None);
        }
        let begin = self.begin(change);
        let answers = session.within(async {
            let mut statements = Vec::with_capacity(steps.len());
            for step in &steps {
                statements.push(session.statement(step.sql).await?);
            }
            let batch = |sql| async move {
                session.client.batch_execute(sql).await?;
                Ok(Vec::new())
            };
            let mut sent: Vec<BoxFuture<'_, Result<Vec<Row>, tokio_postgres::Error>>> = Vec::new();
            sent.push(Box::pin(batch(&begin)));
            for (step, statement) in steps.iter().zip(&statements) {
                let values: Vec<&(dyn ToSql + Sync)> =
                    step.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
                sent.push(Box::pin(async move { session.client.query(statement, &values).await }));
            }
            sent.push(Box::pin(batch("COMMIT")));
            // So few are polled one after the other, and each is sent when it is polled first.
            Ok(join_all(sent).await)
        });
        let mut newest = None;
        let answers = answers.await?;
        let last = answers.len().saturating_sub(2);
        for (n, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(rows) if n == last => {
                    newest = rows.first().map(|row| rows::number(row, 0)).transpose()?;
                }
                Ok(_) => {}
                // After a refusal the others are refused, too, and the end undoes all.
                Err(e) if is_overtaken(&e) => return Err(Failed::Overtaken(e.into())),
                Err(e) => return Err(Failed::Other(e.into())),
            }
        }
        Ok(newest)
    }
}

/// What these transactions change together.
fn change<'a>(transactions: impl IntoIterator<Item = &'a Transaction>) -> Change {
    transactions.into_iter().map(Change::of).max().unwrap_or(Change::Rows)
}
