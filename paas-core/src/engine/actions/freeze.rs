//! Nothing new goes live for a while: for a holiday, a migration, an incident.

use crate::engine::Engine;
use crate::engine::freeze::{end_platform_freeze, put_platform_freeze};
use crate::engine::ledger::Ledger;
use crate::store::Transaction;
use crate::{AppName, ErrorCode, EventKind, Freeze, Principal, Result, Scope};

impl Engine {
    /// Freezes an app or the whole platform: from now on deploys, rollbacks and changes of config vars are refused with
    /// `frozen`, which says who froze it, when and why. What runs ends as it should; a deploy or rollback that still
    /// waits for its turn, or for an answer, is refused when that comes. Scaling, add-ons, domains, maintenance mode and
    /// destroying stay possible. It lasts until [`Engine::unfreeze`], on every engine and through every restart.
    ///
    /// Returns the freeze that is in force: where there was one already, that one.
    ///
    /// # Errors
    /// `forbidden` where an access is set up and doesn't let `by` repair; `not_found` for the app.
    pub async fn freeze(&self, scope: &Scope, why: &str, by: &Principal) -> Result<Freeze> {
        self.may_repair(scope, by).await?;
        let inner = &self.inner;
        let freeze =
            Freeze { scope: scope.clone(), by: by.clone(), at: inner.clock.now(), why: why.to_owned() };
        let event = EventKind::Frozen { by: by.clone(), why: why.to_owned() };
        match scope {
            Scope::App(app) => {
                self.change(app, |_, app| {
                    let is_new = app.frozen.is_none();
                    app.frozen.get_or_insert_with(|| freeze.clone());
                    Ok((is_new.then(|| event.clone()).into_iter().collect(), None))
                })
                .await?;
            }
            Scope::Platform => {
                if inner.platform_freeze().await?.is_none() {
                    let mut tx = Transaction::new().write(put_platform_freeze(&freeze)?);
                    Ledger::note(&mut tx, &inner.ledger.event(None, None, event))?;
                    match inner.store.commit(tx).await {
                        // Somebody else froze it meanwhile.
                        Err(error) if error.code() == ErrorCode::Conflict => {}
                        done => drop(done?),
                    }
                }
            }
        }
        // Another one's, or, if it was ended meanwhile, the one that was.
        Ok(self.own_freeze(scope).await?.unwrap_or(freeze))
    }

    /// Ends a freeze and returns it; `None` where nothing was frozen. An app that is frozen itself stays so when the
    /// platform's freeze ends, and the other way round.
    ///
    /// # Errors
    /// As [`Engine::freeze`].
    pub async fn unfreeze(&self, scope: &Scope, by: &Principal) -> Result<Option<Freeze>> {
        self.may_repair(scope, by).await?;
        let inner = &self.inner;
        let ended = self.own_freeze(scope).await?;
        if ended.is_none() {
            return Ok(None);
        }
        let event = EventKind::Unfrozen { by: by.clone() };
        match scope {
            Scope::App(app) => {
                self.change(app, |_, app| {
                    let was = app.frozen.take();
                    Ok((was.map(|_| event.clone()).into_iter().collect(), None))
                })
                .await?;
            }
            Scope::Platform => {
                if let Some((rev, _)) = inner.platform_freeze().await? {
                    let mut tx = Transaction::new().write(end_platform_freeze(rev));
                    Ledger::note(&mut tx, &inner.ledger.event(None, None, event))?;
                    match inner.store.commit(tx).await {
                        // Somebody else ended it meanwhile.
                        Err(error) if error.code() == ErrorCode::Conflict => {}
                        done => drop(done?),
                    }
                }
            }
        }
        Ok(ended)
    }

    /// The freeze that an app is under, its own or the platform's.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn frozen(&self, app: &AppName) -> Result<Option<Freeze>> {
        self.inner.freeze_of(app).await
    }

    async fn own_freeze(&self, scope: &Scope) -> Result<Option<Freeze>> {
        match scope {
            Scope::App(app) => Ok(self.inner.ledger.app(app).await?.value.frozen),
            Scope::Platform => Ok(self.inner.platform_freeze().await?.map(|(_, freeze)| freeze)),
        }
    }
}
