//! How git is started: in a clean environment, under limits, with settings of ours alone.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use paas_core::{Error, ErrorCode, Result};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::process::{Child, Command};

/// The system's git.
#[derive(Debug, Clone)]
pub(crate) struct Git {
    pub(crate) program: PathBuf,
}

impl Git {
    /// A git command in this folder that sees nothing of our environment and nobody's configuration.
    pub(crate) fn command(&self, dir: &Path) -> Command {
        let mut git = Command::new(&self.program);
        git.current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C.UTF-8")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            // Whatever a later git prefers: this is what `Repo` reads, and what every client speaks.
            .env("GIT_DEFAULT_REF_FORMAT", "files")
            .env("GIT_DEFAULT_HASH", "sha1")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        git
    }

    /// Runs a command to its end and returns what it printed.
    pub(crate) async fn output(mut command: Command, what: &str) -> Result<Vec<u8>> {
        let done = command.output().await.map_err(cant_start)?;
        if done.status.success() {
            return Ok(done.stdout);
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        Err(Error::new(ErrorCode::BadSource, format!("git can't {what}: {}", last.trim())))
    }
}

/// That there is no git is the first thing to go wrong on a new machine.
pub(crate) fn cant_start(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Error::new(ErrorCode::Unavailable, "git is not installed here (apt-get install git)");
    }
    Error::from_io("can't start git", error)
}

/// What `git receive-pack` is told.
pub(crate) fn receive_settings(hooks: &Path, max_bytes: u64) -> Vec<OsString> {
    let mut hooks_path = OsString::from("core.hooksPath=");
    hooks_path.push(hooks);
    let mut settings = vec![hooks_path];
    settings.extend([format!("receive.maxInputSize={max_bytes}").into()]);
    let plain = [
        // Proxies in between keep a connection on which something is said.
        "receive.keepAlive=5",
        "receive.denyDeletes=true",
        "receive.shallowUpdate=true",
        // A pack is kept as it came: one file, written once.
        "receive.unpackLimit=1",
        "receive.autogc=false",
        "receive.advertisePushOptions=false",
        "transfer.fsckObjects=true",
        // Larger objects are streamed and not held in memory.
        "core.bigFileThreshold=32m",
        // A push that was accepted outlives a power cut; git alone doesn't sync branches.
        "core.fsync=committed,reference",
        "pack.windowMemory=256m",
        "pack.threads=2",
    ];
    settings.extend(plain.map(OsString::from));
    settings.into_iter().flat_map(|setting| ["-c".into(), setting]).collect()
}

/// Bounds what git's processes may use: `max_bytes` of a pack, unpacked by somebody who wants to harm.
pub(crate) fn limit(child: &Child, max_bytes: u64) -> std::io::Result<()> {
    let Some(pid) = pid(child) else { return Ok(()) };
    let limits = [
        (Resource::Core, 0),
        // Seconds, for each process.
        (Resource::Cpu, 900),
        // A thin pack is completed by the objects that it builds on.
        (Resource::Fsize, max_bytes.saturating_mul(4)),
    ];
    for (resource, most) in limits {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::prlimit(Some(pid), resource, limit)?;
    }
    Ok(())
}

/// Asks it to end: it removes what it has not finished.
pub(crate) fn terminate(child: &Child) {
    if let Some(pid) = pid(child) {
        // It may have ended by itself just now.
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}

/// Ends it and all that it started.
pub(crate) fn kill(child: &Child) {
    if let Some(pid) = pid(child) {
        // As above.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

fn pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
}
