//! Apps whose processes live on one node: their work is done there, and nobody pretends to see them from elsewhere.

use std::time::Duration;

use super::{Inner, presence};
use crate::engine::ledger::{Ledger, put_workflow};
use crate::store::{Expect, Transaction};
use crate::{
    App, AppName, AppRoutes, ErrorCode, EventKind, NodeName, Principal, Result, RouteState, Subject,
};

/// How long work is left to the engines of its node, before anybody else looks whether they are there still.
const LEFT_TO_OTHERS: Duration = Duration::from_millis(100);

/// What only another node can go on with.
pub(crate) struct Elsewhere {
    pub(crate) why: String,
    /// When to look again.
    pub(crate) after: Duration,
}

impl Inner {
    /// The node that an app's processes are on, where they can't be reached from here.
    pub(crate) fn home_elsewhere<'a>(&self, app: &'a App) -> Option<&'a NodeName> {
        let here = self.runtime.node()?;
        app.node.as_ref().filter(|home| *home != here)
    }

    /// Whether an engine of this node is there.
    pub(crate) async fn is_there(&self, node: &NodeName) -> Result<bool> {
        Ok(presence::engines(self).await?.iter().any(|engine| engine.node.as_ref() == Some(node)))
    }

    /// Why an app's processes can't be seen from here.
    pub(crate) async fn elsewhere(&self, app: &App) -> Result<Option<Elsewhere>> {
        let Some(home) = self.home_elsewhere(app) else { return Ok(None) };
        Ok(Some(if self.is_there(home).await? {
            Elsewhere {
                why: format!("the engines of {home}, where its processes are"),
                after: LEFT_TO_OTHERS,
            }
        } else {
            let why = format!(
                "{home}, where its processes are and of which no engine is there: start it, or move_here"
            );
            Elsewhere { why, after: self.options.max_backoff }
        }))
    }

    /// What is known of the routes to a node that can't be seen from here: what its own engines wrote.
    pub(crate) fn routes_elsewhere(app: &App, stored: Option<&AppRoutes>, routes: &mut AppRoutes) {
        let Some(stored) = stored.filter(|stored| stored.app_id == app.id) else { return };
        routes.version = stored.version;
        routes.backends.clone_from(&stored.backends);
        routes.state = match stored.state {
            _ if app.maintenance => RouteState::Maintenance,
            _ if app.paused => RouteState::Paused,
            RouteState::Maintenance | RouteState::Paused => RouteState::Serving,
            state => state,
        };
    }

    /// What was held for its node is claimed at once.
    pub(crate) async fn let_go(&self, app: &AppName) -> Result<()> {
        for (stored, _) in self.ledger.open_workflows(&Subject::App(app.clone())).await? {
            let mut next = stored.value;
            if next.held.take().is_none() || next.not_before.take().is_none() {
                continue;
            }
            let mut tx = Transaction::new().write(put_workflow(&next, Expect::Rev(stored.rev))?);
            let moved = EventKind::RetryRequested { by: Principal::platform() };
            Ledger::note(&mut tx, &self.ledger.event(Some(app), Some(next.id), moved))?;
            match self.store.commit(tx).await {
                // Somebody has it already.
                Err(error) if error.code() == ErrorCode::Conflict => {}
                done => drop(done?),
            }
        }
        Ok(())
    }
}
