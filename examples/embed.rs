//! A platform inside your own program.
//!
//! Run: `cargo run --example embed`
//!
//! You see a folder become an app with a URL, and what the app answers there. The platform lives in a temporary folder,
//! and ends with the program.

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use paas::build::DirectorySource;
use paas::{AppName, DeployOrder, Engine, Local, Principal, Result};

fn main() -> ExitCode {
    paas::init();
    support::run(example())
}

/// Starts a platform that keeps its things in `data`, and deploys the folder `code` on it.
async fn platform(data: &Path, code: &Path) -> Result<(Local, Engine)> {
    let local = Local::open(data, "127.0.0.1:0").await?; // SQLite, local processes, the proxy on a free port
    let engine = local
        .engine()?
        .with_source(Arc::new(DirectorySource::new()))
        .with_builder(Arc::new(local.buildpacks().await?))
        .build()?;
    engine.start().await?;

    let (app, me) = (AppName::new("hello")?, Principal::named("me")?);
    engine.ensure_app(&app, &me).await?;
    let order = DeployOrder::new(DirectorySource::at(code)?);
    engine.deploy(&app, order, &me).await?.live().await?;
    println!("-----> {app} is live: {}", engine.url(&app)?);
    Ok((local, engine))
}

async fn example() -> Result<()> {
    let scratch = support::scratch()?;
    let (data, code) = (scratch.path().join("data"), scratch.path().join("hello"));
    support::write_app(&code, "a folder that became an app")?;

    let (local, engine) = platform(&data, &code).await?;
    let answer = support::get(&engine.url(&AppName::new("hello")?)?).await;
    engine.shutdown().await;
    local.stop().await?;
    println!("       It says: {}", answer?);
    Ok(())
}
