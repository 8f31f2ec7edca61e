//! The `postgres` add-on on real servers.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod conformance;
#[cfg(feature = "docker")]
mod dedicated;
mod half_made;
mod isolation;
mod managed;
mod rotate;
mod secrets;
mod support;
mod takeover;
mod tls;
