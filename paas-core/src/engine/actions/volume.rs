//! The volumes of an app: which there are, and the end of one.

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::{
    App, AppName, Cancel, Context, Error, ErrorCode, EventKind, IdempotencyKey, MountPath, Principal,
    ProcessType, Result, StepName, VolumeName, WorkflowId,
};

/// A volume of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// Where the live release's processes see it; nowhere when only older ones did.
    pub seen: Vec<(ProcessType, MountPath)>,
    /// Whether it is there: one that is only asked for is made at the next start.
    pub is_made: bool,
}

impl Engine {
    /// The volumes of an app by name: those that there are, and those that the live release asks for.
    ///
    /// # Errors
    /// `not_found`; `conflict` on another node than the app's; `unavailable`.
    pub async fn volumes(&self, app: &AppName) -> Result<Vec<Volume>> {
        let app = self.inner.ledger.app(app).await?.value;
        let made: BTreeSet<VolumeName> =
            self.kept_here(&app)?.volumes(&app.name).await?.into_iter().collect();
        let seen = self.seen(&app).await?;
        let names: BTreeSet<&VolumeName> = made.iter().chain(seen.iter().map(|(name, ..)| name)).collect();
        let of = |name: &VolumeName| Volume {
            name: name.clone(),
            seen: seen
                .iter()
                .filter(|(seen, ..)| seen == name)
                .map(|(_, process, path)| (process.clone(), path.clone()))
                .collect(),
            is_made: made.contains(name),
        };
        Ok(names.into_iter().map(of).collect())
    }

    /// Removes a volume that the live release doesn't ask for, with all that is in it and for ever. `confirm` is the app's
    /// name once more, as whoever asks has typed it.
    ///
    /// # Errors
    /// `invalid_params` where `confirm` is something else; `conflict` while a process sees it, or on another node than the
    /// app's; `not_found`; `unavailable`.
    pub async fn remove_volume(
        &self,
        app: &AppName,
        volume: &VolumeName,
        confirm: &str,
        by: &Principal,
    ) -> Result<()> {
        if confirm != app.as_str() {
            let what = format!(
                "removing the volume {volume} of {app} can't be taken back: confirm it by the app's name, {app}"
            );
            return Err(Error::new(ErrorCode::InvalidParams, what));
        }
        let of = self.inner.ledger.app(app).await?.value;
        let runtime = self.kept_here(&of)?;
        if let Some((_, process, path)) = self.seen(&of).await?.into_iter().find(|(name, ..)| name == volume)
        {
            let what = format!(
                "{process} of {app} has the volume {volume} at {path}: deploy without it in app.json first"
            );
            return Err(Error::new(ErrorCode::Conflict, what));
        }
        if !runtime.volumes(app).await?.contains(volume) {
            return Err(Error::new(ErrorCode::NotFound, format!("{app} has no volume {volume}")));
        }
        let key = IdempotencyKey::new(WorkflowId::new(), StepName::new("remove_volume").expect("a constant"));
        let log = self.inner.log(app.clone(), "volumes");
        let ctx = Context::new(key, Cancel::new(), self.inner.clock.clone(), log);
        runtime.remove_volume(&ctx, app, volume).await?;
        self.change(app, |_, _| {
            let what = format!("removed the volume {volume}");
            Ok((vec![EventKind::AppChanged { what, by: by.clone() }], None))
        })
        .await
        .map(drop)
    }

    /// The runtime, where the app's volumes are on this node.
    fn kept_here(&self, app: &App) -> Result<&dyn crate::Runtime> {
        match self.inner.home_elsewhere(app) {
            Some(home) => {
                let what = format!("the volumes of {} are on {home}: ask an engine there", app.name);
                Err(Error::new(ErrorCode::Conflict, what))
            }
            None => Ok(&*self.inner.runtime),
        }
    }

    /// What the live release's processes see, and where.
    async fn seen(&self, app: &App) -> Result<Vec<(VolumeName, ProcessType, MountPath)>> {
        let Some(live) = &app.live else { return Ok(Vec::new()) };
        let release = self.inner.ledger.release(app, live.version).await?.value;
        let formation = release.artifact.manifest.formation.into_iter();
        let seen = formation.flat_map(|(process, wish)| {
            wish.volumes.into_iter().map(move |mount| (mount.volume, process.clone(), mount.path))
        });
        Ok(seen.collect())
    }
}
