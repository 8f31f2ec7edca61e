//! What builds with Docker, on a real daemon.

#![allow(clippy::unwrap_used, reason = "tests")]

mod builds;
mod conformance;
mod images;
mod packs;
#[path = "../buildpack/world.rs"]
mod packs_world;
mod registry;
mod secrets;
mod world;
