//! A kind of workflow of your own: durable like a deploy, in a queue of its own.
//!
//! Run: `cargo run --example custom_workflow`
//!
//! You see a customer being signed up in three steps, and another one whose sign-up fails at the second: what the first
//! did is undone. The third step is the pivot: once it begins, things only go forward.

mod support;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use paas::{
    Engine, Error, ErrorCode, KindName, Local, Principal, Result, Step, StepCall, StepDef, StepName,
    StepOutput, Subject, WorkflowKind,
};
use serde::{Deserialize, Serialize};

/// What the workflow is asked to do: stored with it, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct SignUp {
    customer: String,
    plan: String,
}

/// Makes the customer's folder.
#[derive(Debug)]
struct Reserve {
    customers: PathBuf,
}

#[async_trait]
impl Step for Reserve {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let folder = self.customers.join(call.input::<SignUp>()?.customer);
        // Ensures: after a crash it is called again, and the folder may be there.
        std::fs::create_dir_all(&folder)
            .map_err(|e| Error::from_io("can't make the customer's folder", e))?;
        println!("       reserve: made {}", name(&folder));
        StepOutput::with(&folder)
    }

    fn has_undo(&self) -> bool {
        true
    }

    async fn undo(&self, call: &StepCall) -> Result<()> {
        let folder = self.customers.join(call.input::<SignUp>()?.customer);
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::from_io("can't remove the customer's folder", e))
            }
            _ => {
                println!("       reserve: removed {} again", name(&folder));
                Ok(())
            }
        }
    }
}

/// Refuses plans that nobody sells.
#[derive(Debug)]
struct Check;

#[async_trait]
impl Step for Check {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let plan = call.input::<SignUp>()?.plan;
        if plan != "hobby" {
            return Err(Error::new(
                ErrorCode::InvalidParams,
                format!("there is no plan {plan}; there is hobby"),
            ));
        }
        println!("       check: the plan is fine");
        Ok(StepOutput::done())
    }
}

/// Writes the letter. It can't be taken back, so it is the pivot: an error here is retried until it works.
#[derive(Debug)]
struct Welcome;

#[async_trait]
impl Step for Welcome {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        let missing = || Error::new(ErrorCode::Internal, "the step reserve gave no folder");
        let folder: PathBuf = call.output("reserve")?.ok_or_else(missing)?;
        let written = std::fs::write(folder.join("letter.txt"), "Welcome!\n");
        written.map_err(|e| Error::from_io("can't write the letter", e))?;
        println!("       welcome: the letter is out");
        Ok(StepOutput::done())
    }
}

fn main() -> ExitCode {
    paas::init();
    support::run(example())
}

async fn example() -> Result<()> {
    let scratch = support::scratch()?;
    let customers = scratch.path().join("customers");
    let welcome = StepName::new("welcome")?;
    let kind = WorkflowKind::new(KindName::new("sign_up")?, 1)
        .step(StepDef::new(StepName::new("reserve")?, Arc::new(Reserve { customers: customers.clone() })))
        .step(StepDef::new(StepName::new("check")?, Arc::new(Check)))
        .step(StepDef::new(welcome.clone(), Arc::new(Welcome)))
        .pivot(welcome);
    let local = Local::open(scratch.path().join("data"), "127.0.0.1:0").await?;
    let engine = local.engine()?.with_workflow(kind.clone()).build()?;
    engine.start().await?;
    for plan in ["hobby", "galactic"] {
        sign_up(&engine, &kind.name, plan).await?;
        println!("       {} customer(s) now", std::fs::read_dir(&customers).map_or(0, Iterator::count));
    }
    engine.shutdown().await;
    local.stop().await
}

async fn sign_up(engine: &Engine, kind: &KindName, plan: &str) -> Result<()> {
    println!("-----> Signing up for {plan}");
    let input = SignUp { customer: format!("{plan}-customer"), plan: plan.to_owned() };
    let workflow = engine.submit(kind, Subject::Platform, &input, &Principal::named("shop")?).await?;
    match workflow.succeeded().await {
        Ok(_) => println!("-----> Signed up"),
        Err(error) => println!("-----> Not signed up: {error}"),
    }
    Ok(())
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}
