//! The server's main process: is it there, which one is it, when does it end.
//!
//! The truth is the socket in the server's private folder. Whoever answers there is our server, on whatever
//! engine's behalf it was started, and the kernel tells its process id; when it dies, the socket refuses at
//! that moment. Pid files can name a stranger, start times move with the clock; neither is asked.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// A running server. It stays the same process, also when its id is used again.
#[derive(Debug)]
pub(super) struct Postmaster {
    pub(super) pid: Pid,
    handle: AsyncFd<OwnedFd>,
}

/// A session's beginning, if somebody listens.
pub(super) async fn knock(server: &fs::File, port: u16) -> io::Result<Option<UnixStream>> {
    // Through the open folder: a socket's path may have 107 bytes, a data folder's more.
    let path = format!("/proc/self/fd/{}/data/.s.PGSQL.{port}", server.as_raw_fd());
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Some(stream)),
        // It died with our connection in its queue.
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Postmaster {
    /// The server that listens, if one does.
    pub(super) async fn find(server: &fs::File, port: u16) -> io::Result<Option<Self>> {
        let Some(pid) = listener(server, port).await? else { return Ok(None) };
        let handle = match open(pid) {
            Err(e) if e == rustix::io::Errno::SRCH => return Ok(None),
            other => other?,
        };
        // Between the answer and the handle the process may have ended and its id been used again.
        if listener(server, port).await? != Some(pid) {
            return Ok(None);
        }
        // Deprecated for handles that may change their descriptor; an OwnedFd keeps its own.
        #[allow(deprecated)]
        let handle = AsyncFd::new(handle)?;
        Ok(Some(Self { pid, handle }))
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&self) -> io::Result<()> {
        self.handle.readable().await.map(drop)
    }

    /// Asks it to end: sessions are cut, everything is written.
    pub(super) fn stop(&self) -> io::Result<()> {
        self.signal(Signal::INT)
    }

    /// Ends it at once; the next start recovers from its log.
    pub(super) fn abort(&self) -> io::Result<()> {
        self.signal(Signal::QUIT)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.handle.get_ref(), signal) {
            Err(e) if e == rustix::io::Errno::SRCH => Ok(()),
            other => Ok(other?),
        }
    }
}

async fn listener(server: &fs::File, port: u16) -> io::Result<Option<Pid>> {
    let Some(stream) = knock(server, port).await? else { return Ok(None) };
    let pid = stream.peer_cred()?.pid().and_then(Pid::from_raw);
    pid.map(Some).ok_or_else(|| io::Error::other("the kernel doesn't tell the server's process id"))
}

fn open(pid: Pid) -> rustix::io::Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::empty())
}

/// Processes that work in this data folder without a server listening: one that is just starting or ending, or
/// sessions whose main process was killed and which haven't noticed yet.
pub(super) fn residents(data: &Path) -> io::Result<Vec<Pid>> {
    let ours = fs::metadata(data)?;
    let processes = fs::read_dir("/proc")?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    Ok(pids.filter(|pid| works_in(*pid, &ours) == Some(true)).collect())
}

/// Whether this process's working directory is that one; `None` where it has ended or can't be told.
fn works_in(pid: Pid, folder: &fs::Metadata) -> Option<bool> {
    let there = fs::metadata(format!("/proc/{pid}/cwd")).ok()?;
    Some((there.dev(), there.ino()) == (folder.dev(), folder.ino()))
}

/// Ends the residents for good.
pub(super) fn evict(data: &Path) -> io::Result<()> {
    let ours = fs::metadata(data)?;
    for pid in residents(data)? {
        // One that ended by itself meanwhile is what we want.
        let Ok(handle) = open(pid) else { continue };
        if works_in(pid, &ours) == Some(true) {
            tracing::warn!(pid = pid.as_raw_nonzero(), "ending a process of a database server that is gone");
            match pidfd_send_signal(&handle, Signal::KILL) {
                Err(e) if e == rustix::io::Errno::SRCH => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// What the server's pid file says: its main process and its port.
pub(super) fn pid_file(data: &Path) -> io::Result<Option<(Pid, u16)>> {
    let text = match fs::read_to_string(data.join("postmaster.pid")) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    // Process id, data folder, start time, port, socket folder, address: one a line.
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let pid = lines.first().and_then(|line| line.parse().ok()).and_then(Pid::from_raw);
    Ok(pid.zip(lines.get(3).and_then(|line| line.parse().ok())))
}

/// Removes a pid file that names a stranger who uses the id now, whom the server would mistake for itself.
pub(super) fn clear_pid_file(data: &Path) -> io::Result<()> {
    let Some((pid, _)) = pid_file(data)? else { return Ok(()) };
    if works_in(pid, &fs::metadata(data)?) == Some(false) {
        fs::remove_file(data.join("postmaster.pid"))?;
    }
    Ok(())
}
