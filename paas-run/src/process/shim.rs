//! The parent of one program: a small process that outlives the engine, reads what the program prints, writes it to
//! the app's log, and keeps how the program ended.
//!
//! SIGTERM ends the program and everything it started as people are used to, SIGQUIT kills it at once. The program runs
//! as another user, so it can't reach its shim.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio, exit};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use paas_core::{Clock, ConfigValue, Exit, LogLine, LogSource, Redactor, Result, SystemClock, WorkflowId};
use paas_sandbox::procfs::{self, ProcessId};
use paas_sandbox::{Abilities, Child, Confined, Group, Helper, Profile};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{sleep, timeout};

use super::folder::{Folder, Running};
use crate::logs::{LogBounds, LogFile};
use crate::supervisor::End;

/// The first argument of a process that is to become a shim; the second is the order's path.
pub(super) const SHIM: &str = "__paas-shim";

/// How many of the last lines are kept with the end.
const LAST: usize = 50;

/// How long the last output may take to arrive after all processes have ended.
const DRAIN: Duration = Duration::from_secs(2);

/// How often it is looked whether all have ended.
const POLL: Duration = Duration::from_millis(5);

/// What to run. It holds secrets, so it travels through a file in memory and never as arguments.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) folder: PathBuf,
    pub(super) log: PathBuf,
    pub(super) log_segments: usize,
    pub(super) log_segment_bytes: u64,
    /// How it is called in the log.
    pub(super) name: String,
    pub(super) workflow: Option<WorkflowId>,
    /// The command line, for the log.
    pub(super) command: String,
    pub(super) abilities: Abilities,
    pub(super) profile: Profile,
    pub(super) program: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    /// The keys of `env` that are secrets, and what is taken out of output that leaves the app's own log.
    pub(super) secrets: Vec<String>,
    pub(super) dir: PathBuf,
    pub(super) grace: Duration,
    pub(super) timeout: Option<Duration>,
}

/// Becomes a shim.
pub(super) fn main(order: Option<&OsStr>) -> ! {
    let run = || -> std::io::Result<()> {
        paas_sandbox::close_inherited_files()?;
        nix::unistd::setsid()?;
        nix::unistd::chdir("/")?;
        nix::sys::prctl::set_child_subreaper(true)?;
        let path = order.ok_or_else(|| std::io::Error::other("no order was given"))?;
        let order: Order = serde_json::from_reader(BufReader::new(File::open(path)?))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(run(order)).map_err(std::io::Error::other)
    };
    let result = run();
    if let Err(e) = &result {
        // Whoever started it reads this while it waits for the word that the program runs.
        let _ = writeln!(std::io::stdout(), "{e}");
    }
    exit(i32::from(result.is_err()))
}

async fn run(order: Order) -> Result<()> {
    let folder = Folder::new(order.folder.clone());
    let lock = folder.lock()?;
    if folder.end()?.is_some() {
        // Somebody found no shim and gave the launch up: too late.
        return Ok(());
    }
    let log = Arc::new(Log::open(&order)?);
    let failed = |e| paas_core::Error::from_io("the shim can't listen for signals", e);
    let mut signals = Signals {
        term: signal(SignalKind::terminate()).map_err(failed)?,
        quit: signal(SignalKind::quit()).map_err(failed)?,
        child: signal(SignalKind::child()).map_err(failed)?,
    };
    folder.begin(&lock)?;
    log.platform(&format!("Starting process with command `{}`", order.command));
    let mut child = match start(&order) {
        Ok(child) => child,
        Err(e) => {
            let mut end = End::new(Some(Exit::new(126, Vec::new())), SystemClock::new().now());
            end.reason = Some(e.to_string());
            log.platform(&e.to_string());
            return folder.keep_end(&lock, &end);
        }
    };
    if let (Some(shim), Some(group)) = (ProcessId::current(), child.group()) {
        let running = Running { shim, program: child.id(), group: group.clone() };
        if let Err(e) = folder.keep_running(&running) {
            // Nobody could find it again.
            child.kill();
            let _: paas_sandbox::Result<ExitStatus> = child.wait().await;
            return Err(e);
        }
    }
    // The engine may be gone already, and that must not stop anything.
    let _ = writeln!(std::io::stdout(), "{STARTED}");
    let outputs = [
        tokio::spawn(copy(child.stdout.take(), Arc::clone(&log))),
        tokio::spawn(copy(child.stderr.take(), Arc::clone(&log))),
    ];
    // Without a control group those who left the program's family are found as ours.
    let groupless = child.group().is_some_and(Group::is_void);
    let (status, stopped) = watch(&mut child, &mut signals, &log, &order).await;
    if groupless {
        signal_below(nix::sys::signal::Signal::SIGKILL);
    }
    for output in outputs {
        // Nothing that could still print is left; a pipe that stays open is not worth waiting for.
        let _ = timeout(DRAIN, output).await;
    }
    let mut end = End::new(None, SystemClock::new().now());
    end.stopped = stopped;
    if child.out_of_memory() {
        end.reason = Some("Error R15 (Memory quota vastly exceeded)".into());
        log.platform("Error R15 (Memory quota vastly exceeded)");
        log.platform("Stopping process with SIGKILL");
    }
    let code = match status {
        Ok(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
        Err(e) => {
            log.platform(&e.to_string());
            end.reason = Some(e.to_string());
            if matches!(e, paas_sandbox::Error::Program { .. }) { 127 } else { 126 }
        }
    };
    log.platform(&format!("Process exited with status {code}"));
    end.exit = Some(Exit::new(code, log.last()));
    folder.keep_end(&lock, &end)
}

/// What the shim prints once the program was started.
pub(super) const STARTED: &str = "started";

fn start(order: &Order) -> paas_sandbox::Result<Child> {
    let helper = Helper::at("/proc/self/exe").knowing(order.abilities.clone());
    let (program, args) = order.program.split_first().map_or(("bash", [].as_slice()), |(p, a)| (p, a));
    let (nothing, piped) = (Stdio::null(), Stdio::piped);
    Confined::new(&helper, order.profile.clone(), program)
        .args(args)
        .envs(&order.env)
        .current_dir(&order.dir)
        .spawn_with(nothing, piped(), piped())
}

struct Signals {
    term: Signal,
    quit: Signal,
    child: Signal,
}

/// From the start to the end of all processes. Says how the program ended and whether it was told to.
async fn watch(
    child: &mut Child,
    signals: &mut Signals,
    log: &Log,
    order: &Order,
) -> (paas_sandbox::Result<ExitStatus>, bool) {
    let program = child.id();
    let late = after(order.timeout);
    tokio::pin!(late);
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return (status, false),
            _ = signals.quit.recv() => {
                child.kill();
                return (child.wait().await, false);
            }
            _ = signals.term.recv() => break,
            _ = signals.child.recv() => reap(program),
            () = &mut late => {
                let seconds = order.timeout.unwrap_or_default().as_secs();
                log.platform(&format!("Process took longer than {seconds} seconds"));
                break;
            }
        }
    }
    log.platform("Stopping all processes with SIGTERM");
    child.terminate();
    let groupless = child.group().is_some_and(Group::is_void);
    if groupless {
        signal_below(nix::sys::signal::Signal::SIGTERM);
    }
    let grace = order.grace;
    let everything = async {
        child.ended().await;
        while groupless && !below().is_empty() {
            sleep(POLL).await;
        }
    };
    let in_time = tokio::select! {
        () = everything => true,
        () = sleep(grace) => false,
        _ = signals.quit.recv() => true,
    };
    if !in_time {
        let seconds = grace.as_secs_f32();
        log.platform(&format!(
            "Error R12 (Exit timeout) -> At least one process failed to exit within {seconds} seconds of SIGTERM"
        ));
        log.platform("Stopping remaining processes with SIGKILL");
    }
    child.kill();
    (child.wait().await, true)
}

async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Takes leave of orphans that ended: their parents are gone, so they became ours. The program itself is left to
/// who waits for it.
fn reap(program: u32) {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, look) {
        match status.pid() {
            Some(pid) if pid != Pid::from_raw(program.cast_signed()) => {
                // It has ended: this returns at once.
                let _: nix::Result<WaitStatus> = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            }
            _ => return,
        }
    }
}

/// The processes below the shim: as a subreaper it is the parent of every orphan.
fn below() -> BTreeSet<u32> {
    let me = std::process::id();
    let mut family = procfs::family(me);
    family.remove(&me);
    family
}

fn signal_below(signal: nix::sys::signal::Signal) {
    for pid in below() {
        // It may have ended meanwhile.
        let _ = nix::sys::signal::kill(Pid::from_raw(pid.cast_signed()), signal);
    }
}

/// Copies lines to the log until nobody can print any more.
async fn copy(from: Option<impl AsyncRead + Unpin>, log: Arc<Log>) {
    let Some(mut from) = from else { return };
    let (mut line, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        for piece in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") {
                log.app(&line);
                line.clear();
            } else if line.len() >= LogLine::MAX_BYTES {
                // What may be the beginning of a secret waits for the rest of it.
                let rest = line.split_off(log.redactor.cut(&line));
                let part = std::mem::replace(&mut line, rest);
                if !part.is_empty() {
                    log.app(&part);
                }
            }
        }
    }
    if !line.is_empty() {
        log.app(&line);
    }
}

/// The app's log, and the last lines of it.
struct Log {
    file: LogFile,
    name: String,
    workflow: Option<WorkflowId>,
    redactor: Redactor,
    last: Mutex<VecDeque<String>>,
}

impl Log {
    fn open(order: &Order) -> Result<Self> {
        let bounds = LogBounds::new(order.log_segments, order.log_segment_bytes);
        let mut redactor = Redactor::new();
        for key in &order.secrets {
            if let Some(value) = order.env.get(key) {
                redactor.learn_value(ConfigValue::new(value.clone())?.expose());
            }
        }
        Ok(Self {
            file: LogFile::open(&order.log, bounds)?,
            name: order.name.clone(),
            workflow: order.workflow,
            redactor,
            last: Mutex::default(),
        })
    }

    fn write(&self, source: LogSource, text: &str) {
        let mut line = LogLine::new(SystemClock::new().now(), source, self.name.clone(), text);
        line.workflow = self.workflow;
        self.file.append(&line);
    }

    fn platform(&self, text: &str) {
        self.write(LogSource::Platform, &self.redactor.redact(text));
    }

    /// One line that the program printed. What a workflow's readers see is redacted; the app's own log is its own.
    fn app(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches(['\n', '\r']);
        let redacted = self.redactor.redact(text);
        self.write(LogSource::App, if self.workflow.is_some() { &redacted } else { text });
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LAST {
            last.pop_front();
        }
        last.push_back(redacted);
    }

    fn last(&self) -> Vec<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
