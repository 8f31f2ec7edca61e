//! What became of a build: the Procfile's word first, then what the last pack proposes.

use std::path::Path;

use paas_core::{AddonWish, Artifact, EnvWish, LogWriter, Manifest, ProcessTable, ProcessType, Result};

use super::release::Release;
use super::work::Work;
use crate::{app_json, procfile};

/// What the packs and the app's own files say.
#[derive(Debug)]
pub(super) struct Built {
    detected: Vec<(usize, String)>,
    processes: ProcessTable,
    manifest: Manifest,
    addons: Vec<AddonWish>,
}

/// Which packs recognised the app: their numbers and what they call it.
pub(super) fn detected(work: &Work) -> Result<Vec<(usize, String)>> {
    let told = work.result("detected")?.unwrap_or_default();
    let row = |line: &str| {
        let (number, name) = line.split_once('\t')?;
        let name: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
        Some((number.parse().ok()?, name))
    };
    Ok(told.lines().filter_map(row).collect())
}

/// What the pack that was compiled last calls the app.
pub(super) fn last_detected(work: &Work) -> Option<String> {
    detected(work).ok()?.pop().map(|(_, name)| name)
}

/// Reads what the build left. Packs may write the Procfile and app.json, too.
pub(super) fn read(work: &Work, dir: &Path, log: &LogWriter) -> Result<Built> {
    let told = work.result("release")?.unwrap_or_default();
    let release = Release::parse(told.as_bytes()).unwrap_or_else(|why| {
        log.line(format!(
            " !     What the buildpack's bin/release printed is no YAML and was left out: {why}"
        ));
        Release::default()
    });
    let mut processes = ProcessTable::new();
    for (process, command) in procfile::read(dir)? {
        processes.declare(process, command);
    }
    for (name, command) in release.default_process_types {
        match name.parse::<ProcessType>() {
            Ok(process) if !command.trim().is_empty() => processes.default_to(process, command),
            Ok(_) => {}
            Err(e) => log.line(format!(" !     A process type of the buildpack was left out: {e}")),
        }
    }
    let mut manifest = app_json::read(dir)?;
    for (name, value) in release.config_vars {
        match name.parse() {
            Ok(key) if !value.contains('\0') => {
                let mut wish = EnvWish::default();
                wish.value = Some(value);
                manifest.env.entry(key).or_insert(wish);
            }
            _ => log.line(format!(" !     A config var of the buildpack was left out: {name:?}")),
        }
    }
    let mut addons = Vec::new();
    for name in release.addons {
        match app_json::addon(&name) {
            Ok(wish) => addons.push(wish),
            Err(e) => log.line(format!(" !     An add-on of the buildpack was left out: {e}")),
        }
    }
    Ok(Built { detected: detected(work)?, processes, manifest, addons })
}

impl Built {
    pub(super) fn fill(&self, artifact: &mut Artifact) {
        artifact.processes = self.processes.clone();
        artifact.manifest = self.manifest.clone();
        artifact.addons.clone_from(&self.addons);
        let names: Vec<_> = self.detected.iter().map(|(_, name)| name.as_str()).collect();
        artifact.description = names.join(" + ");
    }

    /// Says it in Heroku's words.
    pub(super) fn announce(&self, log: &LogWriter, size: u64) {
        let names = |declared: bool| {
            let rows = self.processes.iter().filter(|(_, entry)| entry.declared == declared);
            rows.map(|(process, _)| process.as_str()).collect::<Vec<_>>().join(", ")
        };
        let (declared, default) = (names(true), names(false));
        log.line("-----> Discovering process types");
        log.line(format!(
            "       Procfile declares types     -> {}",
            if declared.is_empty() { "(none)" } else { &declared }
        ));
        if !default.is_empty() {
            log.line(format!("       Default types for buildpack -> {default}"));
        }
        log.line("-----> Compressing...");
        log.line(format!("       Done: {}", human(size)));
    }
}

/// Bytes as Heroku shows them: `512K`, `33.4M`.
#[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
fn human(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{}K", bytes.div_ceil(1000)),
        _ => format!("{:.1}M", bytes as f64 / 1e6),
    }
}
