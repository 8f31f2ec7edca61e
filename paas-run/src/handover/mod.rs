//! Replacing a running platform by a new process that nobody notices, such as one of a newer version.
//!
//! ```text
//! new process                               running one
//! Predecessor::ask ───── key ─────────────> Door::asked      serves users all the time
//!                  <──── sockets, lock ──── entrust
//!                                           ends what only one process may do
//!                  <──── routes, yours ──── let_go
//! opens the store, adopts, starts
//! serving ───────────── I serve ──────────>                  takes no more connections
//!                  <──── over ───────────── follow           answers those that it has, by the new one's routes
//! accepts
//! router().apply ────── routes, drain ────>                  … until they have ended
//! ```
//!
//! Listening sockets are passed as open files, so they are never closed: a connection that comes while nobody accepts
//! waits in the kernel's queue. Whoever dies on the way: until it has said that it serves, the new process can be killed
//! at any moment, and the running one takes its work back; if the running one dies, the new one goes on alone, and it
//! holds the sockets already. Never do both work: the running one makes sure that a successor that failed has ended.
//!
//! The socket lies in the platform's folder with mode 0600. Whoever asks must be the same user and show a key that is
//! kept beside it, since where the platform isn't root apps are that user too, and can't read the folder.
//!
//! | file | idea |
//! |---|---|
//! | `door`, `successor` | the side of the process that runs |
//! | `predecessor`, `router` | the side of the one that comes |
//! | `link`, `peer` | messages and open files on a socket; a process that can't be taken for another |

mod door;
mod link;
mod peer;
mod predecessor;
mod router;
mod successor;

use std::path::Path;

use paas_core::{AppName, AppRoutes, Backend, Error, ErrorCode};
use serde::{Deserialize, Serialize};

pub use door::Door;
pub use predecessor::Predecessor;
pub use successor::{Following, Successor};

/// The version of what the two processes say to each other. `Hello` and `Refused` stay as they are for ever, so that any
/// two versions can at least say that they don't understand each other.
const PROTOCOL: u32 = 1;

/// In the platform's folder.
const SOCKET: &str = "handover.sock";
const KEY: &str = "handover.key";

/// What the two processes say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum Message {
    /// From the new one: first of all.
    Hello { protocol: u32, key: String },
    /// The end of the conversation.
    Refused { code: ErrorCode, why: String },
    /// These open files come with it.
    Welcome { files: Vec<String> },
    /// How requests are routed.
    Route { routes: AppRoutes },
    /// There is nothing more that only one process may do.
    LetGo,
    /// From the new one: it is ready to accept connections.
    Serving,
    /// No more connections are accepted.
    Over,
    /// From the new one: requests on the connections that are left go here.
    Apply { id: u64, routes: AppRoutes },
    /// From the new one: how many requests are left after this time?
    Drain { id: u64, app: AppName, backends: Vec<Backend>, millis: u64 },
    /// That was done.
    Done { id: u64, left: u64 },
}

fn failed(doing: &str, folder: &Path, error: std::io::Error) -> Error {
    Error::from_io(format!("can't {doing} in {}", folder.display()), error)
}

fn unavailable(what: impl Into<String>) -> Error {
    Error::new(ErrorCode::Unavailable, what.into())
}
