//! A backup of a platform that works, and its way back on another machine.
//!
//! Run: `cargo run --example backup`
//!
//! You see an app with a config var and a rollback behind it answer, the platform copied meanwhile, its machine lost, and the
//! same app answer from another folder, with all its releases.

mod support;

use std::path::Path;
use std::process::ExitCode;

use paas::build::DirectorySource;
use paas::{
    AppName, ConfigEdit, ConfigVars, DeployOrder, Engine, Local, Principal, Result, RollbackOrder, Version,
};

fn main() -> ExitCode {
    paas::init();
    support::run(example())
}

async fn example() -> Result<()> {
    let scratch = support::scratch()?;
    let (lost, backup, new) =
        (scratch.path().join("lost"), scratch.path().join("backup"), scratch.path().join("new"));
    let (app, me) = (AppName::new("shop")?, Principal::named("me")?);

    let local = Local::open(&lost, "127.0.0.1:0").await?;
    let engine = started(&local).await?;
    engine.ensure_app(&app, &me).await?;
    support::write_app(&scratch.path().join("code"), "the shop")?;
    let order = || Ok::<_, paas::Error>(DeployOrder::new(DirectorySource::at(scratch.path().join("code"))?));
    engine.deploy(&app, order()?, &me).await?.live().await?;
    let edit = ConfigEdit::set(ConfigVars::new().with("GREETING", "Salut")?);
    engine.configure(&app, edit, &me).await?.live().await?;
    println!("-----> Before: {}", support::get(&engine.url(&app)?).await?);

    // Beside a deploy that is under way.
    support::write_app(&scratch.path().join("code"), "the next shop")?;
    let deploy = engine.deploy(&app, order()?, &me).await?;
    let copied = local.backup(&engine, &backup).await?;
    println!("-----> Backed up {} app(s) and their releases", copied.rows["apps"]);
    let before = engine.releases(&app).await?.len();
    deploy.live().await?;
    engine.shutdown().await;
    local.stop().await?;
    remove(&lost)?;

    Local::restore(&backup, &new).await?;
    let local = Local::open(&new, "127.0.0.1:0").await?;
    let engine = started(&local).await?;
    // What was under way at the time of the backup goes on to its end.
    for open in engine.open_workflows(&paas::Subject::App(app.clone())).await? {
        engine.workflow(open.id).ended().await?;
    }
    engine.routed().await;
    println!("-----> After:  {}", support::get(&engine.url(&app)?).await?);
    println!("-----> It has {} releases or more: {}", before, engine.releases(&app).await?.len() >= before);
    engine.rollback(&app, RollbackOrder::to(Version::FIRST), &me).await?.live().await?;
    println!("-----> Back at v1: {}", support::get(&engine.url(&app)?).await?);
    engine.shutdown().await;
    local.stop().await
}

async fn started(local: &Local) -> Result<Engine> {
    let engine = support::of_folders(local).await?;
    engine.start().await?;
    Ok(engine)
}

fn remove(folder: &Path) -> Result<()> {
    std::fs::remove_dir_all(folder).map_err(|e| paas::Error::from_io("can't lose the machine", e))
}
