//! Engines on one PostgreSQL store, and proxies that follow its routes: with users' requests throughout.
#![allow(missing_docs, clippy::unwrap_used, clippy::large_futures)]

#[path = "../world/mod.rs"]
mod world;

mod follow;
mod machines;
mod nodes;
mod platform;
mod rolling;
