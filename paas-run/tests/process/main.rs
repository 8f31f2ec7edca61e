//! Local processes, seen from outside and from inside, with the engine killed where it hurts.

#![allow(clippy::unwrap_used, clippy::match_wild_err_arm, reason = "a test ends by panicking")]

#[path = "../world/mod.rs"]
mod world;

mod deaths;
mod health;
mod life;
mod support;
mod walls;
