//! While something is frozen nothing new of it goes live; what is live is taken care of as ever.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use paas_core::store::MemoryStore;
use paas_core::testkit::world::{Fault, TestPlatform};
use paas_core::{
    Access, Action, AddonOrder, AppName, ConfigEdit, ConfigVars, Credentials, Engine, Error, ErrorCode,
    EventKind, Principal, Result, RollbackOrder, Scale, Scope, Store, WorkflowState,
};

use crate::embed::{gated, parked};
use crate::queue::begun;
use crate::{Bench, WEB, hello, me};

fn frozen_app() -> Scope {
    Scope::App(hello())
}

fn edit() -> ConfigEdit {
    ConfigEdit::set(ConfigVars::new().with("COLOR", "blue").unwrap())
}

#[tokio::test]
async fn a_frozen_app_refuses_what_would_go_live_and_says_who_froze_it_when_and_why() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.deploy("web: two\n").await.unwrap();
    bench.platform.clock.set("2026-11-27T08:00:00Z".parse().unwrap());
    bench.engine.freeze(&frozen_app(), "Black Friday", &me()).await.unwrap();
    let engine = &bench.engine;
    let refused = [
        TestPlatform::deploy(engine, &hello(), "web: three\n").await.unwrap_err(),
        engine.rollback(&hello(), RollbackOrder::previous(), &me()).await.unwrap_err(),
        engine.configure(&hello(), edit(), &me()).await.unwrap_err(),
        engine
            .submit(&"deploy".parse().unwrap(), paas_core::Subject::App(hello()), &(), &me())
            .await
            .unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.code(), ErrorCode::Frozen);
        let expected = "ada froze hello on 2026-11-27 at 08:00 UTC: Black Friday; nothing goes live until";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(error.to_string().contains("unfreeze"), "{error}");
    }
    assert_eq!(engine.releases(&hello()).await.unwrap().len(), 2);
    assert_eq!(engine.app(&hello()).await.unwrap().head.config_keys().count(), 0, "the head is as it was");

    let ended = engine.unfreeze(&frozen_app(), &me()).await.unwrap().unwrap();
    assert_eq!(ended.why, "Black Friday");
    bench.deploy("web: three\n").await.unwrap();
    bench.is_sound().await;
}

#[tokio::test]
async fn a_frozen_platform_is_every_app_frozen_also_those_that_are_made_meanwhile() {
    let bench = Bench::new().await;
    let other: AppName = "other".parse().unwrap();
    bench.engine.freeze(&Scope::Platform, "we move house", &me()).await.unwrap();
    bench.engine.create_app(&other, &me()).await.unwrap();
    for app in [hello(), other.clone()] {
        let error = TestPlatform::deploy(&bench.engine, &app, WEB).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Frozen);
        assert!(error.to_string().contains("ada froze the platform on "), "{error}");
        assert_eq!(bench.engine.frozen(&app).await.unwrap().unwrap().scope, Scope::Platform);
    }
    // An app's own freeze outlasts the platform's.
    bench.engine.freeze(&frozen_app(), "not yet", &me()).await.unwrap();
    bench.engine.unfreeze(&Scope::Platform, &me()).await.unwrap();
    TestPlatform::deploy(&bench.engine, &other, WEB).await.unwrap().succeeded().await.unwrap();
    assert_eq!(bench.deploy(WEB).await.unwrap_err().code(), ErrorCode::Frozen);
}

#[tokio::test]
async fn what_is_live_is_scaled_gets_credentials_and_domains_and_may_be_destroyed_while_it_is_frozen() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let engine = &bench.engine;
    let order = AddonOrder::new("fakesql".parse().unwrap());
    let (addon, made) = engine.add_addon(&hello(), order, &me()).await.unwrap();
    made.succeeded().await.unwrap();
    for scope in [frozen_app(), Scope::Platform] {
        engine.freeze(&scope, "a holiday", &me()).await.unwrap();
    }
    let three = BTreeMap::from([("web".parse().unwrap(), Scale::of(3))]);
    engine.scale(&hello(), three, &me()).await.unwrap().succeeded().await.unwrap();
    engine.rotate_addon(addon, &me()).await.unwrap().succeeded().await.unwrap();
    engine.add_domain(&hello(), "www.example.com".parse().unwrap(), &me()).await.unwrap();
    engine.set_maintenance(&hello(), false, &me()).await.unwrap();
    bench.is_sound().await;
    engine.destroy_app(&hello(), &me()).await.unwrap().succeeded().await.unwrap();
}

#[tokio::test]
async fn what_runs_ends_as_it_should_and_what_waits_for_its_turn_is_refused_when_that_comes() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.platform.world.plan("build", [Fault::Hang]);
    let stuck = TestPlatform::deploy(&bench.engine, &hello(), "web: one\n").await.unwrap();
    begun(&stuck, "build").await;
    let config = bench.engine.configure(&hello(), edit(), &me()).await.unwrap();
    let waits = TestPlatform::deploy(&bench.engine, &hello(), "web: two\n").await.unwrap();
    bench.engine.freeze(&frozen_app(), "an incident", &me()).await.unwrap();
    bench.engine.cancel(stuck.id(), "enough", &me()).await.unwrap();
    config.succeeded().await.expect("a change that was acknowledged is rolled out");
    assert_eq!(waits.live().await.unwrap_err().code(), ErrorCode::Frozen);
    assert_eq!(waits.state().await.unwrap().state, WorkflowState::Failed);
    assert_eq!(bench.platform.world.count("build hello"), 1, "nothing of it began");
    bench.is_sound().await;

    let bench = Bench::new().await;
    bench.platform.world.plan("build", [Fault::Delay(std::time::Duration::from_millis(20))]);
    let runs = TestPlatform::deploy(&bench.engine, &hello(), WEB).await.unwrap();
    begun(&runs, "build").await;
    bench.engine.freeze(&Scope::Platform, "an incident", &me()).await.unwrap();
    runs.succeeded().await.unwrap();
    bench.is_sound().await;
}

#[tokio::test]
async fn an_approval_during_a_freeze_lets_nothing_go_live() {
    let bench = gated("build").await;
    let waits = parked(&bench, WEB).await;
    bench.engine.freeze(&frozen_app(), "an incident", &me()).await.unwrap();
    bench.engine.signal(waits.id(), "yes".into(), &me()).await.unwrap();
    assert_eq!(waits.live().await.unwrap_err().code(), ErrorCode::Frozen);
    assert!(bench.engine.app(&hello()).await.unwrap().live.is_none());
    bench.is_sound().await;
}

#[tokio::test]
async fn a_freeze_is_every_engine_s_and_outlives_them() {
    let platform = TestPlatform::new().unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let engine = || platform.engine(store.clone()).unwrap().build().unwrap();
    let first = engine();
    first.create_app(&hello(), &me()).await.unwrap();
    first.freeze(&Scope::Platform, "a holiday", &me()).await.unwrap();
    first.shutdown().await;
    let second = engine();
    let error = TestPlatform::deploy(&second, &hello(), WEB).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Frozen);
    second.unfreeze(&Scope::Platform, &me()).await.unwrap();
    TestPlatform::deploy(&engine(), &hello(), WEB).await.unwrap();
}

#[tokio::test]
async fn freezing_twice_keeps_the_first_and_ending_nothing_is_no_error() {
    let bench = Bench::new().await;
    for scope in [frozen_app(), Scope::Platform] {
        let first = bench.engine.freeze(&scope, "a holiday", &me()).await.unwrap();
        let second = bench.engine.freeze(&scope, "an incident", &Principal::platform()).await.unwrap();
        assert_eq!(first, second);
        assert_eq!(bench.engine.unfreeze(&scope, &me()).await.unwrap(), Some(first));
        assert_eq!(bench.engine.unfreeze(&scope, &me()).await.unwrap(), None);
    }
    let events = bench.engine.events(0, None, 100).await.unwrap();
    let told = events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Frozen { .. } | EventKind::Unfrozen { .. }));
    assert_eq!(told.count(), 4);
}

/// Deploys of many apps at once, and a freeze in their midst: the story of events has none behind it.
async fn race(store: Arc<dyn Store>, platform: &TestPlatform, scope: impl Fn(&AppName) -> Scope) {
    let engine = platform.engine(store).unwrap().build().unwrap();
    let names: Vec<AppName> = (0..8).map(|n| format!("app{n}").parse().unwrap()).collect();
    for name in &names {
        engine.create_app(name, &me()).await.unwrap();
    }
    let deploying: Vec<_> = names
        .iter()
        .cloned()
        .map(|name| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for n in 0.. {
                    match TestPlatform::deploy(&engine, &name, &format!("web: {n}\n")).await {
                        Ok(_) => tokio::task::yield_now().await,
                        Err(error) => return error.code(),
                    }
                }
                unreachable!()
            })
        })
        .collect();
    for name in &names {
        tokio::task::yield_now().await;
        engine.freeze(&scope(name), "stop", &me()).await.unwrap();
    }
    for deploying in deploying {
        assert_eq!(deploying.await.unwrap(), ErrorCode::Frozen);
    }
    for name in &names {
        let events = engine.events(0, None, 100_000).await.unwrap();
        let ours = |app: &Option<AppName>| app.is_none() || app.as_ref() == Some(name);
        let mut ours = events.iter().filter(|event| ours(&event.app)).map(|event| &event.kind);
        assert!(ours.any(|kind| matches!(kind, EventKind::Frozen { .. })));
        let late: Vec<_> = ours.filter(|kind| matches!(kind, EventKind::Queued { .. })).collect();
        assert!(late.is_empty(), "accepted after the freeze of {name}: {late:?}");
    }
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_deploy_slips_in_behind_a_freeze() {
    for _ in 0..5 {
        let platform = TestPlatform::new().unwrap();
        race(Arc::new(MemoryStore::new(platform.clock())), &platform, |_| Scope::Platform).await;
        let platform = TestPlatform::new().unwrap();
        race(Arc::new(MemoryStore::new(platform.clock())), &platform, |app| Scope::App(app.clone())).await;
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_deploy_slips_in_behind_a_freeze_on_disk() {
    let platform = TestPlatform::new().unwrap();
    let open = |name: &str| paas_core::store::SqliteStore::open(platform.dir().join(name), platform.clock());
    race(Arc::new(open("one.db").unwrap()), &platform, |_| Scope::Platform).await;
    race(Arc::new(open("two.db").unwrap()), &platform, |app| Scope::App(app.clone())).await;
}

#[cfg(feature = "store-postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_deploy_slips_in_behind_a_freeze_in_postgresql() {
    use paas_core::testkit::postgres::{ClockedStore, PostgresServer};

    let Some(server) = PostgresServer::shared().await else { return };
    let platform = TestPlatform::new().unwrap();
    for _ in 0..3 {
        let schema = server.new_schema();
        let store = ClockedStore::connect(&server, &schema, platform.clock()).await.unwrap();
        race(Arc::new(store), &platform, |_| Scope::Platform).await;
    }
    let schema = server.new_schema();
    let store = ClockedStore::connect(&server, &schema, platform.clock()).await.unwrap();
    race(Arc::new(store), &platform, |app| Scope::App(app.clone())).await;
}

#[derive(Debug)]
struct OnlyAdaRepairs;

#[async_trait]
impl Access for OnlyAdaRepairs {
    async fn authenticate(&self, _: &Credentials) -> Result<Principal> {
        Ok(me())
    }

    async fn authorize(&self, principal: &Principal, action: Action, _: &AppName) -> Result<()> {
        if *principal == me() && action == Action::Repair {
            return Ok(());
        }
        Err(Error::new(ErrorCode::Forbidden, format!("{principal} may not {action:?}")))
    }
}

#[tokio::test]
async fn where_an_access_is_set_up_it_says_who_may_freeze() {
    let bench = Bench::with(|builder| builder.with_access(Arc::new(OnlyAdaRepairs))).await;
    let engine: &Engine = &bench.engine;
    let bob = Principal::named("bob").unwrap();
    let code = |result: Result<paas_core::Freeze>| result.unwrap_err().code();
    assert_eq!(code(engine.freeze(&frozen_app(), "no", &bob).await), ErrorCode::Forbidden);
    engine.freeze(&frozen_app(), "yes", &me()).await.unwrap();
    assert_eq!(engine.unfreeze(&frozen_app(), &bob).await.unwrap_err().code(), ErrorCode::Forbidden);
    // Of the whole platform nobody spoke.
    assert_eq!(code(engine.freeze(&Scope::Platform, "no", &me()).await), ErrorCode::Forbidden);
}
