//! A bridge for the containers of one daemon, and the packet filter as it was before.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use paas_core::{Error, Result, blocking};

use super::daemon::unavailable;

const BRIDGE: &str = "paas-tests";
/// The bridge's address, and the range of which networks get their subnets.
const ADDRESS: &str = "10.213.0.1/24";
const POOL: &str = "base=10.214.0.0/16,size=24";
/// Held by the one daemon with a network that the machine has at a time.
const LOCK: &str = "/run/lock/paas-test-docker";
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// The network of one daemon; dropping it brings back what was there.
#[derive(Debug)]
pub(super) struct Network {
    rules: Vec<u8>,
    forward: String,
    /// Daemons change each other's rules, so there is one at a time.
    _lock: File,
}

impl Network {
    pub(super) async fn make() -> Result<Self> {
        blocking(|| {
            if let Some(pid) = machines_daemon() {
                return Err(unavailable(&format!(
                    "this machine's own Docker daemon (process {pid}) would lose its packet filter rules: stop it, \
                     or name one for tests in PAAS_TEST_DOCKER"
                )));
            }
            let failed = |e| Error::from_io("can't wait for another Docker daemon for tests", e);
            let lock = File::create(LOCK).map_err(failed)?;
            if lock.try_lock().is_err() {
                eprintln!("waiting for another Docker daemon for tests on this machine to end ({LOCK})");
                lock.lock().map_err(failed)?;
            }
            let forward = fs::read_to_string(FORWARD).unwrap_or_default();
            // One that a killed test left.
            let _ = ip(&["link", "delete", BRIDGE]);
            let rules = Command::new("iptables-save").stdin(Stdio::null()).output();
            let rules = rules.ok().filter(|saved| saved.status.success());
            let rules = rules.ok_or_else(|| unavailable("iptables-save fails, or is not installed"))?.stdout;
            let network = Self { rules, forward, _lock: lock };
            for arguments in [
                &["link", "add", "name", BRIDGE, "type", "bridge"][..],
                &["address", "add", ADDRESS, "dev", BRIDGE],
                &["link", "set", BRIDGE, "up"],
            ] {
                if !ip(arguments) {
                    return Err(unavailable(&format!("`ip {}` fails", arguments.join(" "))));
                }
            }
            Ok(network)
        })
        .await
    }

    /// Tells a daemon to use it.
    #[allow(clippy::unused_self, reason = "only a network that was made can be used")]
    pub(super) fn show(&self, dockerd: &mut Command) {
        dockerd.args(["--bridge", BRIDGE, "--default-address-pool", POOL]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if !ip(&["link", "delete", BRIDGE]) {
            eprintln!("the bridge {BRIDGE} can't be removed");
        }
        if let Err(e) = restore(&self.rules).and_then(|()| fs::write(FORWARD, &self.forward)) {
            eprintln!("the packet filter can't be brought back: {e}");
        }
    }
}

fn restore(rules: &[u8]) -> std::io::Result<()> {
    let mut child = Command::new("iptables-restore").stdin(Stdio::piped()).spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A table that was not in use then is empty again.
        for table in ["nat", "filter"] {
            let there = format!("*{table}\n");
            if !rules.windows(there.len()).any(|part| part == there.as_bytes()) {
                writeln!(input, "*{table}\nCOMMIT")?;
            }
        }
        input.write_all(rules)?;
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(std::io::Error::other(status.to_string())) }
}

pub(super) fn ip(arguments: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The process of a daemon in the usual place.
fn machines_daemon() -> Option<String> {
    let pid = fs::read_to_string("/run/docker.pid").ok()?.trim().to_owned();
    Path::new("/proc").join(&pid).exists().then_some(pid)
}
