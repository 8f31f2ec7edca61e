//! Large bodies, from socket to socket: they pass through a pipe (splice(2)), and never through our memory.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a body must have left for a pipe to pay.
pub(super) const LARGE: u64 = 64 * 1024;
/// How much a pipe holds, where the kernel allows so much: four times its usual size, and little beside what the sockets of a
/// slow client hold.
const ROOM: usize = 256 * 1024;

/// A pipe from one socket to another.
#[derive(Debug)]
pub(super) struct Splice {
    into: OwnedFd,
    out: OwnedFd,
    /// How much is in it.
    held: usize,
}

impl Splice {
    /// `None` where no files are left for it.
    pub(super) fn new() -> Option<Self> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        if let Err(error) = fcntl_setpipe_size(&into, ROOM) {
            tracing::trace!(error = %error, "a pipe keeps its first size, which is slower");
        }
        Some(Self { into, out, held: 0 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Fills the empty pipe with at most so much; 0 at the end of what comes. A full pipe would look like a socket to which
    /// nothing has come.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        most: u64,
    ) -> Poll<io::Result<usize>> {
        let most = usize::try_from(most).unwrap_or(ROOM).min(ROOM);
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || pass(from, &self.into, most)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                passed => {
                    self.held = passed?;
                    return Poll::Ready(Ok(self.held));
                }
            }
        }
    }

    /// Empties it, at least in part; how much went.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || pass(&self.out, to, self.held)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                passed => {
                    let passed = passed?;
                    self.held -= passed;
                    return Poll::Ready(Ok(passed));
                }
            }
        }
    }
}

fn pass(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
}
