//! What a roll-out brings about: which release, how many of each type, and what it replaces.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Inner;
use super::environment::is_single;
use super::kind::StepCall;
use super::ledger::Stored;
use crate::{
    App, AppId, AppName, Backend, Error, ErrorCode, Instance, InstanceState, ProcessType, Release, ReleaseId,
    Result, Scale, Version,
};

/// What a roll-out brings about: the output of every `prepare`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) app_id: AppId,
    pub(crate) release: ReleaseId,
    pub(crate) version: Version,
    /// How many of each type.
    pub(crate) formation: BTreeMap<ProcessType, Scale>,
    /// The release that was live when it was prepared; the same release when only its formation changes.
    pub(crate) replaces: Option<Replaced>,
    /// The revision of the head that it takes over.
    pub(crate) head: u64,
    /// The head's config and add-ons become those of the release: a rollback.
    #[serde(default)]
    pub(crate) restores: bool,
    /// The release has a command to run before it starts.
    #[serde(default)]
    pub(crate) release_phase: bool,
}

/// The release that was live.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Replaced {
    pub(crate) release: ReleaseId,
    pub(crate) version: Version,
    pub(crate) formation: BTreeMap<ProcessType, Scale>,
}

impl Target {
    /// The target of the workflow; `None` when there is nothing to roll out.
    pub(crate) fn of(call: &StepCall) -> Result<Option<Self>> {
        call.output::<Option<Self>>("prepare").map(Option::flatten)
    }

    /// Whether there is one, for `is_needed`.
    pub(crate) fn is_there(call: &StepCall) -> bool {
        call.workflow.output("prepare").is_some_and(|output| !output.is_null())
    }

    /// Whether only the formation of the live release changes.
    pub(crate) fn is_scale(&self) -> bool {
        self.replaces.as_ref().is_some_and(|old| old.release == self.release)
    }

    /// How many of a type ran before in this same release.
    pub(crate) fn before(&self, process: &ProcessType) -> u32 {
        let same = self.replaces.as_ref().filter(|old| old.release == self.release);
        same.and_then(|old| old.formation.get(process)).map_or(0, |scale| scale.quantity)
    }

    /// The types that must be up before the switch, and how many of each: all but those of which two
    /// releases must never run at once.
    pub(crate) fn overlapping<'a>(
        &'a self,
        release: &'a Release,
    ) -> impl Iterator<Item = (&'a ProcessType, u32)> + 'a {
        let all = self.formation.iter().map(|(process, scale)| (process, scale.quantity));
        all.filter(|(process, _)| !is_single(&release.artifact, process))
    }

    /// The types of which two releases must never run at once.
    pub(crate) fn single<'a>(
        &'a self,
        release: &'a Release,
    ) -> impl Iterator<Item = (&'a ProcessType, u32)> + 'a {
        let all = self.formation.iter().map(|(process, scale)| (process, scale.quantity));
        all.filter(|(process, _)| is_single(&release.artifact, process))
    }
}

impl Inner {
    /// App and release of a roll-out.
    pub(crate) async fn rollout(
        &self,
        name: &AppName,
        target: &Target,
    ) -> Result<(Stored<App>, Stored<Release>)> {
        let app = self.ledger.app_in_life(name, target.app_id).await?;
        let release = self.ledger.release(&app.value, target.version).await?;
        Ok((app, release))
    }

    /// The web instances of a release that are up, at most the first `quantity`.
    pub(crate) fn backends(instances: &[Instance], release: ReleaseId, quantity: u32) -> Vec<Backend> {
        let web = instances.iter().filter(|i| {
            i.release == release
                && i.name.process.is_web()
                && i.state == InstanceState::Up
                && i.name.index <= quantity
        });
        let mut web: Vec<_> = web.collect();
        web.sort_by_key(|i| i.name.index);
        web.iter().filter_map(|i| Some(Backend::new(i.name.to_string(), i.address?))).collect()
    }
}

/// The app whose turn this is.
pub(crate) fn app_name(call: &StepCall) -> Result<AppName> {
    let app = call.workflow.app().cloned().or_else(|| super::kinds::app_of(&call.workflow));
    app.ok_or_else(|| {
        Error::new(ErrorCode::Internal, format!("the workflow {} is about no app", call.workflow.id))
    })
}
