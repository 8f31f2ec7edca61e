//! One Docker daemon for all tests of a run: starting one takes a second, filling it with images some more.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::run::cargo;

/// How the line begins by which the daemon says where it is.
const SAYS: &str = "export PAAS_TEST_DOCKER=";

/// A daemon that lives as long as this.
pub(crate) struct Daemon {
    process: Child,
    host: String,
}

impl Daemon {
    /// Starts one with its data in this folder. `None`, said aloud, where there can't be one: the tests that need it
    /// then try for themselves, and say why they can't.
    pub(crate) fn start(root: &Path, folder: &Path) -> Option<Self> {
        println!("starting a Docker daemon for the tests");
        // With the features of everything else, so that nothing is compiled twice.
        let build = ["build", "--quiet", "--workspace", "--all-features", "--example", "test_daemon"];
        if !cargo(root, &build).run() {
            return None;
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        let mut command = Command::new(target.join("debug/examples/test_daemon"));
        command.env("TMPDIR", folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().ok()?;
        let mut line = String::new();
        let said = process.stdout.take().map(|output| BufReader::new(output).read_line(&mut line));
        let host = line.trim_end().strip_prefix(SAYS).filter(|_| matches!(said, Some(Ok(_))));
        let Some(host) = host.map(str::to_owned) else {
            println!("there is no Docker daemon for the tests");
            // It said why, and has ended or is about to.
            let _ = process.wait();
            return None;
        };
        Some(Self { process, host })
    }

    /// Where it listens.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The end of its input ends it, and all that it started.
        drop(self.process.stdin.take());
        if !self.process.wait().is_ok_and(|status| status.success()) {
            println!("the Docker daemon for the tests did not end well");
        }
    }
}
