//! Containers on a real Docker daemon.

#![allow(clippy::unwrap_used, clippy::match_wild_err_arm, reason = "a test ends by panicking")]

mod conformance;
mod deaths;
mod housekeeping;
mod life;
mod output;
mod support;
mod trouble;
mod walls;
#[path = "../world/mod.rs"]
mod world;
