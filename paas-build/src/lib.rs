//! Everything before an artifact exists: sources bring code here, builders make an artifact of it.
//!
//! ```text
//!  git URL, tarball, directory         bin/detect -> bin/compile -> bin/release, in a sandbox
//!             |                                          |
//!          Source  ->  Checkout (a folder)  ->        Builder  ->  Artifact (a slug in Blobs)
//!             |             |
//!             |             +-- Procfile, app.json: what the app says about itself
//!             +-- .gitignore, .slugignore: what never gets here
//! ```
//!
//! | trait | implementation | feature |
//! |---|---|---|
//! | [`Source`](paas_core::Source) | [`DirectorySource`]: a folder of this machine | `directory` |
//! | [`Source`](paas_core::Source) | [`TarballSource`]: a file or an http(s) URL | `tarball` |
//! | [`Source`](paas_core::Source) | [`GitSource`]: a commit of a repository | `git` |
//! | [`Source`](paas_core::Source) | [`ImageSource`]: an image of a registry, pinned to its digest | `docker` |
//! | [`Builder`](paas_core::Builder) | [`BuildpackBuilder`]: Heroku's classic buildpack API | `buildpack` |
//! | [`Builder`](paas_core::Builder) | [`DockerfileBuilder`]: the app's own `Dockerfile`, by a Docker daemon | `docker` |
//! | [`Builder`](paas_core::Builder) | [`ImageBuilder`]: what the source `image` has pinned | `docker` |
//!
//! [`GitReceive`] receives `git push` and runs the deploy inside it: the push is accepted if and only if its release
//! went live.
//!
//! Code and buildpacks are hostile: they run as a user of their own in a sandbox, see neither the platform's files nor another
//! app's, and nothing they name is followed out of their folder.

pub mod app_json;
#[cfg(feature = "buildpack")]
mod buildpack;
#[cfg(feature = "docker")]
mod docker;
#[cfg(feature = "docker")]
mod dockerfile;
mod file;
/// Entries for fuzzing, no part of the interface.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::buildpack::fuzzing::*;
    pub use crate::receive::fuzzing::*;
}
#[cfg(feature = "docker")]
mod image;
pub mod procfile;
#[cfg(feature = "git")]
mod receive;
#[cfg(any(feature = "directory", feature = "git", feature = "tarball"))]
mod source;

#[cfg(feature = "buildpack")]
pub use buildpack::{BuildpackBuilder, BuildpackConfig};
#[cfg(feature = "docker")]
pub use docker::registries::Registries;
#[cfg(feature = "docker")]
pub use dockerfile::{DockerfileBuilder, DockerfileConfig};
#[cfg(feature = "docker")]
pub use image::{ImageBuilder, ImageReference, ImageSource};
#[cfg(feature = "git")]
pub use receive::{GitReceive, GitRepos, ReceiveBody, ReceiveOptions};
#[cfg(feature = "directory")]
pub use source::directory::DirectorySource;
#[cfg(feature = "git")]
pub use source::git::GitSource;
#[cfg(feature = "tarball")]
pub use source::tarball::TarballSource;

/// Serves as git's hook if this process was started as one, and never returns then. Otherwise it does nothing.
///
/// Call it as the first line of `main`, beside the other crates' `init`.
pub fn init() {
    #[cfg(feature = "git")]
    receive::hook::serve_if_called();
}
