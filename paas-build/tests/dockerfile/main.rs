//! The `dockerfile` builder on a real daemon.

#![allow(clippy::unwrap_used, reason = "tests")]

mod builds;
mod conformance;
mod secrets;
mod world;
