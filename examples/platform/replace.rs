//! Handing over to a new process, which may be of a newer version.

use std::os::fd::AsFd;
use std::time::Duration;

use paas::run::handover::{Following, Successor};
use paas::{CancelReason, Result};

use crate::platform::{Platform, Sockets, joined};

/// How long pushes under way may take before they are cancelled; new ones wait for the successor meanwhile.
const PUSHES: Duration = Duration::from_secs(120);
/// How long the successor may take to open the data folder, with a migration of the store.
const OPENING: Duration = Duration::from_secs(120);

impl Platform {
    /// Hands over; the platform goes on where nobody took over.
    pub(crate) async fn hand_over(mut self, successor: Successor) -> Outcome {
        eprintln!("-----> Handing over to process {}", successor.pid());
        match self.try_to(successor).await {
            Ok(following) => Outcome::Replaced(Box::new(Replaced { platform: self, following })),
            Err(error) => {
                eprintln!(" !     Going on: {error}");
                if self.works.is_none() {
                    self.try_reopen().await;
                }
                Outcome::Kept(Box::new(self))
            }
        }
    }

    async fn try_to(&mut self, mut successor: Successor) -> Result<Following> {
        let (lock, sockets) = (self.folder.lock.as_fd(), &self.sockets);
        let Sockets { http, https, git, metrics } = sockets;
        let sockets = [("http", http), ("https", https), ("git", git)];
        let sockets = sockets.into_iter().chain(metrics.as_ref().map(|socket| ("metrics", socket)));
        let sockets = sockets.map(|(name, socket)| (name, socket.listener.as_fd()));
        let files = [("lock", lock)].into_iter().chain(sockets);
        successor.entrust(files)?;
        if let Some(works) = self.works.take() {
            works.let_go(PUSHES).await?;
        }
        // Users are served all the time.
        successor.let_go(self.proxy.routes(), &self.router, OPENING).await?;
        self.proxy.leave();
        self.silence.cancel(CancelReason::Shutdown);
        successor.follow(self.router.clone())
    }
}

/// How a hand-over ended.
pub(crate) enum Outcome {
    Replaced(Box<Replaced>),
    Kept(Box<Platform>),
}

/// A platform that was replaced, and has some connections left.
pub(crate) struct Replaced {
    platform: Platform,
    following: Following,
}

impl Replaced {
    /// Answers what is left, until it is told to `stop`.
    pub(crate) async fn linger(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Self { platform, mut following } = self;
        let Platform { mut server, stop: cancel, folder, sockets, door, before, .. } = platform;
        // The successor's now.
        drop((folder, sockets, door));
        eprintln!("-----> Replaced: what is left of connections is answered here");
        let told = async {
            tokio::select! {
                () = following.run() => {}
                () = stop => {}
            }
        };
        let mut told = std::pin::pin!(told);
        let ended = tokio::select! {
            ended = &mut server => ended,
            () = &mut told => {
                cancel.cancel(CancelReason::Shutdown);
                return joined(server.await);
            }
        };
        // One that this platform had replaced learns its routes through it.
        if let Some(before) = before {
            tokio::select! {
                () = before.gone() => {}
                () = &mut told => {}
            }
        }
        joined(ended)
    }
}
