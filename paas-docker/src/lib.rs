//! One Docker daemon as a platform sees it: how it is reached, what is ours on it, and its errors in our words.
//!
//! ```text
//! paas-build  dockerfile, image ──┐
//! paas-run    docker            ──┼──> Docker { client, platform } ──unix socket──> daemon
//! paas-addons postgres          ──┘
//! ```
//!
//! The provider crates never depend on each other; what they share of Docker is here. Everything that any of them makes
//! on the daemon carries [`label::PLATFORM`], so that two platforms on one daemon never touch each other's things, nor
//! those that people made by hand: see [`Docker::ours`].
//!
//! Podman's socket that speaks Docker's API is reached in the same way.
//!
//! What is sent to the daemon holds config vars, and the client logs each request at the level `debug` of the `log`
//! crate under the target `bollard`: whoever turns that into a log of their own leaves that target out.

mod ask;
mod connect;
mod errors;
mod follow;
mod frames;
pub mod label;
mod network;
mod platform;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use ask::{Answer, Body, away, nothing};
pub use bollard;
pub use connect::{Docker, DockerConfig};
pub use errors::failed;
pub use follow::Happened;
pub use frames::unframed;
pub use network::Subnets;
pub use platform::PlatformName;
