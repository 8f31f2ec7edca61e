#![doc = include_str!("../README.md")]
//!
//! # In this crate
//!
//! The nouns, the five traits and the engine of [`paas_core`] are re-exported here; the implementations
//! stand in [`build`], [`run`] and [`addons`]. The facade has no logic of its own: [`Local`] only puts parts together.
//!
//! | feature | what it adds |
//! |---|---|
//! | `local`, `sqlite`, `process`, `proxy`, `git`, `directory`, `tarball`, `buildpack`, `postgres` | on by default: a platform on one machine, `postgres` being the add-on |
//! | `store-postgres` | [`store`]`::PostgresStore`: the engine's state in PostgreSQL, for several engines at once |
//! | `blobs-s3` | `S3Blobs`: sources and slugs in an object store, for engines on several machines |
//! | `docker` | [`build`]`::DockerfileBuilder`; [`run`]`::docker`: instances in containers, of images and of slugs; `docker::Docker` is the way to the daemon |
//! | `testkit` | conformance suites, fakes that count their effects, a store that cuts the power |

#[cfg(feature = "local")]
mod local;

#[cfg(feature = "local")]
pub use local::Local;
pub use paas_core::*;

/// Everything before an artifact exists: sources, git receive, builders.
pub mod build {
    pub use paas_build::*;
}

/// Everything after it: runtimes, the supervisor, the reverse proxy, logs.
pub mod run {
    pub use paas_run::*;
}

/// Add-on providers.
#[cfg(feature = "postgres")]
pub mod addons {
    pub use paas_addons::*;
}

/// One Docker daemon as a platform sees it.
#[cfg(feature = "docker")]
pub mod docker {
    pub use paas_docker::*;
}

/// How hostile commands are kept apart.
pub mod sandbox {
    pub use paas_sandbox::*;
}

/// The first line of `main`: this binary is started again as the helper of instances, builds and git hooks, and this is
/// where such a start does its work and ends. Anywhere else it remembers that it was called, and from then on this process
/// leaves no core dump ([`sandbox::init`]).
pub fn init() {
    paas_build::init();
    paas_run::init();
}

#[cfg(doctest)]
#[doc = include_str!("../docs/providers.md")]
mod provider_guide {}
