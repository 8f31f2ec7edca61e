//! A real Docker daemon for tests: its own data, socket, processes and network, and nothing left of it afterwards.
//!
//! ```text
//! TestDaemon::shared()   the one that PAAS_TEST_DOCKER names (`cargo xtask test` starts it for the whole run),
//!                        or one that lives as long as this
//! TestDaemon::own(..)    always one that lives as long as this: to be killed, filled up, restarted
//!     .image(BaseImage)  made of this machine's own programs, since tests reach no registry
//! ```
//!
//! It needs root, `dockerd`, `ip` and `iptables`. The machine's own daemon is neither used nor disturbed.

mod daemon;
mod images;
mod leftovers;
mod network;

pub use daemon::{DaemonOptions, TestDaemon};
pub use images::BaseImage;
