//! Engines are replaced by newer ones, one after the other, while deploys come all the time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use paas_core::testkit::history::{Acknowledged, History};
use paas_core::testkit::world::TestPlatform;
use paas_core::{
    AppName, Engine, EngineBuilder, KindName, Result, Step, StepCall, StepDef, StepOutput, Subject,
    WorkflowId, WorkflowKind, WorkflowState,
};

use crate::platform::{Fleet, Users, deploy, hello, me};

/// Notes who ran what.
#[derive(Debug, Clone, Default)]
struct Ran(Arc<Mutex<BTreeSet<(WorkflowId, u32)>>>);

#[derive(Debug)]
struct Note(u32, Ran);

#[async_trait]
impl Step for Note {
    async fn run(&self, call: &StepCall) -> Result<StepOutput> {
        self.1.0.lock().unwrap().insert((call.workflow.id, self.0));
        Ok(StepOutput::done())
    }
}

fn audit() -> KindName {
    "audit".parse().unwrap()
}

/// A program that knows the kind `audit` in these versions.
fn knows(versions: &'static [u32], ran: &Ran) -> impl FnOnce(EngineBuilder) -> EngineBuilder {
    let kind = |version| {
        let note = StepDef::new("note".parse().unwrap(), Arc::new(Note(version, ran.clone())));
        WorkflowKind::new(audit(), version).step(note)
    };
    let kinds: Vec<_> = versions.iter().copied().map(kind).collect();
    move |builder| kinds.into_iter().fold(builder, EngineBuilder::with_workflow)
}

/// The engines that are there, one of which takes each order.
#[derive(Clone)]
struct Engines(Arc<Mutex<Vec<Engine>>>);

impl Engines {
    fn one(&self, turn: usize) -> Engine {
        let engines = self.0.lock().unwrap();
        engines[turn % engines.len()].clone()
    }

    /// How it ended, as one of those says that are there then.
    async fn ended(&self, id: WorkflowId) -> WorkflowState {
        self.one(0).workflow(id).ended().await.unwrap().state
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_three_engines_under_constant_deploys_loses_nothing() {
    let Some(fleet) = Fleet::new().await else { return };
    let ran = Ran::default();
    let mut started = Vec::new();
    for _ in 0..3 {
        started.push(fleet.engine_with(knows(&[1], &ran)).await);
    }
    let engines = Engines(Arc::new(Mutex::new(started)));
    let apps: Vec<AppName> = ["hello", "one", "two"].map(|name| name.parse().unwrap()).to_vec();
    for app in &apps {
        engines.one(0).create_app(app, &me()).await.unwrap();
    }
    let url = fleet.server.url();
    let proxies =
        [fleet.proxy(&url, Duration::from_secs(60)).await, fleet.proxy(&url, Duration::from_secs(60)).await];
    let live = Arc::new(AtomicU32::new(deploy(&engines.one(0), "web: first\n").await));
    let users: Vec<Users> = proxies.iter().map(|proxy| Users::of(proxy, &live)).collect();

    let done = Arc::new(AtomicBool::new(false));
    let clients = apps.iter().enumerate().map(|(number, app)| {
        let (engines, app, done) = (engines.clone(), app.clone(), done.clone());
        tokio::spawn(async move {
            let mut told = Vec::new();
            let mut round = number;
            while !done.load(Ordering::SeqCst) {
                round += 1;
                let engine = engines.one(round);
                // Two at once, so that one is superseded now and then.
                let mut asked = Vec::new();
                for half in 0..2 {
                    let code = format!("web: {round} {half}\n");
                    asked.push(TestPlatform::deploy(&engine, &app, &code).await.unwrap().id());
                }
                let subject = Subject::App(app.clone());
                asked.push(engine.submit(&audit(), subject, &"look", &me()).await.unwrap().id());
                told.extend(asked.iter().map(|id| Acknowledged::Queued(*id)));
                for id in asked {
                    let state = engines.ended(id).await;
                    let well = matches!(state, WorkflowState::Succeeded | WorkflowState::Superseded);
                    assert!(well, "{id} of {app} ended as {state}");
                    told.push(Acknowledged::Ended(id, state));
                }
            }
            told
        })
    });
    let clients: Vec<_> = clients.collect();

    let first_place = |engines: &Engines| engines.0.lock().unwrap().remove(0);
    for _ in 0..3 {
        // In the middle of things, whatever they are: the next deploy is under way.
        let version = engines.one(0).app(&hello()).await.unwrap().last_version;
        while engines.one(0).app(&hello()).await.unwrap().last_version <= version {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let old = first_place(&engines);
        old.shutdown().await;
        let new = fleet.engine_with(knows(&[1, 2], &ran)).await;
        engines.0.lock().unwrap().push(new);
    }
    // All are new ones now; each goes on for a while.
    let version = engines.one(0).app(&hello()).await.unwrap().last_version.unwrap().number();
    while engines.one(0).app(&hello()).await.unwrap().last_version.unwrap().number() < version + 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    done.store(true, Ordering::SeqCst);
    let mut told = Vec::new();
    for client in clients {
        told.extend(client.await.expect("every order ends well"));
    }
    for users in users {
        assert!(users.end().await > 0);
    }
    for proxy in proxies {
        proxy.stop().await;
    }
    let engines: Vec<Engine> = engines.0.lock().unwrap().drain(..).collect();
    for engine in engines {
        engine.shutdown().await;
    }
    let store = fleet.store(&fleet.server.url()).await;
    let history = told.into_iter().fold(History::read(store.as_ref()).await.unwrap(), History::told);
    assert_eq!(history.check(), []);
    for workflow in history.workflows.iter().filter(|workflow| workflow.kind == audit()) {
        let by: Vec<u32> =
            ran.0.lock().unwrap().iter().filter(|(id, _)| *id == workflow.id).map(|(_, v)| *v).collect();
        assert_eq!(by, [workflow.kind_version], "each is carried out as its own version");
    }
    let versions: BTreeSet<u32> =
        history.workflows.iter().filter(|w| w.kind == audit()).map(|w| w.kind_version).collect();
    assert_eq!(versions, BTreeSet::from([1, 2]), "both versions had work meanwhile");
}
