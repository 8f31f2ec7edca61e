//! The client's socket: notices a client that takes nothing, and remembers request heads as they came.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::client::Peer;
use super::deadline::Deadline;

/// Kept of what came before: more than the head of nearly every request.
const KEEP: usize = 32 * 1024;

/// The last bytes that came.
///
/// hyper resolves lengths that contradict each other in the safe way and forgets that they did. Whoever sends such a
/// request is trying to be read differently by the next server, so it must be refused, which takes the bytes.
#[derive(Debug)]
pub(super) struct Heads(Mutex<Option<Vec<u8>>>);

impl Default for Heads {
    fn default() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }
}

impl Heads {
    /// What comes from now on is a tunnel's, or HTTP/2: it has no heads that could be read in two ways.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn remember(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = kept.as_mut() else { return };
        if kept.len() + bytes.len() > KEEP {
            kept.clear();
            kept.shrink_to(KEEP);
        }
        kept.extend_from_slice(bytes);
    }

    /// Says what two servers could read differently in the newest head with this method and path.
    pub(super) fn check(&self, method: &str, path: &str) -> Result<(), &'static str> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = kept.as_deref() else { return Ok(()) };
        let (mut lengths, mut bare) = (0, false);
        let mut inside = false;
        for line in kept.split(|byte| *byte == b'\n') {
            let (line, ends) = line.strip_suffix(b"\r").map_or((line, false), |line| (line, true));
            if is_request_line(line, method, path) {
                (lengths, bare) = (0, !ends);
                inside = true;
            } else if inside {
                bare |= !ends;
                lengths += usize::from(is_length(line));
                inside = !line.is_empty();
            }
        }
        match (lengths > 1, bare) {
            (true, _) => Err("It says in two ways how long it is."),
            (_, true) => Err("A line of its head ends without a carriage return."),
            _ => Ok(()),
        }
    }
}

fn is_request_line(line: &[u8], method: &str, path: &str) -> bool {
    let rest = line.strip_prefix(method.as_bytes()).and_then(|rest| rest.strip_prefix(b" "));
    let target =
        rest.and_then(|rest| rest.strip_suffix(b" HTTP/1.1").or_else(|| rest.strip_suffix(b" HTTP/1.0")));
    // An absolute target ends with the path.
    target.is_some_and(|target| target.ends_with(path.as_bytes()))
}

fn is_length(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
}

/// The client's socket.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    peer: Arc<Peer>,
    idle: Duration,
    /// Set while a write waits for the client to read.
    waiting: bool,
    deadline: Option<Deadline>,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, peer: Arc<Peer>, idle: Duration) -> Self {
        Self { stream, peer, idle, waiting: false, deadline: None }
    }

    /// A write that waits for too long fails.
    fn watch<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waiting = false;
            return result;
        }
        if !self.waiting {
            self.waiting = true;
            let at = Instant::now() + self.idle;
            self.deadline.get_or_insert_with(|| Deadline::new(at)).set(at);
        }
        if self.deadline.as_mut().is_some_and(|deadline| deadline.poll(cx).is_ready()) {
            self.peer.stall();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if result.is_ready() {
            self.peer.heads.remember(&buffer.filled()[before..]);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
