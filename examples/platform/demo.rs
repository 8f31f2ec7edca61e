//! The sample app, pushed the way that everybody pushes.

use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use paas::{AddonService, AppName, Engine, Error, ErrorCode, Result};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::machine::{SAMPLE, SAMPLE_DATABASE};
use crate::platform::Site;

/// Deploys it, unless it is live already.
pub(crate) async fn deploy(site: &Site, engine: &Engine) -> Result<()> {
    let name = AppName::new("hello")?;
    if engine.app(&name).await.is_ok_and(|app| app.live.is_some()) {
        return Ok(());
    }
    let dir = site.folder.join("sample-app");
    let failed = |e| Error::from_io("can't write the sample app", e);
    std::fs::create_dir_all(&dir).map_err(failed)?;
    for (file, text) in SAMPLE {
        std::fs::write(dir.join(file), text).map_err(failed)?;
    }
    let app_json = match database(engine).await {
        _ if !SAMPLE_DATABASE => r#"{ "name": "hello" }"#,
        None => r#"{ "name": "hello", "addons": ["postgresql"] }"#,
        Some(why) => {
            println!("-----> The sample app comes without a database: {why}");
            r#"{ "name": "hello" }"#
        }
    };
    std::fs::write(dir.join("app.json"), app_json).map_err(failed)?;
    git(&dir, &["init", "--quiet", "--initial-branch=main"], site).await?;
    git(&dir, &["add", "--all"], site).await?;
    let author = ["-c", "user.name=paas", "-c", "user.email=paas@localhost"];
    let commit = ["commit", "--quiet", "--allow-empty", "--message", "Say hello"];
    git(&dir, &[&author[..], &commit].concat(), site).await?;
    println!("-----> Pushing the sample app: git push http://{}/hello.git main", site.git);
    git(&dir, &["push", &format!("http://{}/hello.git", site.git), "HEAD:main"], site).await
}

/// Why there is no database to be had.
async fn database(engine: &Engine) -> Option<String> {
    let postgres = AddonService::new("postgres").expect("a constant");
    for provider in engine.addon_providers() {
        let catalog = provider.catalog().await;
        if catalog.is_called(&postgres) {
            return catalog.unavailable;
        }
    }
    Some("there is no provider".into())
}

/// Runs git and shows what it says. The token travels in its environment, never in its arguments.
async fn git(dir: &Path, args: &[&str], site: &Site) -> Result<()> {
    let failed = |e| Error::from_io("can't run git", e);
    let login = base64::engine::general_purpose::STANDARD.encode(format!("paas:{}", site.token));
    let mut child = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "http.extraHeader")
        .env("GIT_CONFIG_VALUE_0", format!("Authorization: Basic {login}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr).lines();
        while let Some(line) = lines.next_line().await.map_err(failed)? {
            println!("{}", line.trim_end());
        }
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::new(ErrorCode::BuildFailed, format!("git {} failed", args[0])))
    }
}
