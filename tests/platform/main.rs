//! The whole platform as people run it: the `platform` example, real pushes, real requests, real processes.
//!
//! Run: `cargo nextest run --test platform`, after `cargo build --example platform` (a run of all tests builds it).

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod harness;

mod disk;
#[cfg(feature = "docker")]
mod docker;
mod failures;
mod https;
mod interrupts;
mod kill;
mod kinds;
mod life;
mod pushes;
mod replace;
mod secrets;
#[cfg(feature = "docker")]
mod stack;
mod steady;
mod trouble;
#[cfg(feature = "docker")]
mod volumes;
