//! A new master key, online: announced, known to all, switched to, and then everything wrapped with it.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::engine::kind::{Changes, Moment, Step, StepCall, StepOutput};
use crate::engine::kinds::Platform;
use crate::engine::ledger::{Ledger, decode, encode, put_app};
use crate::engine::{Inner, presence};
use crate::store::{Expect, Fence, ListQuery, Table, Transaction, Write};
use crate::vault::{self, KeyOwner, WrappedKey};
use crate::{App, Error, ErrorCode, EventKind, Result, Retry};

/// How many apps are wrapped in one transaction.
const PAGE: usize = 50;

/// What the rotation was asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeyInput {
    /// The id of the key to move to.
    pub(crate) to: String,
}

/// announce: from now on no engine starts that doesn't know the new key.
#[derive(Debug)]
pub(crate) struct Announce;

#[async_trait]
impl Step for Announce {
    async fn run(&self, _: &StepCall) -> Result<StepOutput> {
        Ok(StepOutput::done())
    }

    fn has_undo(&self) -> bool {
        true
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let body = encode(&call.input::<KeyInput>()?.to)?;
        Ok(match moment {
            Moment::Intent | Moment::Left => Changes::none(),
            Moment::Done(_) => {
                Changes::none().write(Write::put(Table::Platform, vault::NEXT_ROW, "", Expect::Any, body))
            }
            Moment::Undone => {
                Changes::none().write(Write::delete(Table::Platform, vault::NEXT_ROW, Expect::Any))
            }
        })
    }
}

/// agree: every engine that is there knows it.
#[derive(Debug)]
pub(crate) struct Agree(pub(crate) Platform);

#[async_trait]
impl Step for Agree {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let (inner, to) = (self.0.get()?, call.input::<KeyInput>()?.to);
        inner.vault.reload()?;
        presence::announce(&inner).await?;
        let engines = presence::engines(&inner).await?;
        let lacking: Vec<_> = engines.into_iter().filter(|engine| !engine.known.contains(&to)).collect();
        if lacking.is_empty() {
            return Ok(StepOutput::done());
        }
        let lacking: Vec<_> = lacking.iter().map(|engine| engine.at.as_str()).collect();
        // Its file may just have been given to it: it looks every few seconds.
        let what = format!(
            "the engine on {} doesn't know the master key {to} yet: put it on top of the key file there, and rotate again",
            lacking.join(", ")
        );
        Err(Error::new(ErrorCode::WrongKey, what).with_retry(Retry::Backoff))
    }
}

/// switch: the platform's own key is wrapped with it, which tells all engines what to seal with.
#[derive(Debug)]
pub(crate) struct Switch(pub(crate) Platform);

#[async_trait]
impl Step for Switch {
    async fn run(&self, _: &StepCall) -> Result<StepOutput> {
        Ok(StepOutput::done())
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Done(_) = moment else { return Ok(Changes::none()) };
        let (inner, to) = (self.0.get()?, call.input::<KeyInput>()?.to);
        let row = inner.store.get(Table::Platform, vault::ROW).await?;
        let row = row.ok_or_else(|| Error::new(ErrorCode::Corrupt, "the platform's own key is gone"))?;
        let wrapped: WrappedKey = decode(&row, "the platform's key")?;
        let changes = Changes::none();
        Ok(match inner.vault.rewrap(KeyOwner::Platform, &wrapped, &to)? {
            Some(new) => changes.write(vault::put_row(&new, Expect::Rev(row.rev))),
            None => changes,
        })
    }
}

/// settle: every engine that is there seals with it.
#[derive(Debug)]
pub(crate) struct Followed(pub(crate) Platform);

#[async_trait]
impl Step for Followed {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let (inner, to) = (self.0.get()?, call.input::<KeyInput>()?.to);
        presence::follow(&inner).await?;
        let engines = presence::engines(&inner).await?;
        Ok(match engines.iter().find(|engine| engine.sealing != to) {
            Some(behind) => {
                let why = format!("the engine on {} to seal with the new key", behind.at);
                StepOutput::again((inner.options.lease / 4).max(Duration::from_millis(1)), why)
            }
            None => StepOutput::done(),
        })
    }
}

/// rewrap: every app's key, page by page. What is done stays done, whoever goes on.
#[derive(Debug)]
pub(crate) struct Rewrap(pub(crate) Platform);

#[async_trait]
impl Step for Rewrap {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let (inner, to) = (self.0.get()?, call.input::<KeyInput>()?.to);
        let mut query = ListQuery::all().limit(PAGE);
        loop {
            call.ctx.cancel.check()?;
            let rows = inner.store.list(Table::Apps, &query).await?;
            let Some(last) = rows.last() else { break };
            let last = last.key.clone();
            let apps = rows.iter().map(|row| Ok((row.rev, decode::<App>(row, "the app")?)));
            match inner.rewrap(call, &to, apps.collect::<Result<Vec<_>>>()?).await {
                Ok(()) => query = query.after(last),
                // An app was changed meanwhile: this page again, of which nothing was written.
                Err(error) if error.code() == ErrorCode::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(StepOutput::done())
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Moment::Done(_) = moment else { return Ok(Changes::none()) };
        let key = call.input::<KeyInput>()?.to;
        let announced = Write::delete(Table::Platform, vault::NEXT_ROW, Expect::Any);
        Ok(Changes::none().write(announced).event(EventKind::KeyRotated { key }))
    }
}

impl Inner {
    /// Wraps the keys of these apps that aren't yet, in one transaction with its event, under the claim.
    async fn rewrap(&self, call: &StepCall, to: &str, apps: Vec<(u64, App)>) -> Result<()> {
        let fence = Fence::new(call.workflow.id, self.owner, call.ctx.fence);
        let mut tx = Transaction::new().fenced(fence);
        for (rev, mut app) in apps {
            if let Some(new) = self.vault.rewrap(KeyOwner::App(app.id), &app.key, to)? {
                app.key = new;
                tx = tx.write(put_app(&app, Expect::Rev(rev))?);
            }
        }
        let apps = tx.writes.len() as u64;
        if apps == 0 {
            return Ok(());
        }
        let done = EventKind::KeysRewrapped { apps };
        Ledger::note(&mut tx, &self.ledger.event(None, Some(call.workflow.id), done))?;
        call.ctx.log.line(format!("{apps} apps' keys are wrapped with the new master key"));
        self.store.commit(tx).await.map(drop)
    }
}
