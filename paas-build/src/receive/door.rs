//! Where hooks come in: a socket that only the platform's own user can reach.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use paas_core::{Error, ErrorCode, Result};
use paas_sandbox::Helper;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::updates::Update;
use super::voice::Voice;
use super::{Inner, hook};

/// What the hook says of one push.
#[derive(Debug)]
pub(crate) struct Order {
    /// The variables with which git commands see the objects that were not accepted yet.
    pub(crate) quarantine: [(&'static str, OsString); 2],
    pub(crate) updates: Vec<Update>,
}

/// Names of a hundred thousand references, in bytes.
const ORDER_MAX: u64 = 16 << 20;
/// The hook sends all at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// git takes a hook that isn't there for one that agrees, and a link into a process is not there once that was killed. So
/// git finds a file, which fails when it can't start what it should.
const HOOK: &str = "#!/bin/sh\nexec \"${0%/*}/platform/pre-receive\"\n";

/// Makes the folder of hooks and says where it is: the hook starts a link to the helper binary.
pub(crate) fn hang_up(root: &Path, helper: &Helper) -> Result<PathBuf> {
    let hooks = root.join(".hooks");
    let failed = |e| Error::from_io(format!("can't make the folder {}", hooks.display()), e);
    let binary = if helper.path() == Path::new("/proc/self/exe") {
        // For git that would be git.
        PathBuf::from(format!("/proc/{}/exe", std::process::id()))
    } else {
        std::path::absolute(helper.path()).map_err(failed)?
    };
    let platform = hooks.join("platform");
    fs::create_dir_all(&platform).map_err(failed)?;
    let replace = |made: &Path, at: &Path| fs::rename(made, at).map_err(failed);
    let aside = hooks.join("new");
    // Left there by a process that was killed.
    let _ = fs::remove_file(&aside);
    std::os::unix::fs::symlink(binary, &aside).map_err(failed)?;
    replace(&aside, &platform.join(hook::NAME))?;
    fs::write(&aside, HOOK).map_err(failed)?;
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    replace(&aside, &hooks.join(hook::NAME))?;
    Ok(hooks)
}

/// Opens the socket.
pub(crate) fn open(root: &Path) -> Result<UnixListener> {
    let name = Path::new(hook::SOCKET).file_name().unwrap_or_default();
    let bind = || {
        match fs::remove_file(root.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // A socket's path may have 107 bytes, and ours is somebody else's choice: this way round it is short.
        let folder = fs::File::open(root)?;
        let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        UnixListener::bind(short)
    };
    bind().map_err(|e| Error::from_io(format!("can't open a socket in {}", root.display()), e))
}

/// Answers hooks until the endpoint is gone.
pub(crate) async fn keep(listener: UnixListener, inner: Weak<Inner>, gone: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = gone.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Some(inner) = inner.upgrade() else { return };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(answer(inner, stream))),
            Err(error) => {
                tracing::warn!(error = %error, "a git hook can't come in");
                // Out of files, most likely: others must end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(inner: Arc<Inner>, stream: UnixStream) {
    let (mut from, to) = stream.into_split();
    let mut said = Vec::new();
    let mut all = (&mut from).take(ORDER_MAX);
    let heard = tokio::time::timeout(PATIENCE, all.read_to_end(&mut said)).await;
    let known = match heard {
        Ok(Ok(_)) => split(&said).and_then(|(key, rest)| Some((inner.sessions.take(key)?, rest))),
        _ => None,
    };
    let Some((session, rest)) = known else {
        tracing::warn!("somebody who is not the hook of a push spoke to the socket of hooks");
        return;
    };
    let mut voice = Voice::new(to);
    let _at_hook = session.at_hook.lock().await;
    let accepted = match parse(rest) {
        Ok(order) => inner.pre_receive(&session, order, &mut voice).await,
        Err(error) => Err(error.into()),
    };
    if let Err(refusal) = &accepted {
        voice.reject(&session.app, refusal.step.as_ref(), &refusal.error).await;
    }
    voice.end(accepted.is_ok()).await;
}

pub(super) fn split(said: &[u8]) -> Option<(&str, &[u8])> {
    let end = said.iter().position(|byte| *byte == b'\n')?;
    Some((std::str::from_utf8(&said[..end]).ok()?, &said[end + 1..]))
}

pub(super) fn parse(said: &[u8]) -> Result<Order> {
    let broken = || Error::new(ErrorCode::BadSource, "git's updates can't be read");
    let mut parts = said.splitn(3, |byte| *byte == 0);
    let mut next = || parts.next().ok_or_else(broken);
    let (objects, alternates, updates) = (next()?, next()?, next()?);
    let variable = |value: &[u8]| OsString::from_vec(value.to_vec());
    Ok(Order {
        quarantine: [
            ("GIT_OBJECT_DIRECTORY", variable(objects)),
            ("GIT_ALTERNATE_OBJECT_DIRECTORIES", variable(alternates)),
        ],
        updates: Update::parse_all(std::str::from_utf8(updates).map_err(|_| broken())?)?,
    })
}
