//! Apps as people keep them: in a repository, pushed by the machine's git.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process_group};

use super::until;

/// A repository of an app.
#[derive(Debug, Clone)]
pub(crate) struct Repo {
    pub(crate) dir: PathBuf,
}

/// How a push ended and what the pusher read.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) accepted: bool,
    pub(crate) said: String,
}

impl Push {
    #[track_caller]
    pub(crate) fn assert_accepted(&self) {
        assert!(self.accepted, "the push was refused:\n{}", self.said);
    }

    /// It was refused, and the pusher read all of this.
    #[track_caller]
    pub(crate) fn assert_refused(&self, because: &[&str]) {
        assert!(!self.accepted, "the push was accepted:\n{}", self.said);
        for part in because {
            assert!(self.said.contains(part), "the pusher did not read {part:?}, but:\n{}", self.said);
        }
    }
}

/// git, as if nobody had configured it.
pub(crate) fn git(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(dir).stdin(Stdio::null());
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        git.env_remove(proxy);
    }
    for (key, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("LC_ALL", "C"),
        ("GIT_AUTHOR_NAME", "Ada"),
        ("GIT_AUTHOR_EMAIL", "ada@example.com"),
        ("GIT_COMMITTER_NAME", "Ada"),
        ("GIT_COMMITTER_EMAIL", "ada@example.com"),
    ] {
        git.env(key, value);
    }
    git
}

impl Repo {
    pub(crate) fn new(dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).unwrap();
        let repo = Self { dir };
        repo.run(&["init", "--quiet", "--initial-branch=main"]);
        repo
    }

    /// Another checkout of it, as a colleague has one.
    pub(crate) fn copy(&self, dir: PathBuf) -> Self {
        let from = self.dir.to_str().unwrap();
        self.run(&["clone", "--quiet", "--no-hardlinks", from, dir.to_str().unwrap()]);
        Self { dir }
    }

    pub(crate) fn write(&self, file: &str, text: impl AsRef<[u8]>) -> &Self {
        fs::write(self.dir.join(file), text).unwrap();
        self
    }

    pub(crate) fn remove(&self, file: &str) -> &Self {
        fs::remove_file(self.dir.join(file)).unwrap();
        self
    }

    /// The web app that answers with this word, and the commit it is in.
    pub(crate) fn app(&self, word: &str) -> &Self {
        self.write("server.pl", include_str!("server.pl"));
        self.write("Procfile", "web: exec perl server.pl\n").write("word", format!("{word}\n"))
    }

    /// Commits everything and returns the commit.
    pub(crate) fn commit(&self) -> String {
        self.run(&["add", "--all"]);
        self.run(&["commit", "--quiet", "--allow-empty", "--message", "Change it"]);
        self.head()
    }

    pub(crate) fn head(&self) -> String {
        self.run(&["rev-parse", "HEAD"])
    }

    pub(crate) fn run(&self, args: &[&str]) -> String {
        let done = git(&self.dir).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(done.status.success(), "git {args:?}: {}", text(&done.stderr));
        text(&done.stdout)
    }

    pub(crate) fn push(&self, to: &str, what: &str) -> Push {
        self.start_push(to, what).end()
    }

    /// Begins to push; git is the leader of a process group, as in a terminal.
    pub(crate) fn start_push(&self, to: &str, what: &str) -> Pushing {
        let mut command = git(&self.dir);
        command.args(["push", to, what]).process_group(0).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let said = Arc::clone(&said);
            move || {
                for line in stderr.lines() {
                    let line = line.unwrap_or_else(|e| format!("({e})"));
                    said.lock().unwrap().extend([line.trim_end(), "\n"]);
                }
            }
        });
        Pushing { child, said, reader: Some(reader) }
    }
}

/// A push under way.
#[derive(Debug)]
pub(crate) struct Pushing {
    child: Child,
    said: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Pushing {
    /// Until the pusher reads this.
    pub(crate) fn until_says(&self, part: &str) {
        until(part, || self.said.lock().unwrap().contains(part).then_some(()));
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended just now.
            let _ = kill_process_group(group, signal);
        }
    }

    pub(crate) fn end(mut self) -> Push {
        let status = until("the end of git push", || self.child.try_wait().unwrap());
        self.reader.take().unwrap().join().unwrap();
        let said = self.said.lock().unwrap().clone();
        Push { accepted: status.success(), said }
    }
}

impl Drop for Pushing {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal(Signal::KILL);
            // Killed, so it ends.
            let _ = self.child.wait();
        }
    }
}
