//! The process at the other end.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use paas_core::{Error, ErrorCode, Result};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, getpid, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::unavailable;

/// How long a process may take to end by itself once it has hung up, and the kernel to end it.
const ENDING: Duration = Duration::from_secs(5);

/// A process. It stays the same one, also when its number is used again.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) pid: u32,
    handle: AsyncFd<OwnedFd>,
}

impl Peer {
    /// Who is at the other end of this socket.
    ///
    /// # Errors
    /// `forbidden` when it is another user.
    pub(super) fn of(stream: &UnixStream) -> Result<Self> {
        let unknown = |e: io::Error| Error::from_io("can't tell which process is at the other end", e);
        let who = stream.peer_cred().map_err(unknown)?;
        if who.uid() != geteuid().as_raw() {
            let what = format!("only the platform's own user may replace it, not user {}", who.uid());
            return Err(Error::new(ErrorCode::Forbidden, what));
        }
        // 0 is one that this process can't see.
        let pid = who.pid().and_then(Pid::from_raw).ok_or_else(|| {
            let what = "the other process is in another container: both must see each other's processes";
            Error::new(ErrorCode::Unsupported, what)
        })?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| unknown(e.into()))?;
        // Deprecated for handles that may change their descriptor; an OwnedFd keeps its own.
        #[allow(deprecated)]
        let handle = AsyncFd::new(handle).map_err(unknown)?;
        Ok(Self { pid: pid.as_raw_nonzero().get().unsigned_abs(), handle })
    }

    /// Makes sure that it does nothing any more: it gets some time to end, and is killed then.
    pub(super) async fn end(&self) -> Result<()> {
        if getpid().as_raw_nonzero().get().unsigned_abs() == self.pid {
            // Both sides in one program, as in a test: it looks after itself.
            return Ok(());
        }
        if self.ended_in_time().await {
            return Ok(());
        }
        tracing::warn!(pid = self.pid, "a process that did not take over hangs, and is killed");
        match pidfd_send_signal(self.handle.get_ref(), Signal::KILL) {
            Err(e) if e != rustix::io::Errno::SRCH => {
                return Err(Error::from_io(format!("can't end process {}", self.pid), e.into()));
            }
            _ => {}
        }
        if self.ended_in_time().await {
            return Ok(());
        }
        Err(unavailable(format!("process {} doesn't end", self.pid)))
    }

    /// Whether it has ended, after a while.
    pub(super) async fn ended_in_time(&self) -> bool {
        // An error of the wait is no end.
        timeout(ENDING, self.handle.readable()).await.is_ok_and(|ended| ended.is_ok())
    }
}
