//! Releases: what each deploy and each change of config makes, and how to go back.
//!
//! Run: `cargo run --example rollback`
//!
//! You see two deploys and a change of config become v1, v2 and v3, and a rollback to v1 become v4: with v1's code and v1's
//! config.

mod support;

use std::path::Path;
use std::process::ExitCode;

use paas::build::DirectorySource;
use paas::{
    AppName, ConfigEdit, ConfigVars, DeployOrder, Engine, Principal, Result, RollbackOrder, Version,
    WorkflowHandle,
};

fn main() -> ExitCode {
    paas::init();
    support::run(support::on_a_platform(support::of_folders, show))
}

async fn show(engine: &Engine, folder: &Path) -> Result<()> {
    let code = &folder.join("code");
    let (app, me) = (AppName::new("shop")?, Principal::named("me")?);
    engine.ensure_app(&app, &me).await?;

    support::write_app(code, "the old shop")?;
    let order = DeployOrder::new(DirectorySource::at(code)?).described("Open the shop");
    let deploy = engine.deploy(&app, order, &me).await?;
    say(engine, &app, deploy).await?;

    let edit = ConfigEdit::set(ConfigVars::new().with("GREETING", "Salut")?);
    let configure = engine.configure(&app, edit, &me).await?;
    say(engine, &app, configure).await?;

    support::write_app(code, "the new shop")?;
    let order = DeployOrder::new(DirectorySource::at(code)?).described("Paint it");
    let deploy = engine.deploy(&app, order, &me).await?;
    say(engine, &app, deploy).await?;

    let rollback = engine.rollback(&app, RollbackOrder::to(Version::FIRST), &me).await?;
    say(engine, &app, rollback).await?;

    println!("\n=== {app} releases");
    for release in engine.releases(&app).await? {
        let vars: Vec<_> = release.config_keys().map(paas::ConfigKey::as_str).collect();
        let (version, description, by) = (release.version, &release.description, &release.by);
        println!("{version:<4} {description:<28} {by:<6} {}", vars.join(", "));
    }
    Ok(())
}

/// Waits until users see it, and asks the app.
async fn say(engine: &Engine, app: &AppName, workflow: WorkflowHandle) -> Result<()> {
    let kind = workflow.live().await?.kind;
    println!("-----> After {kind:<10} {}", support::get(&engine.url(app)?).await?);
    Ok(())
}
