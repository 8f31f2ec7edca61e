//! What makes a release: deploys, rollbacks, config and scale.

use std::collections::BTreeMap;

use super::{ConfigEdit, DeployOrder, RollbackOrder, handle, order_for};
use crate::engine::kinds::{CONFIGURE, DEPLOY, DeployInput, HeadInput, ROLLBACK, RollbackInput, SCALE};
use crate::engine::{Engine, WorkflowHandle};
use crate::{
    App, AppName, ConfigKey, Error, ErrorCode, EventKind, Principal, ProcessType, ReleaseState, Result,
    Scale, Version,
};

impl Engine {
    /// Deploys code: fetch, build, release, run, route.
    ///
    /// # Errors
    /// `not_found` for the app; `frozen` during a freeze of it or of the platform.
    pub async fn deploy(&self, app: &AppName, order: DeployOrder, by: &Principal) -> Result<WorkflowHandle> {
        self.change(app, |_, stored| {
            let (source, description) = (order.source.clone(), order.description.clone());
            let input = DeployInput { app_id: stored.id, source, description };
            let mut workflow = order_for(stored, DEPLOY, &input, by)?;
            workflow.turn = order.turn;
            Ok((Vec::new(), Some(workflow)))
        })
        .await
        .and_then(handle)
    }

    /// Makes a release of an older one's artifact and config.
    ///
    /// # Errors
    /// `not_found` for app or release; `invalid_params` for a release that never went live; `frozen`.
    pub async fn rollback(
        &self,
        app: &AppName,
        order: RollbackOrder,
        by: &Principal,
    ) -> Result<WorkflowHandle> {
        let stored = self.inner.ledger.app(app).await?.value;
        let to = match order.to {
            Some(version) => version,
            None => self.previous_version(&stored).await?,
        };
        let release = self.inner.ledger.release(&stored, to).await?.value;
        if release.state != ReleaseState::Succeeded {
            let what = format!(
                "{app} can't go back to {to}: that release {}",
                match release.state {
                    ReleaseState::Failed => "failed",
                    ReleaseState::Pending | ReleaseState::Succeeded => "isn't live yet",
                }
            );
            return Err(Error::new(ErrorCode::InvalidParams, what));
        }
        self.inner.keep_artifact(&release.artifact, format_args!("{app} {to}")).await?;
        self.change(app, |_, stored| {
            let input = RollbackInput { app_id: stored.id, to, keep_config: order.keep_config };
            Ok((Vec::new(), Some(order_for(stored, ROLLBACK, &input, by)?)))
        })
        .await
        .and_then(handle)
    }

    async fn previous_version(&self, app: &App) -> Result<Version> {
        let live = app.live.as_ref().map(|live| live.version);
        let releases = self.inner.ledger.releases(app.id, None).await?;
        let older = releases.iter().find(|r| r.state == ReleaseState::Succeeded && Some(r.version) < live);
        let nothing =
            || Error::new(ErrorCode::NotFound, format!("{} has no older release to go back to", app.name));
        older.map(|release| release.version).ok_or_else(nothing)
    }

    /// Changes config vars: at once in the app's head, and by a new release where one is live.
    ///
    /// # Errors
    /// `invalid_params` for names that belong to the platform or to an add-on; `limit_exceeded`; `frozen`: then the head
    /// stays as it was, too.
    pub async fn configure(&self, app: &AppName, edit: ConfigEdit, by: &Principal) -> Result<WorkflowHandle> {
        let keys: Vec<ConfigKey> = edit.set.keys().cloned().chain(edit.unset.iter().cloned()).collect();
        if let Some(key) = keys.iter().find(|key| key.is_reserved()) {
            let what = format!("the platform itself sets {key} for every process; choose another name");
            return Err(Error::new(ErrorCode::InvalidParams, what));
        }
        let stored = self.inner.ledger.app(app).await?.value;
        for attachment in &stored.head.attachments {
            let addon = self.inner.ledger.addon(attachment.addon).await?;
            let given = addon.as_ref().and_then(|a| keys.iter().find(|key| a.value.vars.contains_key(*key)));
            if let Some(key) = given {
                let what =
                    format!("{key} comes from the add-on attached as {}; detach that first", attachment.name);
                return Err(Error::new(ErrorCode::InvalidParams, what));
            }
        }
        let description = describe(&edit);
        self.change(app, |inner, app| {
            let key = inner.vault.app_key(app.id, &app.key)?;
            let mut all = key.open_vars(&app.head.config)?;
            all.extend(edit.set.clone());
            for gone in &edit.unset {
                all.remove(gone);
            }
            all.check_size()?;
            app.head.config.extend(key.seal_vars(&edit.set)?);
            app.head.config.retain(|key, _| !edit.unset.contains(key));
            app.head.rev += 1;
            let input = HeadInput { app_id: app.id, description: description.clone() };
            let changed = EventKind::ConfigChanged { keys: keys.clone(), by: by.clone() };
            Ok((vec![changed], Some(order_for(app, CONFIGURE, &input, by)?)))
        })
        .await
        .and_then(handle)
    }

    /// Changes how many of each process type run.
    ///
    /// # Errors
    /// `invalid_params` for a type that the live release doesn't have, and for more than one of a type that holds a volume.
    pub async fn scale(
        &self,
        app: &AppName,
        formation: BTreeMap<ProcessType, Scale>,
        by: &Principal,
    ) -> Result<WorkflowHandle> {
        let stored = self.inner.ledger.app(app).await?.value;
        if let Some(live) = &stored.live {
            let release = self.inner.ledger.release(&stored, live.version).await?.value;
            if let Some(unknown) =
                formation.keys().find(|p| p.is_release() || release.artifact.processes.get(p).is_none())
            {
                let known: Vec<_> = release.artifact.processes.iter().map(|(p, _)| p.as_str()).collect();
                let what =
                    format!("{app} has no process type {unknown} to scale; it has {}", known.join(", "));
                return Err(Error::new(ErrorCode::InvalidParams, what));
            }
            self.inner.check_volumes(&release.artifact, &formation)?;
        }
        self.change(app, |_, app| {
            app.head.formation.extend(formation.clone());
            let quantities =
                formation.iter().map(|(process, scale)| (process.clone(), scale.quantity)).collect();
            let scaled = EventKind::Scaled { formation: quantities, by: by.clone() };
            let input = HeadInput { app_id: app.id, description: "Scale".into() };
            Ok((vec![scaled], Some(order_for(app, SCALE, &input, by)?)))
        })
        .await
        .and_then(handle)
    }
}

/// `Set A, B config vars; remove C config var`, as Heroku says it. Names are no secrets.
fn describe(edit: &ConfigEdit) -> String {
    let list = |verb: &str, keys: Vec<&str>| {
        let noun = if keys.len() == 1 { "config var" } else { "config vars" };
        (!keys.is_empty()).then(|| format!("{verb} {} {noun}", keys.join(", ")))
    };
    let set = list("Set", edit.set.keys().map(ConfigKey::as_str).collect());
    let unset = list("Remove", edit.unset.iter().map(ConfigKey::as_str).collect());
    [set, unset].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
