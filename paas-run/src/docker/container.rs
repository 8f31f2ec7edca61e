//! What a launch is for Docker: one container behind its walls.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, PortBinding, ResourcesUlimits,
    RestartPolicy, RestartPolicyNameEnum,
};
use paas_core::{ArtifactKind, Error, ErrorCode, Result};
use paas_docker::{Docker, bollard, label};

use super::image::Image;
use super::record::Record;
use super::{Reach, Walls};
use crate::boot::BOOT;
use crate::supervisor::Launch;

/// How its container is called: for people, and unique by the launch's id.
pub(super) fn name(docker: &Docker, launch: &Launch) -> String {
    let label = &launch.label;
    format!("{}.{}.{}.{}.{}", docker.platform(), label.app, label.name, label.version, launch.id)
}

/// The container of this launch.
pub(super) fn body(
    docker: &Docker,
    launch: &Launch,
    record: &Record,
    image: &Image,
    network: String,
    walls: &Walls,
) -> Result<ContainerCreateBody> {
    let slug = launch.spec.artifact.kind == ArtifactKind::Slug;
    let (entrypoint, cmd) = program(&launch.spec.command, slug);
    let port = record.port.map(|port| format!("{port}/tcp"));
    let mut host = host(launch, image, network, walls, slug);
    if let (Some(port), Reach::Loopback) = (&port, walls.reach) {
        let binding = PortBinding { host_ip: Some("127.0.0.1".into()), host_port: None };
        host.port_bindings = Some(HashMap::from([(port.clone(), Some(vec![binding]))]));
    }
    Ok(ContainerCreateBody {
        image: Some(image.id.clone()),
        entrypoint,
        cmd,
        env: Some(env(launch, record, slug)),
        working_dir: slug.then(|| "/app".into()),
        labels: Some(labels(docker, launch, record)?),
        exposed_ports: port.map(|port| vec![port]),
        host_config: Some(host),
        // It is run by us while it matters, which is until the instance is up.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        ..ContainerCreateBody::default()
    })
}

/// Who sits at a container, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// At a terminal.
    Terminal,
    /// By pipes.
    Pipes,
}

/// Opens its input and output to whoever sits at it.
pub(super) fn hold(body: &mut ContainerCreateBody, held: Held) {
    body.open_stdin = Some(true);
    body.attach_stdin = Some(true);
    body.tty = Some(held == Held::Terminal);
    // The end of what comes through a pipe is the end of the command's input; a terminal stays.
    body.stdin_once = Some(held == Held::Pipes);
}

/// Entry point and command. No command is the image's own; another one is run by the image's shell.
fn program(command: &str, slug: bool) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
    if slug {
        (words(&["bash", "-c", BOOT, "paas"]), words(&[command]))
    } else if command.is_empty() {
        (None, None)
    } else {
        (words(&["/bin/sh", "-c"]), words(&[command]))
    }
}

fn env(launch: &Launch, record: &Record, slug: bool) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    if slug {
        env.push("LANG=C.UTF-8".into());
    }
    env.extend(launch.spec.env.iter().map(|(key, value)| format!("{key}={}", value.expose())));
    // The init process passes signals on to all of the command's own processes.
    env.push("TINI_KILL_PROCESS_GROUP=1".into());
    env.push(format!("DYNO={}", launch.label.process()));
    if slug {
        env.push("HOME=/app".into());
    }
    env.extend(record.port.map(|port| format!("PORT={port}")));
    env
}

fn labels(docker: &Docker, launch: &Launch, record: &Record) -> Result<HashMap<String, String>> {
    let kept = &launch.label;
    let record = serde_json::to_string(record)
        .map_err(|e| Error::new(ErrorCode::Internal, "a launch can't be written down").with_source(e))?;
    let kind = if kept.once.is_some() { "once" } else { "instance" };
    let mut all = docker.labels([
        (label::KIND, kind.to_owned()),
        (label::APP, kept.app.to_string()),
        (label::APP_ID, kept.app_id.to_string()),
        (label::RELEASE, kept.release.to_string()),
        (label::VERSION, kept.version.to_string()),
        (label::PROCESS, kept.name.process.to_string()),
        (label::INDEX, kept.name.index.to_string()),
        (label::SPEC, kept.digest.to_string()),
        (label::ARTIFACT, kept.artifact.to_string()),
        (label::LAUNCH, launch.id.to_string()),
        (label::RECORD, record),
    ]);
    if let Some(once) = &kept.once {
        all.insert(label::WORKFLOW.to_owned(), once.workflow.to_string());
    }
    Ok(all)
}

fn host(launch: &Launch, image: &Image, network: String, walls: &Walls, slug: bool) -> HostConfig {
    let size = &launch.spec.size;
    let limit = |value: u64| i64::try_from(value).ok().filter(|value| *value > 0);
    let memory = limit(size.memory);
    let files = walls.open_files.map(|files| i64::try_from(files).unwrap_or(i64::MAX));
    let files = files.map(|files| {
        vec![ResourcesUlimits { name: Some("nofile".into()), soft: Some(files), hard: Some(files) }]
    });
    let log_config = HashMap::from([
        ("max-size".to_owned(), walls.output_bytes.div_ceil(2).to_string()),
        ("max-file".to_owned(), "2".to_owned()),
    ]);
    HostConfig {
        network_mode: Some(network),
        memory,
        // Without swap: who is over its limit is ended, and doesn't slow its neighbours down.
        memory_swap: memory,
        nano_cpus: limit(u64::from(size.cpu) * 1_000_000),
        pids_limit: limit(u64::from(size.tasks)),
        ulimits: files,
        cap_drop: Some(vec!["ALL".into()]),
        // A slug's processes are nobody's root.
        cap_add: (!slug).then(|| walls.capabilities.clone()),
        security_opt: Some(vec!["no-new-privileges".into()]),
        readonly_rootfs: image.read_only.then_some(true),
        tmpfs: image.read_only.then(|| HashMap::from([("/tmp".to_owned(), "rw,nosuid,nodev".to_owned())])),
        // It takes leave of orphans and ends on SIGTERM, which a first process doesn't do by itself.
        init: Some(true),
        // Whether it is started again is ours to decide.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig { typ: Some("json-file".into()), config: Some(log_config) }),
        ..HostConfig::default()
    }
}
