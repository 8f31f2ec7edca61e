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
//! | [`Builder`](paas_core::Builder) | [`BuildpackBuilder`]: Heroku's classic buildpack API | `buildpack` |
//!
//! Code and buildpacks are hostile: they run as a user of their own in a sandbox, see neither the platform's files nor another
//! app's, and nothing they name is followed out of their folder.

pub mod app_json;
#[cfg(feature = "buildpack")]
mod buildpack;
mod file;
pub mod procfile;
#[cfg(any(feature = "directory", feature = "git", feature = "tarball"))]
mod source;

#[cfg(feature = "buildpack")]
pub use buildpack::{BuildpackBuilder, BuildpackConfig};
#[cfg(feature = "directory")]
pub use source::directory::DirectorySource;
#[cfg(feature = "git")]
pub use source::git::GitSource;
#[cfg(feature = "tarball")]
pub use source::tarball::TarballSource;
