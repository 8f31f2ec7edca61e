//! One git process that talks to one client: the request's body is its input, its output the answer.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use paas_core::{CancelReason, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::body::{Decoder, Incoming, ReceiveBody};
use super::deploy::{look_at_branch, settle};
use super::git::{cant_start, kill, limit, terminate};
use super::session::{Place, Session};
use super::{Inner, git, hook};

/// How long git may take to end once it was told to.
const GRACE: Duration = Duration::from_secs(5);
/// How long git may take to move a branch for a client that is gone.
const LANDING: Duration = Duration::from_secs(60);
/// How long the rest of a body that nobody needs may take to come.
const DRAIN: Duration = Duration::from_secs(120);
/// git's end of an answer.
pub(super) const FLUSH: &[u8] = b"0000";
/// git's band for messages.
pub(super) const MESSAGE: char = '\u{2}';
/// git's band for a last message, with which the client ends.
const ERROR: char = '\u{3}';
/// A message that the client shows, in git's framing, has at most this many bytes.
const BAND_MAX: usize = 60_000;

/// What git answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// A push.
    Receive,
    /// A fetch or a clone.
    Upload,
}

impl Program {
    /// git's name for it, which is part of addresses and content types.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Receive => "git-receive-pack",
            Self::Upload => "git-upload-pack",
        }
    }

    pub(crate) fn command(self, inner: &Inner, repo: &Path, protocol: Option<&str>) -> Command {
        let mut command = inner.repos.git().command(repo);
        if self == Self::Receive {
            command.args(git::receive_settings(&inner.hooks, inner.options.max_push));
        }
        command.args([&self.name()[4..], "--stateless-rpc"]);
        if let Some(protocol) = protocol {
            command.env("GIT_PROTOCOL", protocol);
        }
        command
    }
}

/// What a client sent.
pub(crate) struct Request {
    pub(crate) body: Incoming,
    pub(crate) gzip: bool,
    pub(crate) protocol: Option<String>,
    /// Room for it, as long as it goes on.
    pub(crate) place: Place,
}

/// Starts git for a fetch or, with a session, a push, and returns what it answers.
pub(crate) fn start(
    inner: &Arc<Inner>,
    repo: &Path,
    session: Option<Arc<Session>>,
    request: Request,
) -> Result<ReceiveBody> {
    let program = if session.is_some() { Program::Receive } else { Program::Upload };
    let mut command = program.command(inner, repo, request.protocol.as_deref());
    let key = session.as_ref().map(|session| inner.sessions.expect(session.clone()));
    command.envs(key.as_ref().map(|key| (hook::KEY, OsString::from(key))));
    command.arg(".").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(cant_start)?;
    // It has read nothing yet, and what it starts inherits them.
    limit(&child, inner.options.max_push).map_err(|e| cant_start(io::Error::other(e)))?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three were piped just now")
    };
    let (to_client, from_git) = mpsc::channel(16);
    let framed = Arc::new(AtomicBool::new(false));
    let feeding = {
        let (framed, most) = (framed.clone(), inner.options.max_push.saturating_mul(4));
        let decoder = Decoder::of(request.gzip);
        tokio::spawn(async move {
            let fed = tokio::time::timeout(DRAIN, feed(request.body, decoder, stdin, most, &framed));
            if let Ok(Err(error)) = fed.await {
                tracing::debug!(error = %error, "a client's request ended early");
            }
        })
    };
    let listening = tokio::spawn(listen(stderr));
    let transfer = Transfer { inner: inner.clone(), child, session, key, to_client, framed };
    inner.tasks.spawn(async move {
        transfer.run(stdout, feeding).await;
        drop(listening.await);
        drop(request.place);
    });
    Ok(ReceiveBody::stream(from_git))
}

struct Transfer {
    inner: Arc<Inner>,
    child: Child,
    session: Option<Arc<Session>>,
    key: Option<String>,
    to_client: mpsc::Sender<io::Result<Bytes>>,
    /// Whether the client shows messages between git's own.
    framed: Arc<AtomicBool>,
}

impl Transfer {
    async fn run(mut self, stdout: ChildStdout, feeding: tokio::task::JoinHandle<()>) {
        let mut relaying = Box::pin(relay(stdout, self.to_client.clone()));
        let stopped = tokio::select! {
            held = &mut relaying => Ok(held),
            () = self.to_client.closed() => Err(CancelReason::User),
            () = tokio::time::sleep(self.inner.options.timeout) => Err(CancelReason::Timeout),
            reason = self.inner.stop.cancelled() => Err(reason),
        };
        let held = match stopped {
            Ok(held) => held,
            Err(reason) => {
                feeding.abort();
                self.stop(reason, &mut relaying).await
            }
        };
        let ended_well = match self.child.wait().await {
            Ok(status) => status.success() || held == FLUSH,
            Err(error) => {
                tracing::warn!(error = %error, "how a git process ended can't be learnt");
                false
            }
        };
        let landing = self.land().await;
        let unmoved = match (&self.session, &landing) {
            (Some(session), Some(landing)) => look_at_branch(session, landing),
            _ => None,
        };
        let framed = self.framed.load(Ordering::Acquire);
        if let Some(message) = unmoved.as_ref().filter(|_| framed && ended_well) {
            self.send(Ok(band(MESSAGE, message))).await;
        }
        // A client that still sends doesn't read yet; what it sends is thrown away.
        match feeding.await {
            Err(error) if !error.is_cancelled() => {
                tracing::error!(error = %error, "reading a request failed");
            }
            _ => {}
        }
        if ended_well {
            self.send(Ok(held)).await;
        } else if framed {
            let early = || " !     git ended early; push again\n".to_owned();
            self.send(Ok(band(ERROR, &unmoved.unwrap_or_else(early)))).await;
        } else {
            // An answer that merely stops would leave the client waiting for its end.
            self.send(Err(io::Error::other("git ended in the middle of its answer"))).await;
        }
        drop(self.to_client);
        if let (Some(session), Some(landing)) = (self.session, landing) {
            settle(&self.inner, &session, landing).await;
        }
    }

    async fn send(&self, piece: io::Result<Bytes>) {
        // A client that is gone reads nothing; what it should know is in the log as well.
        let _ = self.to_client.send(piece).await;
    }

    /// Stops the push. git removes what it has not accepted when it ends by itself, which it does once its input ends or
    /// its hook says no; a signal keeps it from that.
    async fn stop(
        &self,
        reason: CancelReason,
        relaying: &mut (impl Future<Output = Bytes> + Unpin),
    ) -> Bytes {
        if let Some(session) = &self.session {
            session.stop.cancel(reason);
            let said = async { drop(session.at_hook.lock().await) };
            tokio::select! {
                held = &mut *relaying => return held,
                () = said => {}
            }
            if session.is_landing()
                && let Ok(held) = tokio::time::timeout(LANDING, &mut *relaying).await
            {
                return held;
            }
        }
        for end in [terminate, kill] {
            if let Ok(held) = tokio::time::timeout(GRACE, &mut *relaying).await {
                return held;
            }
            end(&self.child);
        }
        relaying.await
    }

    /// What the hook left to do, once it has nothing more to say: git may have ended without it.
    async fn land(&self) -> Option<super::session::Landing> {
        self.key.as_ref().and_then(|key| self.inner.sessions.take(key));
        let session = self.session.as_ref()?;
        session.stop.cancel(CancelReason::User);
        drop(session.at_hook.lock().await);
        session.take_landing()
    }
}

/// Gives the request to git, and reads on when git no longer does: a client reads the answer only once it has sent all.
pub(super) async fn feed(
    mut body: Incoming,
    mut decoder: Decoder,
    stdin: impl AsyncWrite + Unpin,
    most: u64,
    framed: &AtomicBool,
) -> io::Result<()> {
    let mut feed = Feed { stdin: Some(stdin), head: Vec::new(), left: most, framed };
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame.map_err(io::Error::other)?.into_data() else { continue };
        while !data.is_empty() {
            let part = data.split_to(data.len().min(decoder.at_once()));
            feed.give(&decoder.decode(part)?).await?;
        }
    }
    feed.give(&decoder.finish()?).await
}

struct Feed<'a, W = ChildStdin> {
    /// `None` once git has ended.
    stdin: Option<W>,
    /// The beginning, in which the client says what it can do.
    head: Vec<u8>,
    /// How many bytes may still come.
    left: u64,
    framed: &'a AtomicBool,
}

impl<W: AsyncWrite + Unpin> Feed<'_, W> {
    async fn give(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.head.len() < 4096 && !self.framed.load(Ordering::Acquire) {
            self.head.extend_from_slice(&piece[..piece.len().min(4096)]);
            let word = b"side-band-64k";
            let can = self.head.windows(word.len()).any(|part| part == word);
            self.framed.store(can, Ordering::Release);
        }
        let rest = self.left.checked_sub(piece.len() as u64);
        self.left = rest.ok_or_else(|| io::Error::other("it is far too large"))?;
        if let Some(stdin) = &mut self.stdin
            && stdin.write_all(piece).await.is_err()
        {
            // git has ended, and says why in its answer.
            self.stdin = None;
        }
        Ok(())
    }
}

/// Gives git's output to the client as it comes, but for the end of the answer, which is returned.
pub(super) async fn relay(
    mut stdout: impl AsyncRead + Unpin,
    to_client: mpsc::Sender<io::Result<Bytes>>,
) -> Bytes {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(16 * 1024);
        match stdout.read_buf(&mut buffer).await {
            Ok(0) => return buffer.freeze(),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = %error, "git's answer can't be read");
                return buffer.freeze();
            }
        }
        // Its end may come in pieces.
        let held = (1..=FLUSH.len()).rev().find(|length| buffer.ends_with(&FLUSH[..*length])).unwrap_or(0);
        let now = buffer.split_to(buffer.len() - held).freeze();
        if !now.is_empty() {
            // Without a client git is still read, so that it can end.
            let _ = to_client.send(Ok(now)).await;
        }
    }
}

/// What git complains about beside its answer.
async fn listen(mut stderr: ChildStderr) {
    let mut said = Vec::new();
    let heard = (&mut stderr).take(16 * 1024).read_to_end(&mut said).await;
    // Whatever it still has to say is taken, so that it can end.
    let rest = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    if let Err(error) = heard.map(|_| 0).and(rest) {
        tracing::debug!(error = %error, "git's complaints can't be read");
    }
    if !said.is_empty() {
        tracing::info!(git = %String::from_utf8_lossy(&said).trim(), "git complained");
    }
}

/// A message in git's framing: its length, its band, the text.
pub(super) fn band(kind: char, message: &str) -> Bytes {
    let mut end = message.len().min(BAND_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let message = &message[..end];
    Bytes::from(format!("{:04x}{kind}{message}", message.len() + 5))
}
