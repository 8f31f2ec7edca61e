//! One build: the request, its session, and its end, also where somebody stops it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use futures_util::StreamExt;
use paas_core::{AppId, ConfigVars, Context, Error, ErrorCode, LogWriter, Result};
use paas_docker::nothing;
use tokio_util::task::AbortOnDropHandle;

use super::config::DockerfileConfig;
use super::context::BuildContext;
use super::daemon::{DOING, lines};
use super::session::{Offer, Session};
use super::steps::Steps;

/// How long a cancelled build may take until the daemon has stopped it.
const STOPPING: Duration = Duration::from_secs(30);

/// Within this the daemon tells of a step that has begun whether it was cached.
const MOMENT: Duration = Duration::from_millis(300);

/// What is to be built.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) app: AppId,
    pub(super) dockerfile: String,
    pub(super) target: Option<String>,
    pub(super) args: BTreeMap<String, String>,
    pub(super) labels: HashMap<String, String>,
    pub(super) secrets: ConfigVars,
}

/// Builds it with BuildKit or with the classic builder, and gives the image's id, such as `sha256:0123…`. When it is
/// cancelled or takes too long, nothing of it runs any more when this returns.
pub(super) async fn run(
    ctx: &Context,
    log: &LogWriter,
    config: &DockerfileConfig,
    buildkit: bool,
    context: BuildContext,
    plan: Plan,
) -> Result<String> {
    let docker = &config.docker;
    let (session, body, packing) = if buildkit {
        let (secrets, registries) = (plan.secrets.clone(), config.registries.clone());
        let offer = Offer { context: Arc::new(context), secrets, registries };
        (Some(Session::open(docker, plan.app, offer).await?), nothing(), None)
    } else {
        let (body, packing) = context.body();
        (None, body, Some(AbortOnDropHandle::new(tokio::spawn(packing))))
    };
    let build = uuid::Uuid::new_v4().to_string();
    let path = format!("/build?{}", query(config, &plan, &build, session.as_ref())?);
    let logins = URL_SAFE.encode(logins(config)?);
    let classic = [("content-type", "application/x-tar"), ("x-registry-config", &logins)];
    let headers = if buildkit { &[] } else { &classic[..] };
    let mut steps = Steps::new(log.clone());
    let read = {
        let reading = async {
            let mut lines = lines(docker.ask(DOING, &path, headers, body).await?);
            loop {
                match tokio::time::timeout(MOMENT, lines.next()).await {
                    Ok(Some(line)) => steps.take(&line?),
                    Ok(None) => return Ok::<_, Error>(()),
                    Err(_) => steps.idle(),
                }
            }
        };
        tokio::pin!(reading);
        match ctx.cancel.guard(tokio::time::timeout(config.timeout, &mut reading)).await {
            Ok(Ok(read)) => Ok(read),
            stopped => {
                docker.ask(DOING, &format!("/build/cancel?id={build}"), &[], nothing()).await?;
                // The daemon ends its answer when the last step is gone; what it says of that is no news. One that
                // doesn't stop is told in the log, and stops when the connection ends.
                if tokio::time::timeout(STOPPING, reading).await.is_err() {
                    log.line(" !     Docker was told to stop the build, but goes on with it");
                }
                Err(stopped.err())
            }
        }
    };
    match read {
        Ok(read) => {
            if let Some(packing) = packing {
                let packed = packing.await;
                let panicked = |e| Error::new(ErrorCode::Internal, "packing panicked").with_source(e);
                packed.map_err(panicked)?.and(read)?;
            } else {
                read?;
            }
            steps.done()
        }
        Err(Some(cancelled)) => Err(cancelled),
        Err(None) => {
            let minutes = config.timeout.as_secs_f64() / 60.0;
            let text = format!("the build took longer than {minutes:.0} minutes and was stopped");
            Err(Error::new(ErrorCode::Timeout, text).with_output(steps.tail()))
        }
    }
}

fn query(config: &DockerfileConfig, plan: &Plan, build: &str, session: Option<&Session>) -> Result<String> {
    let unreadable = |e| Error::new(ErrorCode::Internal, "a build's request can't be written").with_source(e);
    let mut args = plan.args.clone();
    let mut query = vec![
        ("dockerfile", plan.dockerfile.clone()),
        ("labels", serde_json::to_string(&plan.labels).map_err(unreadable)?),
        ("rm", "1".to_owned()),
        ("forcerm", "1".to_owned()),
    ];
    if let Some(session) = session {
        query.push(("version", "2".to_owned()));
        // The context is asked for on the session.
        query.push(("remote", "client-session".to_owned()));
        query.push(("session", session.id().to_owned()));
        query.push(("buildid", build.to_owned()));
        // An app's cache mounts are its own: another's could plant a package in them.
        args.insert("BUILDKIT_CACHE_MOUNT_NS".to_owned(), plan.app.to_string());
        // So are the results of its steps, which may hold what a secret opened: a line in a step's /etc/hosts is part of
        // what its result is found by.
        query.push(("extrahosts", format!("{}.invalid:127.0.0.1", plan.app)));
    }
    query.push(("buildargs", serde_json::to_string(&args).map_err(unreadable)?));
    query.extend(plan.target.clone().map(|target| ("target", target)));
    query.extend(config.network.clone().map(|network| ("networkmode", network)));
    if let Some(memory) = config.memory {
        // No swap beyond it.
        query.extend(["memory", "memswap"].map(|limit| (limit, memory.to_string())));
    }
    if let Some(millicpus) = config.millicpus {
        // Per period of 100 ms, in microseconds.
        query.push(("cpuperiod", "100000".to_owned()));
        query.push(("cpuquota", (u64::from(millicpus) * 100).to_string()));
    }
    serde_urlencoded::to_string(query)
        .map_err(|e| Error::new(ErrorCode::Internal, "a build's request can't be written").with_source(e))
}

/// The classic builder gets logins beforehand, by registry.
fn logins(config: &DockerfileConfig) -> Result<String> {
    let logins = config.registries.iter().map(|(registry, login)| {
        let login = serde_json::json!({"username": login.user(), "password": login.password().expose()});
        (registry.clone(), login)
    });
    serde_json::to_string(&logins.collect::<BTreeMap<_, _>>())
        .map_err(|e| Error::new(ErrorCode::Internal, "logins can't be written").with_source(e))
}
