//! What a release's processes are started with.

use std::collections::BTreeMap;

use super::Inner;
use super::options::FirstSight;
use crate::{
    App, Artifact, ConfigKey, ConfigValue, ConfigVars, FormationWish, HealthCheck, ProcessSpec, ProcessType,
    Redactor, Release, Result, Scale,
};

impl Inner {
    /// The owner's config of a release, over *today's* config vars of its add-ons, or those from before a rotation
    /// that the release is too old for. Add-ons that are gone give nothing and are named.
    pub(crate) async fn environment(
        &self,
        app: &App,
        release: &Release,
    ) -> Result<(ConfigVars, Vec<String>)> {
        let key = self.vault.app_key(app.id, &app.key)?;
        let mut vars = ConfigVars::new();
        let mut missing = Vec::new();
        for attachment in &release.attachments {
            match self.ledger.addon(attachment.addon).await? {
                Some(addon) => vars.extend(key.open_vars(addon.value.vars_at(release.head))?),
                None => missing.push(attachment.name.to_string()),
            }
        }
        vars.extend(key.open_vars(&release.config)?);
        Ok((vars, missing))
    }

    /// The config vars that a build sees: the owner's head over today's of the attached add-ons.
    pub(crate) async fn build_environment(&self, app: &App) -> Result<ConfigVars> {
        let key = self.vault.app_key(app.id, &app.key)?;
        let mut vars = ConfigVars::new();
        for attachment in &app.head.attachments {
            if let Some(addon) = self.ledger.addon(attachment.addon).await? {
                vars.extend(key.open_vars(&addon.value.vars)?);
            }
        }
        vars.extend(key.open_vars(&app.head.config)?);
        Ok(vars)
    }

    /// Knows all that is secret about an app now.
    pub(crate) async fn redactor(&self, app: &App) -> Result<Redactor> {
        let mut redactor = Redactor::knowing(&self.build_environment(app).await?);
        if let Some(live) = &app.live
            && let Some(release) = self.ledger.find_release(app.id, live.version).await?
        {
            redactor.learn(&self.environment(app, &release.value).await?.0);
        }
        Ok(redactor)
    }

    /// How many of each process type a release of this artifact runs: as somebody said, else as it is now, else as
    /// `app.json` says, else by the rule for first sight.
    pub(crate) fn formation(&self, app: &App, artifact: &Artifact) -> BTreeMap<ProcessType, Scale> {
        let runnable = artifact.processes.iter().filter(|(process, _)| !process.is_release());
        let sized = runnable.map(|(process, entry)| {
            let wish = artifact.manifest.formation.get(process);
            let said = app.head.formation.get(process).or_else(|| app.live.as_ref()?.formation.get(process));
            let scale = said.cloned().unwrap_or_else(|| {
                let first = match self.options.first_sight {
                    FirstSight::All => u32::from(entry.declared || process.is_web()),
                    FirstSight::WebOnly => u32::from(process.is_web()),
                };
                Scale {
                    quantity: wish.and_then(|wish| wish.quantity).unwrap_or(first),
                    size: wish.and_then(|wish| wish.size.clone()),
                }
            });
            (process.clone(), scale)
        });
        sized.collect()
    }

    /// What the runtime is told of one process type; `None` for a type that the release doesn't have.
    pub(crate) fn spec(
        &self,
        app: &App,
        release: &Release,
        process: &ProcessType,
        quantity: u32,
        env: &ConfigVars,
    ) -> Option<ProcessSpec> {
        let entry = release.artifact.processes.get(process)?;
        let mut spec = ProcessSpec::new(
            (app.name.clone(), app.id),
            (release.id, release.version),
            process.clone(),
            entry.command.clone(),
            release.artifact.clone(),
        );
        spec.quantity = quantity;
        spec.env = facts(release);
        spec.env.extend(env.clone());
        spec.size = self.options.size.clone();
        spec.grace = self.options.grace;
        spec.health = health(&release.artifact, process);
        let wish = release.artifact.manifest.formation.get(process);
        spec.volumes = wish.map_or_else(Vec::new, |wish| wish.volumes.clone());
        Some(spec)
    }
}

/// What an app may want to know of its release, by the names of Heroku's dyno metadata. An app's own vars go before.
fn facts(release: &Release) -> ConfigVars {
    let commit = release.revision.id.clone().unwrap_or_default();
    let facts = [
        ("HEROKU_APP_ID", release.app_id.to_string()),
        ("HEROKU_APP_NAME", release.app.to_string()),
        ("HEROKU_RELEASE_VERSION", release.version.to_string()),
        ("HEROKU_RELEASE_CREATED_AT", release.created_at.format("%Y-%m-%dT%H:%M:%SZ").to_string()),
        ("HEROKU_BUILD_DESCRIPTION", release.description.clone()),
        ("HEROKU_BUILD_COMMIT", commit.clone()),
        ("HEROKU_SLUG_COMMIT", commit),
    ];
    let mut vars = ConfigVars::new();
    for (key, fact) in facts {
        // A description may be too long or hold what no variable can: then the app doesn't learn it.
        if let (Ok(key), Ok(value)) = (ConfigKey::new(key), ConfigValue::new(fact)) {
            vars.set(key, value);
        }
    }
    vars
}

fn health(artifact: &Artifact, process: &ProcessType) -> HealthCheck {
    artifact.manifest.health.get(process).cloned().unwrap_or_default()
}

/// Whether two releases of this type must never run at once.
pub(crate) fn is_single(artifact: &Artifact, process: &ProcessType) -> bool {
    artifact.manifest.formation.get(process).is_some_and(FormationWish::is_single)
}
