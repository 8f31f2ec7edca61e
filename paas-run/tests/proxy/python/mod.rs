//! Clients and servers that others wrote, in Python.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, BufRead as _, BufReader, Lines};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use crate::support::within;

const REQUIREMENTS: &str = include_str!("requirements.txt");

/// A Python with the packages of `requirements.txt`. They are installed once, beside what cargo builds.
pub(crate) struct Python(PathBuf);

impl Python {
    /// None where it can't be had; in CI it must.
    pub(crate) fn with_packages() -> Option<Self> {
        let made = make();
        assert!(made.is_ok() || std::env::var_os("CI").is_none(), "Python's packages are missing: {made:?}");
        made.inspect_err(|error| eprintln!("SKIPPED, it needs Python with packages: {error}")).ok().map(Self)
    }

    /// One of the files here as a server, which prints its port first.
    pub(crate) fn serve(&self, name: &str) -> Server {
        let mut process = self.script(name).stdout(Stdio::piped()).spawn().expect("Python starts");
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let port = lines.next().expect("a line").expect("text");
        let address = ([127, 0, 0, 1], port.parse().expect("its port")).into();
        Server { process, address, lines: Some(lines) }
    }

    /// One of the files here.
    pub(crate) fn script(&self, name: &str) -> Command {
        let mut command = Command::new(&self.0);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proxy/python").join(name));
        command.stdin(Stdio::null()).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

/// A server, until it is dropped.
pub(crate) struct Server {
    process: Child,
    pub(crate) address: SocketAddr,
    lines: Option<Lines<BufReader<ChildStdout>>>,
}

impl Server {
    /// The next line that it prints.
    pub(crate) async fn line(&mut self) -> String {
        let mut lines = self.lines.take().expect("nobody else reads");
        let read = tokio::task::spawn_blocking(move || (lines.next(), lines));
        let (line, lines) = within(read).await.expect("no panic");
        self.lines = Some(lines);
        line.expect("a line").expect("text")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        self.process.wait().expect("it ends");
    }
}

/// What it printed, if it ended well.
pub(crate) fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    out
}

fn make() -> io::Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    REQUIREMENTS.hash(&mut hasher);
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(tmp)?;
    let folder = tmp.join(format!("python-{:016x}", hasher.finish()));
    // Tests run side by side.
    let lock = File::create(folder.with_extension("lock"))?;
    lock.lock()?;
    let (python, done) = (folder.join("bin/python"), folder.join("installed"));
    if !done.exists() {
        let requirements = folder.with_extension("txt");
        fs::write(&requirements, REQUIREMENTS)?;
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(&requirements))?;
        File::create(done)?;
    }
    Ok(python)
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))))
}
