//! Starts hostile commands apart: builds, release phases and apps run code that strangers wrote.
//!
//! ```text
//! Confined + Profile --order (memory, never argv)--> helper process --puts up its own walls--> exec program
//!                                                     (this binary, started again)
//! ```
//!
//! The helper is the current binary started again, so [`init`] must be the first line of `main`; a host that does
//! not own `main` names another binary with [`Helper::at`]. It joins a control group, builds a file tree that
//! holds nothing but what the [`Profile`] names, changes to the given user, gives up all privileges for ever,
//! binds itself with landlock, and becomes the program. Everything is done by safe calls on itself.
//!
//! | wall | needs | without it |
//! |---|---|---|
//! | own user | root | programs run as the platform's user |
//! | own file tree, `/tmp`, `/proc`, `/dev` | mount namespaces | landlock alone, shared `/tmp` |
//! | files and signals out of reach | landlock | mounts and owners alone |
//! | nothing survives a stop | cgroup v2 or v1 | sessions and parents, which a daemon can leave |
//! | memory, tasks, CPU | cgroup controllers | not limited |
//!
//! What this machine can do is tried, not assumed: [`Helper::abilities`] says it, and [`Abilities::missing`] in words.
//! What was possible when it was tried must work then: a wall that fails keeps the program from starting.
//!
//! ```no_run
//! use paas_sandbox::{Confined, Helper, Profile, User};
//!
//! # async fn run() -> paas_sandbox::Result<()> {
//! paas_sandbox::init(); // the first line of main
//! let profile = Profile::new().user(Some(User::new(20_001))).bind("/srv/builds/7", "/app");
//! let mut child = Confined::new(&Helper::current()?, profile, "bash")
//!     .args(["-c", "npm ci"])
//!     .env("PATH", "/usr/bin:/bin")
//!     .current_dir("/app")
//!     .spawn()?;
//! let status = child.wait().await?;
//! # Ok(()) }
//! ```

mod abilities;
mod confined;
mod error;
mod files;
mod group;
mod helper;
pub mod procfs;
mod profile;
mod root;
mod stage;
mod toolchains;
pub mod tree;

pub use abilities::Abilities;
pub use confined::{Child, Confined};
pub use error::{Error, Result};
pub use group::Group;
pub use helper::{Helper, init};
pub use profile::{Bind, Limits, Overlay, Profile, User};
pub use stage::close_inherited_files;
pub use toolchains::Toolchains;
