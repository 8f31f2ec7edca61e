//! Where a successor comes in.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use paas_core::{Error, ErrorCode, Result};
use subtle::ConstantTimeEq;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::link::{Inbox, Outbox, link};
use super::peer::Peer;
use super::successor::Successor;
use super::{KEY, Message, PROTOCOL, SOCKET, failed, unavailable};

/// How long one who comes in may take to say who it is.
const GREETING: Duration = Duration::from_secs(5);
/// The pause after one that could not come in for want of files or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a successor asks a running platform to hand over. One at a time is let in; dropping this closes it.
#[derive(Debug)]
pub struct Door {
    asked: mpsc::Receiver<Successor>,
    keeper: JoinHandle<()>,
}

impl Door {
    /// Opens it in the platform's folder, in place of an earlier process's. Only whoever owns the platform's folder alone
    /// may do that.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn open(folder: &Path) -> Result<Self> {
        let key = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
        write_key(folder, &key).map_err(|e| failed("keep a key", folder, e))?;
        let listener = bind(folder).map_err(|e| failed("open a socket", folder, e))?;
        let (sender, asked) = mpsc::channel(1);
        let guest = Arc::new(Guest::default());
        let keeper = tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    () = sender.closed() => return,
                    came = listener.accept() => came,
                };
                let stream = match stream {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(error = %error, "a successor can't come in; trying again");
                        sleep(PAUSE).await;
                        continue;
                    }
                };
                tokio::spawn(greet(stream, key.clone(), Arc::clone(&guest), sender.clone()));
            }
        });
        Ok(Self { asked, keeper })
    }

    /// The next process that wants to take over and may. May be dropped and called again.
    pub async fn asked(&mut self) -> Successor {
        match self.asked.recv().await {
            Some(successor) => successor,
            // The keeper holds the other end for as long as this is there.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Room for one.
#[derive(Debug)]
struct Guest {
    room: Arc<Semaphore>,
    pid: Mutex<u32>,
}

impl Default for Guest {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(1)), pid: Mutex::default() }
    }
}

impl Guest {
    fn let_in(&self, pid: u32) -> Result<OwnedSemaphorePermit> {
        let mut taken = self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        let permit = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            Error::new(ErrorCode::Conflict, format!("process {taken} is taking over already"))
        })?;
        *taken = pid;
        Ok(permit)
    }
}

async fn greet(stream: UnixStream, key: String, guest: Arc<Guest>, successors: mpsc::Sender<Successor>) {
    let peer = Peer::of(&stream);
    let (outbox, mut inbox) = link(stream);
    match timeout(GREETING, check(peer, &mut inbox, &key, &guest)).await {
        Ok(Ok((peer, permit))) => {
            // Where the door was closed meanwhile, it sees that nobody answers.
            let _ = successors.send(Successor::new(peer, outbox, inbox, permit)).await;
        }
        Ok(Err(error)) => refuse(&outbox, &error),
        Err(_) => refuse(&outbox, &unavailable("no greeting came")),
    }
}

async fn check(
    peer: Result<Peer>,
    inbox: &mut Inbox,
    key: &str,
    guest: &Guest,
) -> Result<(Peer, OwnedSemaphorePermit)> {
    let peer = peer?;
    let unreadable = |e| Error::from_io("its greeting can't be read", e);
    let Some(Message::Hello { protocol, key: shown }) = inbox.next().await.map_err(unreadable)? else {
        return Err(Error::new(ErrorCode::InvalidParams, "a greeting was expected"));
    };
    if protocol != PROTOCOL {
        let what = format!(
            "this platform speaks version {PROTOCOL} of the hand-over and the new program version {protocol}: stop the \
             one and start the other, with --keep-apps no app ends"
        );
        return Err(Error::new(ErrorCode::Unsupported, what));
    }
    if !bool::from(shown.as_bytes().ct_eq(key.as_bytes())) {
        return Err(Error::new(ErrorCode::Forbidden, format!("it doesn't know what {KEY} holds")));
    }
    let permit = guest.let_in(peer.pid)?;
    Ok((peer, permit))
}

fn refuse(outbox: &Outbox, error: &Error) {
    tracing::info!(error = %error, "a process may not take over");
    let refused = Message::Refused { code: error.code(), why: error.to_string() };
    if let Err(error) = outbox.send(&refused) {
        tracing::warn!(error = %error, "a process can't be told why it may not take over");
    }
}

fn write_key(folder: &Path, key: &str) -> io::Result<()> {
    let aside = folder.join(format!(".{KEY}.new"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(key.as_bytes())?;
    fs::rename(aside, folder.join(KEY))
}

/// A socket that is closed to others before it has its name.
fn bind(folder: &Path) -> io::Result<UnixListener> {
    let aside = format!(".{SOCKET}.new");
    match fs::remove_file(folder.join(&aside)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // A socket's path may have 107 bytes, and ours is somebody else's choice: this way round it is short.
    let open = fs::File::open(folder)?;
    let short = Path::new("/proc/self/fd").join(open.as_raw_fd().to_string());
    let listener = UnixListener::bind(short.join(&aside))?;
    fs::set_permissions(folder.join(&aside), fs::Permissions::from_mode(0o600))?;
    fs::rename(folder.join(aside), folder.join(SOCKET))?;
    Ok(listener)
}
