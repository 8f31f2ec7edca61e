//! The volumes of apps: named volumes of Docker's, made when a process first names them, and gone with their app or when
//! somebody says so. Nothing else removes one.

use bollard::models::{ContainerSummaryStateEnum as Shown, Mount, MountType, VolumeCreateRequest};
use bollard::query_parameters::{ListContainersOptions, ListVolumesOptions, RemoveVolumeOptions};
use paas_core::{AppId, AppName, Error, ErrorCode, Result, Retry, VolumeName};
use paas_docker::{Docker, bollard, failed, label};

use crate::supervisor::{Label, Launch};

/// How [`label::KIND`] calls them.
const KIND: &str = "volume";

/// How Docker calls a volume: by the app's life, so that an app of the same name gets another.
fn name(docker: &Docker, life: AppId, volume: &VolumeName) -> String {
    format!("paas-{}-{life}-{volume}", docker.platform())
}

/// Makes the volumes that this launch sees, where they aren't there, and sees to it that nobody holds what it is to hold
/// alone.
pub(super) async fn mounts(docker: &Docker, launch: &Launch) -> Result<Option<Vec<Mount>>> {
    let Label { app, app_id, .. } = &launch.label;
    let mut mounts = Vec::new();
    for mount in &launch.spec.volumes {
        let name = name(docker, *app_id, &mount.volume);
        if !mount.shared {
            let holder = holder(docker, &name).await?;
            if let Some(holder) = holder {
                let what = format!("the volume {} of {app} is held by the container {holder}", mount.volume);
                return Err(Error::new(ErrorCode::Unavailable, what).with_retry(Retry::Backoff));
            }
        }
        let labels = docker.labels([
            (label::KIND, KIND.to_owned()),
            (label::APP, app.to_string()),
            (label::APP_ID, app_id.to_string()),
            (label::VOLUME, mount.volume.to_string()),
        ]);
        let wanted =
            VolumeCreateRequest { name: Some(name.clone()), labels: Some(labels), ..Default::default() };
        let made = docker.client().create_volume(wanted).await;
        made.map_err(|e| failed(format!("can't make the volume {} of {app}", mount.volume), e))?;
        mounts.push(Mount {
            typ: Some(MountType::VOLUME),
            source: Some(name),
            target: Some(mount.path.to_string()),
            ..Mount::default()
        });
    }
    Ok((!mounts.is_empty()).then_some(mounts))
}

/// A container that runs, or may, and sees this volume.
async fn holder(docker: &Docker, name: &str) -> Result<Option<String>> {
    let filters = Some([("volume".to_owned(), vec![name.to_owned()])].into());
    let options = ListContainersOptions { all: true, filters, ..ListContainersOptions::default() };
    let listed = docker.client().list_containers(Some(options)).await;
    let listed = listed.map_err(|e| failed("can't look who holds a volume", e))?;
    let holds = |state| !matches!(state, Some(Shown::CREATED | Shown::EXITED | Shown::DEAD));
    let mut holders = listed.into_iter().filter(|found| holds(found.state));
    let named = |found: bollard::models::ContainerSummary| {
        let name = found.names.unwrap_or_default().into_iter().next();
        name.or(found.id).unwrap_or_default().trim_start_matches('/').to_owned()
    };
    Ok(holders.next().map(named))
}

/// The volumes of an app by Docker's name and ours.
async fn listed(docker: &Docker, app: &AppName) -> Result<Vec<(String, VolumeName)>> {
    let filters = Some(docker.ours(&[(label::KIND, KIND), (label::APP, app.as_str())]));
    let listed = docker.client().list_volumes(Some(ListVolumesOptions { filters })).await;
    let listed = listed.map_err(|e| failed(format!("can't list the volumes of {app}"), e))?;
    let named = |found: bollard::models::Volume| {
        let name = found.labels.get(label::VOLUME)?.parse().ok()?;
        Some((found.name, name))
    };
    Ok(listed.volumes.unwrap_or_default().into_iter().filter_map(named).collect())
}

/// What [`Runtime::volumes`](paas_core::Runtime::volumes) says.
pub(super) async fn of(docker: &Docker, app: &AppName) -> Result<Vec<VolumeName>> {
    Ok(listed(docker, app).await?.into_iter().map(|(_, name)| name).collect())
}

/// Removes this volume of an app, or all of them.
pub(super) async fn remove(docker: &Docker, app: &AppName, which: Option<&VolumeName>) -> Result<()> {
    for (name, volume) in listed(docker, app).await? {
        if which.is_some_and(|which| *which != volume) {
            continue;
        }
        match docker.client().remove_volume(&name, None::<RemoveVolumeOptions>).await {
            Ok(()) | Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(e) => return Err(failed(format!("can't remove the volume {volume} of {app}"), e)),
        }
    }
    Ok(())
}
