//! The running process, as the new one sees it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use paas_core::{AppRoutes, Error, ErrorCode, Result, Router};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::{Inbox, Outbox, link};
use super::peer::Peer;
use super::router::Both;
use super::{KEY, Message, PROTOCOL, SOCKET, failed, unavailable};

/// How long a platform may take to answer, and one that is just being replaced to be found again.
const GREETING: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(20);
/// How long one that says that it serves may wait to hear that the other has stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// A platform that runs and hands over to this process. Once this and its routers are dropped, it is on its own.
#[derive(Debug)]
pub struct Predecessor {
    shared: Arc<Shared>,
    files: BTreeMap<String, OwnedFd>,
    /// Until its messages are read by a task.
    inbox: Option<Inbox>,
    /// Nobody here knows it any more.
    dropped: CancellationToken,
}

/// What its routers share.
#[derive(Debug)]
pub(super) struct Shared {
    peer: Peer,
    outbox: Outbox,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<u64>>>,
    /// It accepts no more connections.
    over: CancellationToken,
    /// It is dead or has no connections any more.
    gone: CancellationToken,
    _held: DropGuard,
}

impl Predecessor {
    /// Asks the platform that runs on this folder to hand over; `None` when none does. What it entrusts is held from now
    /// on, also if it dies.
    ///
    /// # Errors
    /// `conflict` when another process takes over already, `unsupported` when the two versions don't understand each
    /// other, `forbidden` for another user, `unavailable` when it doesn't answer.
    pub async fn ask(folder: &Path) -> Result<Option<Self>> {
        let end = Instant::now() + GREETING;
        loop {
            match knock(folder).await {
                Ok(None) => return Ok(None),
                Ok(Some(stream)) => {
                    if let Some(predecessor) = Self::greet(stream, folder).await? {
                        return Ok(Some(predecessor));
                    }
                }
                // It ended with our connection in its queue.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                Err(e) => return Err(failed("reach the platform", folder, e)),
            }
            if Instant::now() > end {
                return Err(unavailable("the platform that runs hangs up on whoever wants to take over"));
            }
            // It was being replaced or was ending: look who is there now.
            sleep(AGAIN).await;
        }
    }

    async fn greet(stream: UnixStream, folder: &Path) -> Result<Option<Self>> {
        let peer = Peer::of(&stream)?;
        let key = fs::read_to_string(folder.join(KEY))
            .map_err(|e| failed("read the hand-over's key", folder, e))?;
        let (outbox, mut inbox) = link(stream);
        outbox.send(&Message::Hello { protocol: PROTOCOL, key }).map_err(lost)?;
        let answer = timeout(GREETING, inbox.next()).await;
        let answer = answer.map_err(|_| unavailable(format!("process {} doesn't answer", peer.pid)))?;
        let names = match answer.map_err(lost)? {
            None => return Ok(None),
            Some(Message::Refused { code, why }) => {
                let what = format!("process {} does not hand over: {why}", peer.pid);
                return Err(Error::new(code, what));
            }
            Some(Message::Welcome { files }) => files,
            Some(other) => return Err(strange(&other)),
        };
        let mut files = BTreeMap::new();
        for name in names {
            let file =
                inbox.file().ok_or_else(|| unavailable(format!("the file {name} did not come along")))?;
            files.insert(name, file);
        }
        let dropped = CancellationToken::new();
        let shared = Shared {
            peer,
            outbox,
            next: AtomicU64::new(0),
            waiting: Mutex::default(),
            over: CancellationToken::new(),
            gone: CancellationToken::new(),
            _held: dropped.clone().drop_guard(),
        };
        Ok(Some(Self { shared: Arc::new(shared), files, inbox: Some(inbox), dropped }))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.shared.peer.pid
    }

    /// A file that it entrusted; once.
    pub fn file(&mut self, name: &str) -> Option<OwnedFd> {
        self.files.remove(name)
    }

    /// Waits until it has ended all that only one process may do, or is dead, and returns how it routes requests; all
    /// that it said of it, if it died. It serves users still.
    ///
    /// # Errors
    /// `unavailable` when it neither goes on nor ends.
    pub async fn let_go(&mut self) -> Result<Vec<AppRoutes>> {
        let Some(mut inbox) = self.inbox.take() else { return Ok(Vec::new()) };
        let mut routes = Vec::new();
        loop {
            match inbox.next().await {
                Ok(Some(Message::Route { routes: of_app })) => routes.push(of_app),
                Ok(Some(Message::LetGo)) => break,
                Ok(Some(Message::Refused { code, why })) => return Err(Error::new(code, why)),
                Ok(Some(other)) => return Err(strange(&other)),
                // Dead, if it is: then this process goes on alone.
                Ok(None) | Err(_) if self.shared.peer.ended_in_time().await => {
                    self.shared.end();
                    return Ok(routes);
                }
                Ok(None) | Err(_) => {
                    return Err(unavailable(format!("process {} hung up, and goes on", self.pid())));
                }
            }
        }
        let (shared, dropped) = (Arc::downgrade(&self.shared), self.dropped.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = listen(inbox, &shared) => {}
                () = dropped.cancelled() => {}
            }
        });
        Ok(routes)
    }

    /// A router that applies routes to `own` and to the predecessor's, which still answers requests on the connections
    /// that it has. Once that is gone, it is `own`.
    pub fn router(&self, own: Arc<dyn Router>) -> Arc<dyn Router> {
        Arc::new(Both::new(own, Arc::clone(&self.shared)))
    }

    /// Says that this process is ready to accept connections. When it returns, the predecessor accepts none any more: accept
    /// at once, since users wait.
    ///
    /// # Errors
    /// `unavailable` when it goes on although it lives: this process must end.
    pub async fn serving(&self) -> Result<()> {
        self.shared.outbox.send(&Message::Serving).map_err(lost)?;
        let answered = timeout(PATIENCE, async {
            tokio::select! {
                () = self.shared.over.cancelled() => {}
                () = self.shared.gone.cancelled() => {}
            }
        });
        answered.await.map_err(|_| unavailable(format!("process {} doesn't step back", self.pid())))
    }

    /// Waits until it has no connections any more.
    pub async fn gone(&self) {
        self.shared.gone.cancelled().await;
    }
}

impl Shared {
    /// Asks it to do something. How many requests are left; 0 when it is gone.
    pub(super) async fn ask(&self, message: impl FnOnce(u64) -> Message, patience: Duration) -> Result<u64> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        self.waiting().insert(id, done);
        // After the insert: whoever ends it empties the table after this.
        if self.gone.is_cancelled() {
            self.waiting().remove(&id);
            return Ok(0);
        }
        self.outbox.send(&message(id)).map_err(lost)?;
        match timeout(patience, answer).await {
            Ok(Ok(left)) => Ok(left),
            Ok(Err(_)) => Ok(0),
            Err(_) => {
                self.waiting().remove(&id);
                let what =
                    format!("process {}, which was replaced, doesn't follow the routes", self.peer.pid);
                Err(unavailable(what).with_retry(paas_core::Retry::Backoff))
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<u64>>> {
        // Each change is one step: a panic elsewhere leaves the table whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.gone.cancel();
        self.waiting().clear();
    }
}

async fn listen(mut inbox: Inbox, shared: &Weak<Shared>) {
    loop {
        let message = inbox.next().await;
        let Some(shared) = shared.upgrade() else { return };
        match message {
            Ok(Some(Message::Over)) => shared.over.cancel(),
            Ok(Some(Message::Done { id, left })) => {
                if let Some(done) = shared.waiting().remove(&id) {
                    // Whoever asked may have given up.
                    let _ = done.send(left);
                }
            }
            Ok(Some(other)) => tracing::warn!("the platform that was replaced said {other:?}"),
            Ok(None) => return shared.end(),
            Err(error) => {
                tracing::warn!(error = %error, "the platform that was replaced can't be understood");
                return shared.end();
            }
        }
    }
}

/// A conversation's beginning, if somebody listens.
async fn knock(folder: &Path) -> io::Result<Option<UnixStream>> {
    let open = match fs::File::open(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    // A socket's path may have 107 bytes: this way round it is short.
    let path = format!("/proc/self/fd/{}/{SOCKET}", open.as_raw_fd());
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) => Err(e),
    }
}

fn strange(message: &Message) -> Error {
    let what = format!("the platform that runs said what it should not: {message:?}");
    Error::new(ErrorCode::InvalidParams, what)
}

fn lost(error: io::Error) -> Error {
    Error::from_io("can't talk to the platform that runs", error)
}
