//! The `platform` example on a data folder of a test's own, and nothing left of it afterwards.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::git::{Push, Pushing, Repo, git};
use super::http::{Answer, get};
use super::prober::Prober;
use super::processes::{self, Identity, Process};
use super::records::Records;
use super::until;

/// A data folder, and the platform that runs on it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) data: PathBuf,
    scratch: TempDir,
    /// What the platform finds programs in; ours where `None`.
    path: Option<OsString>,
    env: Vec<(String, String)>,
    /// Another example that is run as this one.
    binary: PathBuf,
    running: Option<Running>,
    ready: Option<Ready>,
}

/// A platform's process.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

/// The `ready` line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Ready {
    router: String,
    https: String,
    git: String,
    /// What Prometheus reads.
    pub(crate) metrics: Option<String>,
    pub(crate) ca: PathBuf,
    pub(crate) token: String,
    domain: String,
}

impl Ready {
    pub(crate) fn router(&self) -> SocketAddr {
        self.router.strip_prefix("http://").unwrap().parse().unwrap()
    }

    pub(crate) fn https(&self) -> SocketAddr {
        self.https.strip_prefix("https://").unwrap().parse().unwrap()
    }

    fn git(&self) -> SocketAddr {
        self.git.strip_prefix("http://").unwrap().parse().unwrap()
    }
}

/// An example beside this test: `target/PROFILE/examples/NAME`.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(path.is_file(), "{} is missing: cargo build --examples --all-features", path.display());
    path
}

/// The example `platform`, or what `PAAS_PLATFORM` names.
fn platform() -> PathBuf {
    std::env::var_os("PAAS_PLATFORM").map_or_else(|| example("platform"), PathBuf::from)
}

impl World {
    /// A platform on an empty folder, on ports that were free.
    pub(crate) fn new() -> Self {
        let mut world = Self::not_started();
        world.start_first();
        world
    }

    pub(crate) fn not_started() -> Self {
        let scratch = tempfile::Builder::new().prefix("paas-platform-").tempdir().unwrap();
        let data = scratch.path().join("data");
        Self { data, scratch, path: None, env: Vec::new(), binary: platform(), running: None, ready: None }
    }

    /// Runs this example, which has the same options.
    pub(crate) fn with_example(mut self, name: &str) -> Self {
        self.binary = example(name);
        self
    }

    /// Keeps its data in this folder.
    pub(crate) fn with_data(mut self, data: PathBuf) -> Self {
        self.data = data;
        self
    }

    /// Finds programs in this folder first.
    pub(crate) fn with_programs(mut self, dir: &Path) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::iter::once(dir.to_owned()).chain(std::env::split_paths(&path));
        self.path = Some(std::env::join_paths(dirs).unwrap());
        self
    }

    /// Starts with this in its environment.
    pub(crate) fn with_env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn start_first(&mut self) {
        let (free, http, https) = ("127.0.0.1:0", "--http", "--https");
        self.start_with(&["--no-demo", http, free, https, free, "--git", free]);
    }

    /// Starts it once more: the ports are those of last time.
    pub(crate) fn start(&mut self) {
        self.start_with(&["--no-demo"]);
    }

    pub(crate) fn start_with(&mut self, args: &[&str]) {
        assert!(self.running.is_none(), "it runs already");
        let running = self.running.insert(Running::start(self.command(args)));
        let ready = running.until_ready();
        self.ready = Some(ready);
    }

    /// Starts a process that replaces the one that runs, which goes on meanwhile.
    pub(crate) fn start_replacing(&self) -> Running {
        Running::start(self.command(&["--no-demo", "--replace"]))
    }

    /// It has replaced the other, which is returned: it may have connections left.
    pub(crate) fn replaced_by(&mut self, mut new: Running) -> Running {
        assert_eq!(Some(new.until_ready()), self.ready, "the addresses or the token changed");
        self.running.replace(new).unwrap()
    }

    /// The platform dies, and this one is what runs.
    pub(crate) fn survived_by(&mut self, new: Running) {
        self.kill();
        self.running = Some(new);
    }

    /// Whoever asks looks after its end.
    pub(crate) fn take_running(&mut self) -> Running {
        self.running.take().unwrap()
    }

    pub(crate) fn running(&mut self) -> &mut Running {
        self.running.as_mut().unwrap()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--data").arg(&self.data).args(args).current_dir(self.scratch.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().child.id()
    }

    pub(crate) fn ready(&self) -> &Ready {
        self.ready.as_ref().unwrap()
    }

    /// What it printed so far.
    pub(crate) fn said(&self) -> String {
        self.running.as_ref().unwrap().said.lock().unwrap().clone()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.running.take().unwrap().kill();
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(&mut self) {
        let mut running = self.running.take().unwrap();
        let status = running.terminate();
        assert!(status.success(), "{status}:\n{}", running.said.lock().unwrap());
    }

    pub(crate) fn repo(&self, name: &str) -> Repo {
        Repo::new(self.scratch.path().join(name))
    }

    /// The address to push an app to, with its token.
    pub(crate) fn remote(&self, app: &str) -> String {
        self.remote_for(app, &format!("x:{}@", self.ready().token))
    }

    pub(crate) fn remote_for(&self, app: &str, who: &str) -> String {
        format!("http://{who}{}/{app}.git", self.ready().git())
    }

    pub(crate) fn push(&self, repo: &Repo, app: &str) -> Push {
        repo.push(&self.remote(app), "HEAD:main")
    }

    pub(crate) fn start_push(&self, repo: &Repo, app: &str) -> Pushing {
        repo.start_push(&self.remote(app), "HEAD:main")
    }

    /// Where the platform's branch stands.
    pub(crate) fn branch(&self, app: &str, branch: &str) -> Option<String> {
        let what = format!("refs/heads/{branch}");
        let done = git(self.scratch()).args(["ls-remote", &self.remote(app), &what]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let text = String::from_utf8(done.stdout).unwrap();
        text.split_whitespace().next().map(str::to_owned)
    }

    pub(crate) fn host(&self, app: &str) -> String {
        format!("{app}.{}", self.ready().domain)
    }

    /// What users get now.
    pub(crate) fn get(&self, app: &str) -> Answer {
        get(self.ready().router(), &self.host(app)).unwrap()
    }

    /// The word that users get, and the process that said it.
    pub(crate) fn serving(&self, app: &str) -> (String, Identity) {
        let answer = self.get(app);
        assert_eq!(answer.status, 200, "{answer:?}");
        let identity = Identity::of(answer.number("pid")).expect("what answers is alive");
        (answer.word().to_owned(), identity)
    }

    pub(crate) fn probe(&self, app: &str) -> Prober {
        Prober::start(self.ready().router(), &self.host(app))
    }

    pub(crate) fn probe_busily(&self, app: &str) -> Prober {
        Prober::start_busy(self.ready().router(), &self.host(app))
    }

    pub(crate) fn processes(&self) -> Vec<Process> {
        processes::of(&self.data)
    }

    /// The main processes of instances, less the children with which they answer.
    pub(crate) fn programs(&self) -> Vec<Process> {
        let mut all = self.processes();
        all.retain(|process| process.instance().is_some());
        let pids: BTreeSet<_> = all.iter().map(|process| process.identity.pid).collect();
        all.retain(|process| !pids.contains(&process.parent));
        all
    }

    pub(crate) fn records(&self) -> Records {
        Records::open(&self.data)
    }
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        let readers = outputs.map(|output| {
            let said = Arc::clone(&said);
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines() {
                    let line = line.unwrap_or_else(|e| format!("({e})"));
                    said.lock().unwrap().extend([line.as_str(), "\n"]);
                }
            })
        });
        Self { child, said, readers: readers.into() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Waits until it has said this, or its end.
    pub(crate) fn until_says(&mut self, what: &str) {
        until(what, || {
            let said = self.said();
            assert!(said.contains(what) || self.child.try_wait().unwrap().is_none(), "it ended:\n{said}");
            said.contains(what).then_some(())
        });
    }

    pub(crate) fn until_ready(&mut self) -> Ready {
        let line = |said: &str| said.lines().find_map(|line| line.strip_prefix("ready ")).map(str::to_owned);
        let ready = until("the ready line", || {
            let said = self.said();
            let ended = self.child.try_wait().unwrap();
            // What it said last may have come after the look.
            let ready = line(&said);
            assert!(ready.is_some() || ended.is_none(), "it ended:\n{}", self.said());
            ready
        });
        serde_json::from_str(&ready).unwrap()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let status = until("the platform's end", || self.child.try_wait().unwrap());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn terminate(&mut self) -> ExitStatus {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        self.end()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            if std::thread::panicking() {
                eprintln!(
                    "The platform said:\n{}",
                    running.said.lock().map(|s| s.clone()).unwrap_or_default()
                );
            }
            // It is killed below whatever this says.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        let groups = groups(&self.data);
        // What is killed may have started something meanwhile.
        for _ in 0..100 {
            let left = processes::of(&self.data);
            if left.is_empty() {
                break;
            }
            left.iter().for_each(Process::kill);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        for group in groups {
            // Empty now; where there are no control groups there is nothing to remove.
            let _ = fs::remove_dir(group);
        }
    }
}

/// The control groups of what was launched.
fn groups(data: &Path) -> Vec<PathBuf> {
    let launches = fs::read_dir(data.join("run/launches")).into_iter().flatten().flatten();
    let texts = launches.filter_map(|launch| fs::read_to_string(launch.path().join("shim.json")).ok());
    let values = texts.filter_map(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let trees = values.filter_map(|value| value["group"]["trees"].as_array().cloned()).flatten();
    trees.filter_map(|tree| tree.as_str().map(PathBuf::from)).collect()
}
