//! prepare: the release takes its number, and with it everything that it will run with.

use async_trait::async_trait;

use super::build::Built;
use super::fetch::Fetched;
use crate::engine::Inner;
use crate::engine::kind::{Changes, Moment, Step, StepCall, StepOutput};
use crate::engine::kinds::{DeployInput, HeadInput, Platform, RollbackInput};
use crate::engine::ledger::{Stored, put_app, put_release};
use crate::engine::rollout::{Replaced, Target, app_name};
use crate::store::Expect;
use crate::{
    App, AppId, Error, ErrorCode, EventKind, ProcessType, Release, ReleaseId, ReleaseState, Result, Retry,
    Version,
};

/// Where a release's artifact comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// The build of this workflow.
    Build,
    /// The live release, with today's head.
    Live,
    /// An older release, with its config.
    Version,
}

#[derive(Debug)]
pub(crate) struct Prepare(pub(crate) Platform, pub(crate) From);

#[async_trait]
impl Step for Prepare {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let app = inner.ledger.app_in_life(&app_name(call)?, app_id(call)?).await?.value;
        if self.1 == From::Live && app.live.is_none() {
            // The head has changed, and there is nothing yet to roll it out with.
            return StepOutput::with(&None::<Target>);
        }
        let release = self.draft(&inner, call, &app).await?;
        let formation = inner.formation(&app, &release.artifact);
        inner.check_volumes(&release.artifact, &formation)?;
        // From here on the release refers to it; whoever collects garbage has seen that, or leaves it alone.
        inner.keep_artifact(&release.artifact, &release.description).await?;
        let processes = &release.artifact.processes;
        if processes.iter().all(|(process, _)| process.is_release()) {
            let what = "the app has no process to run: add a Procfile with a line such as `web: ./server`";
            return Err(Error::new(ErrorCode::InvalidParams, what));
        }
        StepOutput::with(&Some(Target {
            app_id: app.id,
            release: release.id,
            version: release.version,
            formation,
            replaces: replaced(&app),
            head: app.head.rev,
            restores: self.1 == From::Version && !call.input::<RollbackInput>()?.keep_config,
            release_phase: processes.get(&ProcessType::release()).is_some(),
        }))
    }

    fn has_undo(&self) -> bool {
        true
    }

    async fn changes(&self, call: &StepCall, moment: Moment<'_>) -> Result<Changes> {
        let Some(target) = Target::of(call)? else { return Ok(Changes::none()) };
        let inner = self.0.get()?;
        let name = app_name(call)?;
        match moment {
            Moment::Intent | Moment::Left => Ok(Changes::none()),
            Moment::Done(_) => {
                let Stored { rev, value: mut app } = inner.ledger.app_in_life(&name, target.app_id).await?;
                if next_version(&app) != target.version || app.head.rev != target.head {
                    let what = "the app changed while its release was prepared";
                    return Err(Error::new(ErrorCode::Conflict, what).with_retry(Retry::Backoff));
                }
                let mut release = self.draft(&inner, call, &app).await?;
                release.id = target.release;
                app.last_version = Some(target.version);
                app.node = app.node.take().or_else(|| inner.runtime.node().cloned());
                let created = EventKind::ReleaseCreated {
                    version: release.version,
                    description: release.description.clone(),
                };
                Ok(Changes::none()
                    .write(put_app(&app, Expect::Rev(rev))?)
                    .write(put_release(&release, Expect::Absent)?)
                    .event(created))
            }
            Moment::Undone => {
                let Some(stored) = inner.ledger.find_release(target.app_id, target.version).await? else {
                    return Ok(Changes::none());
                };
                let mut release = stored.value;
                release.state = ReleaseState::Failed;
                release.failure.clone_from(&call.workflow.failure);
                Ok(Changes::none()
                    .write(put_release(&release, Expect::Rev(stored.rev))?)
                    .event(EventKind::ReleaseFailed { version: release.version }))
            }
        }
    }
}

impl Prepare {
    /// The release as it would be now.
    async fn draft(&self, inner: &Inner, call: &StepCall, app: &App) -> Result<Release> {
        let base = match self.1 {
            From::Build => None,
            From::Live => match &app.live {
                Some(live) => Some(inner.ledger.release(app, live.version).await?.value),
                None => {
                    return Err(Error::new(ErrorCode::NotFound, format!("{} has no live release", app.name)));
                }
            },
            From::Version => Some(inner.ledger.release(app, call.input::<RollbackInput>()?.to).await?.value),
        };
        let mut release = match base {
            Some(base) => base,
            None => from_build(call, app)?,
        };
        release.id = ReleaseId::new();
        release.version = next_version(app);
        release.state = ReleaseState::Pending;
        release.by = call.workflow.by.clone();
        release.created_at = inner.clock.now();
        release.workflow = call.workflow.id;
        release.failure = None;
        release.rollback_of = None;
        let mut todays = true;
        let from_version = matches!(self.1, From::Version);
        match self.1 {
            From::Build => {}
            From::Live => release.description = call.input::<HeadInput>()?.description,
            From::Version => {
                let input: RollbackInput = call.input()?;
                release.rollback_of = Some(input.to);
                release.description = format!("Rollback to {}", input.to);
                todays = input.keep_config;
            }
        }
        if todays {
            release.config = app.head.config.clone();
        }
        // Add-ons are today's, also in a rollback: what was attached since stays attached, and what is gone
        // stays in the list, so that it is named when the release starts.
        let gone = std::mem::take(&mut release.attachments).into_iter();
        let gone =
            gone.filter(|old| from_version && !app.head.attachments.iter().any(|new| new.addon == old.addon));
        release.attachments = app.head.attachments.iter().cloned().chain(gone).collect();
        release.head = app.head.rev;
        Ok(release)
    }
}

fn from_build(call: &StepCall, app: &App) -> Result<Release> {
    let nothing =
        || Error::new(ErrorCode::Internal, "there is nothing to release: the build gave no artifact");
    let built: Built = call.output("build")?.ok_or_else(nothing)?;
    let fetched: Fetched = call.output("fetch")?.ok_or_else(nothing)?;
    let input: DeployInput = call.input()?;
    let commit = fetched.revision.id.as_deref().map(|id| id.chars().take(8).collect::<String>());
    let description = input.description.or_else(|| commit.map(|commit| format!("Deploy {commit}")));
    Ok(Release {
        id: ReleaseId::new(),
        app: app.name.clone(),
        app_id: app.id,
        version: Version::FIRST,
        state: ReleaseState::Pending,
        description: description.unwrap_or_else(|| format!("Deploy {}", input.source)),
        by: call.workflow.by.clone(),
        created_at: call.workflow.created_at,
        artifact: built.artifact,
        source: Some(fetched.tree),
        revision: fetched.revision,
        head: 0,
        config: std::collections::BTreeMap::new(),
        attachments: Vec::new(),
        rollback_of: None,
        workflow: call.workflow.id,
        failure: None,
    })
}

fn app_id(call: &StepCall) -> Result<AppId> {
    #[derive(serde::Deserialize)]
    struct Life {
        app_id: AppId,
    }
    Ok(call.input::<Life>()?.app_id)
}

fn next_version(app: &App) -> Version {
    app.last_version.map_or(Version::FIRST, Version::next)
}

fn replaced(app: &App) -> Option<Replaced> {
    let live = app.live.as_ref()?;
    Some(Replaced { release: live.release, version: live.version, formation: live.formation.clone() })
}

/// prepare of a change of formation: the live release stays, only its numbers change.
#[derive(Debug)]
pub(crate) struct PrepareScale(pub(crate) Platform);

#[async_trait]
impl Step for PrepareScale {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let inner = self.0.get()?;
        let app = inner.ledger.app_in_life(&app_name(call)?, app_id(call)?).await?.value;
        let Some(live) = &app.live else { return StepOutput::with(&None::<Target>) };
        let release = inner.ledger.release(&app, live.version).await?.value;
        let formation = inner.formation(&app, &release.artifact);
        inner.check_volumes(&release.artifact, &formation)?;
        StepOutput::with(&Some(Target {
            app_id: app.id,
            release: live.release,
            version: live.version,
            formation,
            replaces: replaced(&app),
            head: live.head,
            restores: false,
            release_phase: false,
        }))
    }
}
