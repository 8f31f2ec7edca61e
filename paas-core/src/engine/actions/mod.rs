//! What people and tools ask of a platform. Every call that is acknowledged is durable.

mod addon;
mod app;
mod freeze;
mod key;
mod node;
mod orders;
mod release;
mod repair;
mod volume;
mod workflow;

use serde::Serialize;

pub use self::key::KeyState;
pub use self::orders::{AddonOrder, ConfigEdit, DeployOrder, RollbackOrder};
pub use self::volume::Volume;
use super::kinds::kind_name;
use super::ledger::{Ledger, Stored, put_app};
use super::submit::Order;
use super::{Engine, Inner, WorkflowHandle};
use crate::store::{Expect, Transaction, Write};
use crate::{
    Action, App, AppName, Error, ErrorCode, EventKind, Principal, Result, Scope, Subject, WorkflowId,
};

impl Engine {
    async fn change(
        &self,
        app: &AppName,
        change: impl Fn(&Inner, &mut App) -> Result<(Vec<EventKind>, Option<Order>)> + Sync,
    ) -> Result<(Self, Option<WorkflowId>)> {
        let changed = self.change_with(app, |inner, app| {
            let (events, order) = change(inner, app)?;
            Ok((Vec::new(), events, order))
        });
        changed.await
    }

    /// Whether somebody may put this right: for operators, who are asked for here and not only at the edges.
    async fn may_repair(&self, scope: &Scope, by: &Principal) -> Result<()> {
        let Inner { guarded, access, .. } = &*self.inner;
        match scope {
            _ if !guarded => Ok(()),
            Scope::App(app) => access.authorize(by, Action::Repair, app).await,
            Scope::Platform => access.authorize_platform(by, Action::Repair).await,
        }
    }

    /// Changes an app's row, with whatever goes with it, against others who change it at the same time.
    async fn change_with(
        &self,
        name: &AppName,
        change: impl Fn(&Inner, &mut App) -> Result<(Vec<Write>, Vec<EventKind>, Option<Order>)> + Sync,
    ) -> Result<(Self, Option<WorkflowId>)> {
        let inner = &self.inner;
        let mut pause = std::time::Duration::from_millis(1);
        for _ in 0..inner.options.max_conflicts {
            let Stored { rev, value: mut app } = inner.ledger.app(name).await?;
            if app.destroying {
                let what = format!("the app {name} is being destroyed");
                return Err(Error::new(ErrorCode::Conflict, what));
            }
            let (writes, events, order) = change(inner, &mut app)?;
            let mut tx = Transaction::new().write(put_app(&app, Expect::Rev(rev))?);
            tx.writes.extend(writes);
            for event in events {
                Ledger::note(&mut tx, &inner.ledger.event(Some(name), None, event))?;
            }
            let workflow = match order {
                Some(order) => {
                    if inner.makes_releases(&order.kind) {
                        if let Some(freeze) = &app.frozen {
                            return Err(freeze.refusal());
                        }
                        inner.unless_platform_is_frozen(&mut tx).await?;
                    }
                    Some(inner.order(&mut tx, order).await?)
                }
                None => None,
            };
            match inner.store.commit(tx).await {
                Ok(_) => return Ok((self.clone(), workflow)),
                Err(error) if error.code() == ErrorCode::Conflict => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(std::time::Duration::from_millis(100));
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorCode::Conflict, format!("others kept changing the app {name}; try again")))
    }
}

fn order_for(app: &App, kind: &'static str, input: &impl Serialize, by: &Principal) -> Result<Order> {
    Order::new(kind_name(kind), Subject::App(app.name.clone()), input, by)
}

fn handle((engine, workflow): (Engine, Option<WorkflowId>)) -> Result<WorkflowHandle> {
    let nothing = || Error::new(ErrorCode::Internal, "a change that needs a workflow made none");
    workflow.map(|id| engine.workflow(id)).ok_or_else(nothing)
}
