//! From a launch to a shim: what it is told, and how it is started.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use paas_core::{ConfigKey, Error, ErrorCode, Result, Retry, blocking};
use paas_sandbox::{Limits, Profile};
use rustix::fs::MemfdFlags;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use super::folder::Folder;
use super::launcher::ProcessLauncher;
use super::shim::{self, Order};
use crate::boot::BOOT;
use crate::supervisor::Launch;

/// How long a shim may take to start its program.
const START: Duration = Duration::from_secs(60);

impl ProcessLauncher {
    /// Everything that the shim needs; the folders are made here.
    pub(super) async fn order(&self, launch: &Launch, folder: &Folder, port: Option<u16>) -> Result<Order> {
        let Launch { id, label, spec } = launch;
        let user = if self.abilities.users { Some(self.users.of(&label.app, label.app_id)?) } else { None };
        let slug = self.slugs.get((&label.app, label.app_id), &spec.artifact, user).await?;
        let (home, tmp) = (folder.path().join("home"), folder.path().join("tmp"));
        let (homes, open) = (self.homes, !self.abilities.namespaces);
        let made = (slug.clone(), home.clone(), tmp.clone());
        blocking(move || {
            let (slug, home, tmp) = made;
            let made = homes.make(&slug, (&home, &tmp), user, open);
            made.map_err(|e| Error::from_io("can't make an instance's folders", e))
        })
        .await?;
        let size = &spec.size;
        let limits = Limits::new().memory(size.memory).tasks(size.tasks).cpu(size.cpu);
        let profile = Profile::new().user(user).limits(limits).group(id.to_string()).tmp(tmp);
        let (mut profile, dir) = self.homes.show(profile, slug, home);
        for path in self.read_only.iter().filter(|path| path.exists()) {
            profile = profile.read_only(path);
        }
        let mut env: BTreeMap<String, String> = [("PATH", self.path.as_str()), ("LANG", "C.UTF-8")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        env.extend(spec.env.iter().map(|(key, value)| (key.to_string(), value.expose().to_owned())));
        env.insert("HOME".into(), dir.display().to_string());
        env.insert("DYNO".into(), label.process());
        if let Some(port) = port {
            env.insert("PORT".into(), port.to_string());
        }
        let bounds = self.logs.bounds();
        Ok(Order {
            folder: folder.path().to_owned(),
            log: self.logs.folder(&label.app),
            log_segments: bounds.segments,
            log_segment_bytes: bounds.segment_bytes,
            name: label.process(),
            workflow: label.once.as_ref().map(|once| once.workflow),
            command: spec.command.clone(),
            abilities: self.abilities.clone(),
            profile,
            program: vec![
                self.bash.display().to_string(),
                "-c".into(),
                BOOT.into(),
                "paas".into(),
                spec.command.clone(),
            ],
            env,
            secrets: spec.env.keys().map(ConfigKey::to_string).collect(),
            dir,
            grace: label.grace(),
            timeout: label.once.as_ref().map(|once| Duration::from_millis(once.timeout_ms)),
        })
    }

    /// Starts the shim and waits for its word that the program was started.
    pub(super) async fn start(&self, order: &Order) -> Result<()> {
        let failed = |e| Error::from_io("can't start a shim", e);
        let memory = rustix::fs::memfd_create("paas-order", MemfdFlags::CLOEXEC);
        let mut file = File::from(memory.map_err(io::Error::from).map_err(failed)?);
        file.write_all(&serde_json::to_vec(order).map_err(io::Error::from).map_err(failed)?)
            .map_err(failed)?;
        let mut shim = Command::new(self.helper.path())
            .arg(shim::SHIM)
            .arg(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let said = shim.stdout.take();
        // Somebody must take leave of it when it ends.
        let reaped = tokio::spawn(async move { shim.wait().await });
        let mut line = String::new();
        if let Some(said) = said {
            let read = timeout(START, BufReader::new(said).read_line(&mut line)).await;
            read.map_err(|_| Error::new(ErrorCode::Unavailable, "a shim did not start in time"))?
                .map_err(failed)?;
        }
        if line.trim() == shim::STARTED {
            return Ok(());
        }
        // It has said why, and ends.
        reaped.await.map_err(io::Error::other).and_then(|status| status).map_err(failed)?;
        let why = if line.is_empty() { "it said nothing".into() } else { line.trim().to_owned() };
        Err(Error::new(ErrorCode::Unavailable, format!("a shim could not start: {why}"))
            .with_retry(Retry::Backoff))
    }
}

/// The shell that starts apps.
pub(super) fn find_bash() -> Result<PathBuf> {
    let places = ["/bin/bash", "/usr/bin/bash", "/usr/local/bin/bash", "/run/current-system/sw/bin/bash"];
    let found = places.into_iter().map(PathBuf::from).find(|path| path.exists());
    found.ok_or_else(|| {
        Error::new(ErrorCode::Unavailable, "bash is not installed; apps are started by it: install it")
    })
}
