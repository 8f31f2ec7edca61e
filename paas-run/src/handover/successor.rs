//! The new process, as the running one sees it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use paas_core::{
    AppName, AppRoutes, Cancel, Context, DrainRequest, Error, ErrorCode, IdempotencyKey, LogSource,
    LogWriter, MemoryLogs, Result, Router, StepName, SystemClock, WorkflowId,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::link::{Inbox, Outbox};
use super::peer::Peer;
use super::{Message, unavailable};

/// A process that wants to take over. Dropping this sends it away.
#[derive(Debug)]
pub struct Successor {
    peer: Peer,
    outbox: Outbox,
    inbox: Inbox,
    _room: OwnedSemaphorePermit,
}

impl Successor {
    pub(super) fn new(peer: Peer, outbox: Outbox, inbox: Inbox, room: OwnedSemaphorePermit) -> Self {
        Self { peer, outbox, inbox, _room: room }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.peer.pid
    }

    /// Gives it these open files by their names: listening sockets, and the lock of the platform's folder. They stay
    /// open here too, and one such file is locked for both. At most 64.
    ///
    /// # Errors
    /// When they can't be copied.
    pub fn entrust<'a>(&self, files: impl IntoIterator<Item = (&'a str, BorrowedFd<'a>)>) -> Result<()> {
        let (mut names, mut copies) = (Vec::new(), Vec::new());
        for (name, file) in files {
            names.push(name.to_owned());
            copies.push(file.as_fd().try_clone_to_owned().map_err(lost)?);
        }
        self.outbox.send_with(&Message::Welcome { files: names }, copies).map_err(lost)
    }

    /// Says that this process has ended all that only one may do, and waits until the successor serves. Meanwhile it
    /// speaks for the router here: what it applies there is applied here first.
    ///
    /// # Behavior
    /// - The caller goes on serving users by `routes`, and accepts connections.
    /// - On an error the successor does nothing any more, and the caller takes its work back: it has ended, and one that
    ///   has hung up or says nothing for `patience` was killed.
    ///
    /// # Errors
    /// `unavailable` when it does not take over.
    pub async fn let_go(
        &mut self,
        routes: impl IntoIterator<Item = AppRoutes>,
        router: &Arc<dyn Router>,
        patience: Duration,
    ) -> Result<()> {
        let said: io::Result<()> =
            routes.into_iter().try_for_each(|routes| self.outbox.send(&Message::Route { routes }));
        let said = said.and_then(|()| self.outbox.send(&Message::LetGo));
        let serves = match said {
            Ok(()) => timeout(patience, attend(&mut self.inbox, &self.outbox, router)).await,
            Err(error) => Ok(Err(lost(error))),
        };
        let pid = self.peer.pid;
        let why = match serves {
            Ok(Ok(true)) => return Ok(()),
            Ok(Ok(false)) => unavailable(format!("process {pid} ended before it had taken over")),
            Ok(Err(error)) => error,
            Err(_) => unavailable(format!("process {pid} did not take over within {} s", patience.as_secs())),
        };
        self.peer.end().await?;
        Err(why)
    }

    /// To be called once no more connections are accepted here: the successor accepts them now. Run the returned value for
    /// as long as there are connections.
    ///
    /// # Errors
    /// When that can't be said.
    pub fn follow(self, router: Arc<dyn Router>) -> Result<Following> {
        self.outbox.send(&Message::Over).map_err(lost)?;
        Ok(Following { successor: self, router })
    }
}

/// A process that was replaced, and follows the routes of its successor with the connections that it has left.
#[derive(Debug)]
pub struct Following {
    successor: Successor,
    router: Arc<dyn Router>,
}

impl Following {
    /// Follows until the successor is gone, or lets this process go: its routes are nobody's then, and connections
    /// should end.
    pub async fn run(&mut self) {
        let Successor { inbox, outbox, .. } = &mut self.successor;
        if let Err(error) = attend(inbox, outbox, &self.router).await {
            tracing::warn!(error = %error, "the platform that replaced this one can't be followed");
        }
    }
}

/// Does what the successor says. Whether it serves now; `false` when it is gone.
async fn attend(inbox: &mut Inbox, outbox: &Outbox, router: &Arc<dyn Router>) -> Result<bool> {
    loop {
        match inbox.next().await.map_err(lost)? {
            None => return Ok(false),
            Some(Message::Serving) => return Ok(true),
            Some(Message::Apply { id, routes }) => {
                // In their order, and quick.
                let ctx = context(&routes.app)?;
                if let Err(error) = router.apply(&ctx, &routes).await {
                    // Such as older ones; the successor's own router refused them too.
                    tracing::debug!(app.name = %routes.app, error = %error, "the successor's routes are refused");
                }
                outbox.send(&Message::Done { id, left: 0 }).map_err(lost)?;
            }
            Some(Message::Drain { id, app, backends, millis }) => {
                let ctx = context(&app)?;
                let (router, outbox) = (Arc::clone(router), outbox.clone());
                tokio::spawn(async move {
                    let drain = DrainRequest::new(app, backends).with_timeout(Duration::from_millis(millis));
                    let left = router.drain(&ctx, &drain).await.unwrap_or_default();
                    if let Err(error) = outbox.send(&Message::Done { id, left }) {
                        tracing::warn!(error = %error, "the successor waits for an answer in vain");
                    }
                });
            }
            Some(other) => {
                let what = format!("the successor said what is not its to say: {other:?}");
                return Err(Error::new(ErrorCode::InvalidParams, what));
            }
        }
    }
}

/// For calls on the successor's behalf.
fn context(app: &AppName) -> Result<Context> {
    let key = IdempotencyKey::new(WorkflowId::from(uuid::Uuid::nil()), StepName::new("handover")?);
    let clock = Arc::new(SystemClock::new());
    let log = LogWriter::new(
        Arc::new(MemoryLogs::new()),
        clock.clone(),
        app.clone(),
        LogSource::Platform,
        "handover",
    );
    Ok(Context::new(key, Cancel::new(), clock, log))
}

fn lost(error: io::Error) -> Error {
    Error::from_io("can't talk to the successor", error)
}
