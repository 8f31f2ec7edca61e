//! A platform of a test's own, apps to push to it, and looking at what happens.

mod client;
mod dice;
mod gate;
mod git;
mod ground;
mod http;
mod lasting;
mod prober;
mod processes;
mod records;
mod world;

use std::time::Duration;

use tokio::time::Instant;

pub(crate) use client::Client;
pub(crate) use dice::{Dice, rounds};
pub(crate) use gate::{Gate, Says};
pub(crate) use git::{Pushing, Repo, git};
pub(crate) use ground::{Ground, Instance};
pub(crate) use http::{Connection, get};
pub(crate) use lasting::Lasting;
pub(crate) use processes::{Identity, Process, all as all_processes};
pub(crate) use world::{Running, World};

/// How long anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Looks again and again until there is something to see.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "it never came: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether this machine has a program; where it should, in CI, its lack is a failure.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    assert!(there || std::env::var_os("CI").is_none(), "{program} is missing");
    if !there {
        eprintln!("SKIPPED, it needs {program}");
    }
    there
}
