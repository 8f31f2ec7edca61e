//! Starting a confined program and ending everything it started.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::fs::MemfdFlags;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::group::Group;
use crate::stage::{self, Failed, Order};
use crate::{Error, Helper, Profile, Result, procfs};

/// How often it is looked whether killed processes are gone.
const POLL: Duration = Duration::from_millis(2);
/// How long killed processes may take to be gone; the kernel may still be writing for them.
const GONE: Duration = Duration::from_secs(10);

/// A program to be run inside the walls of a [`Profile`], with an environment that holds only what is set here.
#[derive(Clone)]
pub struct Confined {
    helper: Helper,
    profile: Profile,
    program: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    dir: PathBuf,
    grace: Duration,
}

impl fmt::Debug for Confined {
    /// Neither arguments nor values: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Confined")
            .field("program", &self.program)
            .field("profile", &self.profile)
            .field("env", &self.env.keys())
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl Confined {
    /// This program inside these walls: in `/`, without arguments and with an empty environment.
    pub fn new(helper: &Helper, profile: Profile, program: impl Into<String>) -> Self {
        Self {
            helper: helper.clone(),
            profile,
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            dir: PathBuf::from("/"),
            grace: Duration::from_secs(2),
        }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With these arguments too.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// With this environment variable.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// With these environment variables too.
    #[must_use]
    pub fn envs<K: Into<String>, V: Into<String>>(mut self, vars: impl IntoIterator<Item = (K, V)>) -> Self {
        self.env.extend(vars.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// In this folder, as the program sees it.
    #[must_use]
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// With this long between SIGTERM and SIGKILL when its [`Child`] is dropped; 2 s.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Starts it with its output and errors piped and nothing to read: see [`Child::stdout`].
    ///
    /// # Errors
    /// As [`Confined::spawn_with`].
    pub fn spawn(&self) -> Result<Child> {
        self.spawn_with(Stdio::null(), Stdio::piped(), Stdio::piped())
    }

    /// Starts it. Must be called inside a tokio runtime.
    ///
    /// A wall that can't be put up, or a program that isn't there, shows when it is waited for.
    ///
    /// # Errors
    /// When the helper or the control group can't be made.
    pub fn spawn_with(
        &self,
        stdin: impl Into<Stdio>,
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Result<Child> {
        let abilities = self.helper.abilities()?;
        let group = Group::create(self.profile.group.as_deref(), &self.profile.limits)?;
        let started = self.order(abilities, &group).and_then(|order| {
            let path = format!("/proc/{}/fd/{}", std::process::id(), order.as_raw_fd());
            let mut command = Command::new(self.helper.path());
            command.arg(stage::EXEC).arg(path).env_clear();
            command.stdin(stdin).stdout(stdout).stderr(stderr);
            let helper = self.helper.path().display();
            let child = command.spawn().map_err(Error::io(format!("can't start the helper {helper}")))?;
            Ok((child, order))
        });
        match started {
            Ok((mut child, order)) => Ok(Child {
                stdin: child.stdin.take(),
                stdout: child.stdout.take(),
                stderr: child.stderr.take(),
                pid: child.id().unwrap_or_default(),
                program: self.program.clone(),
                grace: self.grace,
                out_of_memory: false,
                running: Some(Running { pid: child.id().unwrap_or_default(), child, group }),
                order,
            }),
            Err(e) => {
                group.remove();
                Err(e)
            }
        }
    }

    /// Runs it to its end and collects what it prints.
    ///
    /// # Errors
    /// As [`Confined::spawn_with`] and [`Child::wait`].
    pub async fn output(&self) -> Result<Output> {
        let mut child = self.spawn()?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let status = {
            let read_out = read_all(out, &mut stdout);
            let read_err = read_all(err, &mut stderr);
            let (status, out, err) = tokio::join!(child.wait(), read_out, read_err);
            out.and(err).map_err(Error::io(format!("can't read what {} prints", self.program)))?;
            status?
        };
        Ok(Output { status, stdout, stderr })
    }

    /// The order in a file that exists only in memory, which the new process opens through `/proc`: nothing is
    /// on disk, in arguments, or inherited by a process that somebody else starts at this moment.
    fn order(&self, abilities: crate::Abilities, group: &Group) -> Result<File> {
        let order = Order {
            profile: self.profile.clone(),
            abilities,
            doors: group.doors(),
            program: self.program.clone(),
            args: self.args.clone(),
            env: self.env.clone(),
            dir: self.dir.clone(),
        };
        let text = serde_json::to_vec(&order).map_err(|e| Error::Setup(format!("an odd path: {e}")))?;
        let failed = || Error::io("can't hand over the order");
        let memory = rustix::fs::memfd_create("paas-order", MemfdFlags::CLOEXEC);
        let mut file = File::from(memory.map_err(io::Error::from).map_err(failed())?);
        file.write_all(&text).map_err(failed())?;
        Ok(file)
    }
}

async fn read_all<R: tokio::io::AsyncRead + Unpin>(from: Option<R>, into: &mut Vec<u8>) -> io::Result<()> {
    if let Some(mut from) = from {
        tokio::io::AsyncReadExt::read_to_end(&mut from, into).await?;
    }
    Ok(())
}

/// A confined program that runs. Dropping it ends the program and everything it started: SIGTERM, then SIGKILL
/// after the grace.
#[derive(Debug)]
pub struct Child {
    /// Where to write to it, if that was asked for.
    pub stdin: Option<ChildStdin>,
    /// What it prints, if that was asked for.
    pub stdout: Option<ChildStdout>,
    /// Its errors, if they were asked for.
    pub stderr: Option<ChildStderr>,
    pid: u32,
    program: String,
    grace: Duration,
    out_of_memory: bool,
    /// `None` once all has ended.
    running: Option<Running>,
    order: File,
}

impl Child {
    /// Its process number, also after its end.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Waits for the program's own end, then kills what it left behind. Can be dropped and called again.
    ///
    /// # Errors
    /// [`Error::Setup`] when a wall could not be put up and [`Error::Program`] when the program could not be
    /// executed: it did not run then.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let Some(running) = &mut self.running else {
            return Err(Error::Setup(format!("{} was waited for already", self.program)));
        };
        let status = running.child.wait().await;
        let status = status.map_err(Error::io(format!("can't wait for {}", self.program)))?;
        self.out_of_memory = running.group.out_of_memory() > 0;
        running.kill_rest().await;
        self.running = None;
        if status.code() == Some(stage::FAILED)
            && let Some(failed) = self.failure()
        {
            return Err(if failed.program {
                Error::Program { program: self.program.clone(), reason: failed.reason }
            } else {
                Error::Setup(failed.reason)
            });
        }
        Ok(status)
    }

    /// Ends it and everything it started: SIGTERM to each process, SIGKILL after `grace`. Returns its status once
    /// all are gone.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub async fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        self.terminate();
        if timeout(grace, self.ended()).await.is_err() {
            self.kill();
        }
        self.wait().await
    }

    /// Sends SIGTERM to it and everything it started.
    pub fn terminate(&self) {
        if let Some(running) = &self.running {
            running.signal(Signal::SIGTERM);
        }
    }

    /// Sends SIGKILL to it and everything it started; [`Child::wait`] tells when they are gone.
    pub fn kill(&mut self) {
        if let Some(running) = &mut self.running {
            running.kill_now();
        }
    }

    /// Waits until it and everything it started have ended by themselves.
    pub async fn ended(&mut self) {
        if let Some(running) = &mut self.running {
            running.ended().await;
        }
    }

    /// Its control group while it runs.
    pub fn group(&self) -> Option<&Group> {
        self.running.as_ref().map(|running| &running.group)
    }

    /// Whether the kernel killed it, or something it started, because the memory limit was reached. Known once it
    /// was waited for.
    pub fn out_of_memory(&self) -> bool {
        self.out_of_memory
    }

    /// What the last stage wrote over its order. A program's own status 125 leaves the order as it was.
    fn failure(&mut self) -> Option<Failed> {
        let mut text = Vec::new();
        self.order.rewind().ok()?;
        self.order.read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let grace = self.grace;
        // At once, also when the runtime is about to end.
        running.signal(Signal::SIGTERM);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                running.end(grace).await;
                // Reaped here; how it ended is of no interest to who dropped it.
                let _ = running.child.wait().await;
                running.kill_rest().await;
            })),
            Err(_) => running.kill_now(),
        }
    }
}

#[derive(Debug)]
struct Running {
    pid: u32,
    child: tokio::process::Child,
    group: Group,
}

impl Running {
    async fn end(&mut self, grace: Duration) {
        self.signal(Signal::SIGTERM);
        if timeout(grace, self.ended()).await.is_err() {
            self.kill_now();
        }
    }

    async fn ended(&mut self) {
        // Polled and not awaited: others of the group may outlive the program.
        while matches!(self.child.try_wait(), Ok(None)) || !self.members().is_empty() {
            sleep(POLL).await;
        }
    }

    fn kill_now(&mut self) {
        self.group.kill();
        self.signal(Signal::SIGKILL);
        // Already reaped is as good as killed.
        let _ = self.child.start_kill();
    }

    /// After the program's own end: kills what is left and removes the group.
    async fn kill_rest(&mut self) {
        let until = Instant::now() + GONE;
        self.kill_now();
        while !self.group.remove() || !self.members().is_empty() {
            if Instant::now() > until {
                tracing::warn!(left = ?self.members(), "killed processes of a confined program are not gone");
                return;
            }
            sleep(POLL).await;
            self.kill_now();
        }
    }

    fn members(&self) -> Vec<u32> {
        if self.group.is_void() {
            // Its session is found also when the program itself is gone: the number stays taken while others use it.
            procfs::family(self.pid).into_iter().collect()
        } else {
            self.group.processes()
        }
    }

    fn signal(&self, signal: Signal) {
        self.group.signal(signal);
        if self.group.is_void() {
            for pid in self.members() {
                // It may have ended meanwhile.
                let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
            }
        } else if let Some(pid) = self.child.id() {
            // It may not have joined its group yet, nor have a session.
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
            let _ = killpg(Pid::from_raw(pid.cast_signed()), signal);
        }
    }
}
