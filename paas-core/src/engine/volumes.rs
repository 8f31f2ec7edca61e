//! What volumes ask of a roll-out: a runtime that has them, and one instance at a time where they aren't shared.

use std::collections::BTreeMap;

use super::Inner;
use crate::{Artifact, Error, ErrorCode, Mount, ProcessType, Result, Scale};

impl Inner {
    /// Whether this formation of this artifact can have the volumes that it asks for.
    pub(crate) fn check_volumes(
        &self,
        artifact: &Artifact,
        formation: &BTreeMap<ProcessType, Scale>,
    ) -> Result<()> {
        let wrong = |code, what| Err(Error::new(code, what));
        for (process, scale) in formation {
            let Some(wish) = artifact.manifest.formation.get(process) else { continue };
            let Some(Mount { volume, .. }) = wish.volumes.first() else { continue };
            if !self.runtime.capabilities().volumes {
                let what = format!(
                    "{process} asks for the volume {volume}, and this platform's runtime keeps no volumes: keep the data in \
                     an add-on, or take \"volumes\" out of app.json"
                );
                return wrong(ErrorCode::Unsupported, what);
            }
            if let (Some(Mount { volume, .. }), 2..) = (wish.held(), scale.quantity) {
                let what = format!(
                    "{process} has the volume {volume}, which one instance holds alone: it can't be scaled to {}; scale it \
                     to 1, or write \"shared\": true at the volume in app.json if many may write to it at once",
                    scale.quantity
                );
                return wrong(ErrorCode::InvalidParams, what);
            }
        }
        Ok(())
    }
}

/// Why a type is stopped before it is started anew, for whoever deploys.
pub(crate) fn why_single(artifact: &Artifact, process: &ProcessType) -> Vec<String> {
    let held = artifact.manifest.formation.get(process).and_then(|wish| wish.held());
    let Some(Mount { volume, path, .. }) = held else {
        return vec![format!(" !     {process} never runs twice, so it pauses while it is replaced")];
    };
    let meanwhile = if process.is_web() { "requests are held meanwhile" } else { "it pauses meanwhile" };
    vec![
        format!(" !     {process} has a volume ({volume} at {path}), which one instance holds alone:"),
        format!("       the old one is stopped before the new one starts; {meanwhile}"),
    ]
}
