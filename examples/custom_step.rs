//! A step of your own in every deploy, and a layer around all steps.
//!
//! Run: `cargo run --example custom_step`
//!
//! You see how long each step takes, a deploy that waits for an approval after its build, and one that goes live once it
//! has it. A second one is refused: the first stays live.

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use paas::build::DirectorySource;
use paas::{
    AppName, DeployOrder, Engine, Error, ErrorCode, EventKind, KindName, Local, Principal, Result, Step,
    StepCall, StepDef, StepName, StepOutput, Waist, WorkflowHandle,
};
use tower::ServiceExt;

/// Waits for somebody's yes or no. A deploy that waits takes no thread and no turn, and survives a restart.
#[derive(Debug)]
struct Approval;

#[async_trait]
impl Step for Approval {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        match call.signal().map(serde_json::Value::as_bool) {
            None => Ok(StepOutput::wait("an approval")),
            Some(Some(true)) => Ok(StepOutput::done()),
            Some(_) => Err(Error::new(ErrorCode::Forbidden, "the deploy was not approved")),
        }
    }
}

fn main() -> ExitCode {
    paas::init();
    support::run(support::on_a_platform(engine, show))
}

async fn engine(local: &Local) -> Result<Engine> {
    let timed = tower::layer::layer_fn(|steps: Waist| {
        tower::service_fn(move |call: StepCall| {
            let (steps, step, clock) = (steps.clone(), call.step.clone(), call.ctx.clock.clone());
            async move {
                let begun = clock.now();
                let answer = steps.oneshot(call).await;
                println!("       {:<14} {:>6} ms", step.as_str(), (clock.now() - begun).num_milliseconds());
                answer
            }
        })
    });
    let approval = StepDef::new(StepName::new("approve")?, Arc::new(Approval));
    local
        .engine()?
        .with_source(Arc::new(DirectorySource::new()))
        .with_builder(Arc::new(local.buildpacks().await?))
        .with_step_after(KindName::new("deploy")?, StepName::new("build")?, approval)
        .step_layer(timed)
        .build()
}

async fn show(engine: &Engine, folder: &Path) -> Result<()> {
    let code = &folder.join("code");
    let (app, me, boss) = (AppName::new("gated")?, Principal::named("me")?, Principal::named("boss")?);
    engine.ensure_app(&app, &me).await?;

    let first = deploy(engine, &app, code, "the approved deploy", &me).await?;
    engine.signal(first.id(), true.into(), &boss).await?;
    first.succeeded().await?;
    println!("-----> Approved and live: {}", support::get(&engine.url(&app)?).await?);

    let second = deploy(engine, &app, code, "the refused deploy", &me).await?;
    engine.signal(second.id(), false.into(), &boss).await?;
    if let Err(error) = second.succeeded().await {
        println!("-----> Refused: {error}");
    }
    println!("       Still live: {}", support::get(&engine.url(&app)?).await?);
    Ok(())
}

/// Deploys, and comes back when the deploy waits.
async fn deploy(
    engine: &Engine,
    app: &AppName,
    code: &Path,
    text: &str,
    me: &Principal,
) -> Result<WorkflowHandle> {
    println!("-----> Deploying");
    support::write_app(code, text)?;
    let deploy = engine.deploy(app, DeployOrder::new(DirectorySource::at(code)?), me).await?;
    deploy.parked().await?;
    for event in engine.events(0, Some(app), usize::MAX).await? {
        if let EventKind::Parked { step, why } = &event.kind
            && event.workflow == Some(deploy.id())
        {
            println!("-----> The step {step} waits for {why}");
        }
    }
    Ok(deploy)
}
