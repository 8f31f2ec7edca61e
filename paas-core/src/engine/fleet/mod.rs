//! Any number of proxies on any machines, which follow the routes of the store.
//!
//! ```text
//! engine: routes + event --commit--> store --events--> RouteFollower: apply to its router, write down up to where
//!         FleetRouter::apply waits <-- every follower with a lease is that far, or its lease has ended
//! ```
//!
//! A follower that can't keep its lease, or can't keep up, uses its routes no longer than the lease: its router was told
//! until when. So once [`FleetRouter`] says that routes are applied, no proxy sends anything by older ones, whatever
//! became of it, and old instances can end.

mod follower;
mod router;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::follower::RouteFollower;
pub use self::router::FleetRouter;
use crate::{AppName, EventKind};

/// What a follower says of itself, in a row of [`Table::Platform`](crate::store::Table::Platform) below this parent. It
/// counts while the follower holds the lease of the row's key.
const PARENT: &str = "follower";

/// One follower.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Follower {
    /// Where it runs, for people.
    at: String,
    /// The place of the event up to which it has applied all routes.
    place: u64,
    /// Requests in flight at backends that routes up to there took away, by app.
    draining: BTreeMap<AppName, u64>,
}

/// Whether an event tells of new routes.
fn is_news(kind: &EventKind) -> bool {
    matches!(kind, EventKind::ReleaseLive { .. } | EventKind::RoutesChanged { .. })
}
