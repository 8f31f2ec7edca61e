//! What deploys, rollbacks and changes of config and formation bring about.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use paas_core::testkit::world::{Fault, TestPlatform};
use paas_core::{
    AddonOrder, ConfigEdit, ConfigVars, DeployOrder, ErrorCode, EventKind, ProcessType, ReleaseState,
    RollbackOrder, RouteState, Scale, StepState, Version, WorkflowState,
};

use crate::{Bench, WEB, WEB_AND_WORKER, hello, me};

fn version(number: u32) -> Version {
    Version::new(number).unwrap()
}

#[tokio::test]
async fn a_deploy_makes_a_release_that_users_see() {
    let bench = Bench::new().await;
    let workflow = bench.deploy(WEB).await.unwrap();
    assert_eq!(workflow.state, WorkflowState::Succeeded);
    let app = bench.engine.app(&hello()).await.unwrap();
    assert_eq!(app.live.unwrap().version, version(1));
    let routes = bench.platform.world.routes(&hello()).unwrap();
    assert_eq!(routes.backends.len(), 1);
    assert_eq!(routes.domains[0].as_str(), "hello.localhost");
    assert_eq!(bench.engine.releases(&hello()).await.unwrap()[0].state, ReleaseState::Succeeded);
    bench.is_sound().await;
}

#[tokio::test]
async fn the_new_release_is_up_before_the_route_moves_and_the_old_one_ends_after_it() {
    let bench = Bench::new().await;
    bench.deploy(WEB_AND_WORKER).await.unwrap();
    bench.deploy("web: other\nworker: work\n").await.unwrap();
    let history = bench.platform.world.history();
    let place = |what: &str| {
        history.iter().rposition(|h| h.starts_with(what)).unwrap_or_else(|| panic!("{what}: {history:#?}"))
    };
    assert!(place("start hello web.1 v2") < place("route hello"));
    assert!(place("start hello worker.1 v2") < place("route hello"));
    assert!(place("route hello") < place("stop hello web.1 v1"));
    assert!(place("route hello") < place("stop hello worker.1 v1"));
    bench.is_sound().await;
}

#[tokio::test]
async fn after_a_start_the_router_never_hears_of_instances_that_are_gone() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let before = bench.platform.world.routes(&hello()).unwrap();
    bench.engine.shutdown().await;
    // The machine went down, and with it what ran and what the router knew.
    bench.platform.world.reboot();
    let engine = bench.platform.engine(bench.store.clone()).unwrap().build().unwrap();
    engine.start().await.unwrap();
    engine.routed().await;
    let first = bench.platform.world.routes(&hello()).expect("the router was told");
    assert!(first.generation > before.generation, "{first:?}");
    let alive: Vec<_> = bench.platform.world.instances().into_iter().filter_map(|i| i.address).collect();
    assert!(first.backends.iter().all(|backend| alive.contains(&backend.address)), "{first:?}");
    assert!(!first.backends.is_empty() || first.state == RouteState::Starting, "{first:?}");
    let mut changes = engine.watch(0, Some(hello()));
    while bench.platform.world.routes(&hello()).is_none_or(|routes| routes.state != RouteState::Serving) {
        changes.next().await.unwrap().unwrap();
    }
    engine.shutdown().await;
}

#[tokio::test]
async fn invariant_2_before_the_pivot_a_failure_undoes_everything_it_started() {
    for (call, code) in [
        ("fetch", ErrorCode::BadSource),
        ("build", ErrorCode::BuildFailed),
        ("ensure", ErrorCode::InvalidParams),
    ] {
        let bench = Bench::new().await;
        bench.deploy(WEB).await.unwrap();
        let routes = bench.platform.world.routes(&hello()).unwrap();
        bench.platform.world.plan(call, [Fault::Fail(code)]);
        let error = bench.deploy("web: other\n").await.unwrap_err();
        assert_eq!(error.code(), code, "{call}: {error:?}");
        assert_eq!(bench.platform.world.routes(&hello()).unwrap(), routes, "{call}");
        assert_eq!(bench.engine.app(&hello()).await.unwrap().live.unwrap().version, version(1));
        bench.is_sound().await;
    }
}

#[tokio::test]
async fn invariant_3_a_worker_that_crashes_keeps_web_of_the_old_release_serving() {
    let bench = Bench::new().await;
    bench.deploy(WEB_AND_WORKER).await.unwrap();
    bench.platform.world.crash("worker");
    let error = bench.deploy("web: other\nworker: broken\n").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ProcessCrashed);
    assert!(error.to_string().contains("worker.1"), "{error}");
    assert_eq!(error.output(), ["boom"]);
    let releases = bench.engine.releases(&hello()).await.unwrap();
    assert_eq!(releases[0].state, ReleaseState::Failed);
    assert_eq!(releases[0].version, version(2));
    bench.is_sound().await;
    bench.platform.world.mend();
    bench.deploy("web: other\nworker: broken\n").await.unwrap();
    assert_eq!(
        bench.engine.app(&hello()).await.unwrap().live.unwrap().version,
        version(3),
        "the number stays taken"
    );
    bench.is_sound().await;
}

#[tokio::test]
async fn a_release_phase_that_fails_changes_nothing_for_users() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.platform.world.run_status(3);
    let error = bench.deploy("web: serve\nrelease: migrate\n").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ReleasePhaseFailed);
    assert!(error.to_string().contains("status 3"), "{error}");
    assert_eq!(bench.platform.world.count("run hello release v2"), 1);
    assert_eq!(bench.platform.world.count("start hello web.1 v2"), 0);
    bench.is_sound().await;
}

#[tokio::test]
async fn an_error_that_passes_is_retried_and_nobody_notices() {
    let bench = Bench::new().await;
    for call in ["fetch", "build", "ensure", "apply", "drain", "retire"] {
        bench.platform.world.plan(call, [Fault::Flake, Fault::AnswerLost]);
    }
    bench.deploy(WEB).await.unwrap();
    bench.deploy("web: other\n").await.unwrap();
    bench.is_sound().await;
}

#[tokio::test]
async fn after_the_pivot_even_a_permanent_error_is_retried_until_it_passes() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let faults = std::iter::repeat_n(Fault::Fail(ErrorCode::Internal), 12);
    bench.platform.world.plan("retire", faults);
    bench.deploy("web: other\n").await.unwrap();
    bench.is_sound().await;
}

#[tokio::test]
async fn that_nobody_can_see_a_release_for_a_while_is_no_verdict_on_it() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let world = &bench.platform.world;
    world.blind();
    let handle = TestPlatform::deploy(&bench.engine, &hello(), "web: other\n").await.unwrap();
    while handle.state().await.unwrap().step("await_healthy").unwrap().state != StepState::Started {
        tokio::task::yield_now().await;
    }
    let looked = world.count("look in vain");
    while world.count("look in vain") < looked + 3 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    world.mend();
    let done = handle.succeeded().await.unwrap();
    assert_eq!(done.step("await_healthy").unwrap().attempt, 1, "it looked again within the one attempt");
    bench.is_sound().await;
}

#[tokio::test]
async fn a_release_that_loses_its_machine_while_it_is_awaited_is_started_again_and_goes_live() {
    let bench = Bench::new().await;
    let world = &bench.platform.world;
    world.blind();
    let handle = TestPlatform::deploy(&bench.engine, &hello(), WEB).await.unwrap();
    while handle.state().await.unwrap().step("await_healthy").unwrap().state != StepState::Started {
        tokio::task::yield_now().await;
    }
    world.reboot();
    world.mend();
    handle.succeeded().await.unwrap();
    assert_eq!(world.instances().len(), 1);
}

#[tokio::test]
async fn the_same_input_is_built_once() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.deploy(WEB).await.unwrap();
    assert_eq!(bench.platform.world.count("build hello"), 1);
    let vars = ConfigVars::new().with("COLOR", "blue").unwrap();
    bench.engine.configure(&hello(), ConfigEdit::set(vars), &me()).await.unwrap().succeeded().await.unwrap();
    bench.deploy(WEB).await.unwrap();
    assert_eq!(bench.platform.world.count("build hello"), 2, "a build may depend on config");
}

#[tokio::test]
async fn what_nobody_can_build_says_what_was_looked_for() {
    let platform = TestPlatform::new().unwrap();
    let store = std::sync::Arc::new(paas_core::store::MemoryStore::new(platform.clock()));
    let engine = platform.engine(store).unwrap().build().unwrap();
    engine.start().await.unwrap();
    engine.create_app(&hello(), &me()).await.unwrap();
    let into = platform.dir().join("empty");
    std::fs::create_dir(&into).unwrap();
    let archive = platform.dir().join("empty.tar.zst");
    let packed = paas_core::archive::pack(&into, &archive, &|_, _| true).unwrap();
    engine.blobs().put(packed.digest, &archive).await.unwrap();
    let source = paas_core::SourceRef::archived(packed.digest, paas_core::Revision::default());
    let deploy = engine.deploy(&hello(), DeployOrder::new(source), &me()).await.unwrap();
    let error = deploy.succeeded().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotDetected);
    assert!(error.to_string().contains("Procfile"), "{error}");
}

#[tokio::test]
async fn a_config_change_is_a_release_of_the_same_artifact() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let vars = ConfigVars::new().with("COLOR", "blue").unwrap();
    bench.engine.configure(&hello(), ConfigEdit::set(vars), &me()).await.unwrap().succeeded().await.unwrap();
    let releases = bench.engine.releases(&hello()).await.unwrap();
    assert_eq!(releases[0].version, version(2));
    assert_eq!(releases[0].description, "Set COLOR config var");
    assert_eq!(releases[0].artifact, releases[1].artifact);
    assert_eq!(bench.engine.config(&hello()).await.unwrap().get("COLOR").unwrap().expose(), "blue");
    bench.is_sound().await;
}

#[tokio::test]
async fn a_config_change_whose_roll_out_fails_stays_the_head_and_the_app_says_so() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.platform.world.crash("web");
    let vars = ConfigVars::new().with("COLOR", "blue").unwrap();
    let rollout = bench.engine.configure(&hello(), ConfigEdit::set(vars), &me()).await.unwrap();
    rollout.succeeded().await.unwrap_err();
    let app = bench.engine.app(&hello()).await.unwrap();
    assert!(app.is_ahead());
    assert_eq!(app.live.unwrap().version, version(1));
    bench.is_sound().await;
}

#[tokio::test]
async fn a_rollback_brings_artifact_and_config_back_as_a_new_release() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let vars = ConfigVars::new().with("COLOR", "blue").unwrap();
    bench.engine.configure(&hello(), ConfigEdit::set(vars), &me()).await.unwrap().succeeded().await.unwrap();
    bench.deploy("web: other\n").await.unwrap();
    let back = bench.engine.rollback(&hello(), RollbackOrder::to(version(1)), &me()).await.unwrap();
    back.succeeded().await.unwrap();
    let releases = bench.engine.releases(&hello()).await.unwrap();
    assert_eq!(releases[0].version, version(4));
    assert_eq!(releases[0].description, "Rollback to v1");
    assert_eq!(releases[0].artifact, releases[3].artifact);
    assert!(bench.engine.config(&hello()).await.unwrap().is_empty(), "the head is the old config again");
    let kept = RollbackOrder::to(version(2)).keeping_config();
    bench.engine.rollback(&hello(), kept, &me()).await.unwrap().succeeded().await.unwrap();
    assert!(bench.engine.config(&hello()).await.unwrap().is_empty(), "today's config was kept");
    bench.is_sound().await;
}

#[tokio::test]
async fn a_release_that_never_went_live_is_no_goal_for_a_rollback() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.platform.world.crash("web");
    bench.deploy("web: other\n").await.unwrap_err();
    let error = bench.engine.rollback(&hello(), RollbackOrder::to(version(2)), &me()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidParams);
    let error = bench.engine.rollback(&hello(), RollbackOrder::to(version(9)), &me()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn scaling_up_and_down_touches_only_what_changes() {
    let bench = Bench::new().await;
    bench.deploy(WEB_AND_WORKER).await.unwrap();
    let web = |n| BTreeMap::from([(ProcessType::web(), Scale::of(n))]);
    bench.engine.scale(&hello(), web(3), &me()).await.unwrap().succeeded().await.unwrap();
    assert_eq!(bench.platform.world.routes(&hello()).unwrap().backends.len(), 3);
    bench.is_sound().await;
    bench.engine.scale(&hello(), web(1), &me()).await.unwrap().succeeded().await.unwrap();
    bench.is_sound().await;
    bench.engine.scale(&hello(), web(0), &me()).await.unwrap().succeeded().await.unwrap();
    bench.is_sound().await;
    assert_eq!(bench.platform.world.count("start hello worker.1 v1"), 1);
    assert_eq!(bench.engine.releases(&hello()).await.unwrap().len(), 1, "no release is made");
    let error =
        bench.engine.scale(&hello(), BTreeMap::from([("clock".parse().unwrap(), Scale::of(1))]), &me()).await;
    assert!(error.unwrap_err().to_string().contains("web, worker"));
    bench.deploy("web: other\nworker: work\n").await.unwrap();
    assert_eq!(
        bench.platform.world.routes(&hello()).unwrap().backends.len(),
        0,
        "the formation outlives deploys"
    );
    bench.is_sound().await;
}

#[tokio::test]
async fn a_scale_up_that_fails_leaves_as_many_as_before() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.platform.world.crash("web");
    let three = BTreeMap::from([(ProcessType::web(), Scale::of(3))]);
    bench.engine.scale(&hello(), three, &me()).await.unwrap().succeeded().await.unwrap_err();
    assert_eq!(bench.platform.world.instances().len(), 1);
    bench.is_sound().await;
}

#[tokio::test]
async fn invariant_12_a_single_type_never_runs_twice_and_the_deploy_says_so() {
    let bench = Bench::new().await;
    let code =
        |web| format!("web: {web}\nclock: tick\n---\n{{\"formation\":{{\"clock\":{{\"single\":true}}}}}}");
    bench.deploy(&code("a")).await.unwrap();
    let second = bench.deploy(&code("b")).await.unwrap();
    let history = bench.platform.world.history();
    let place =
        |what: &str| history.iter().position(|h| h == what).unwrap_or_else(|| panic!("{what}: {history:#?}"));
    assert!(place("stop hello clock.1 v1") < place("start hello clock.1 v2"));
    let said = second.step("start").unwrap();
    assert_eq!(said.state, StepState::Done);
    let query = paas_core::LogQuery::all().workflow(second.id);
    let lines: Vec<_> =
        StreamExt::collect::<Vec<_>>(bench.engine.read_log(&hello(), query).await.unwrap()).await;
    assert!(lines.iter().any(|line| line.text.contains("clock never runs twice")), "{lines:#?}");
    bench.is_sound().await;
}

#[tokio::test]
async fn a_first_deploy_makes_what_app_json_asks_for_and_later_ones_do_not() {
    let bench = Bench::new().await;
    let code = |web| {
        format!(
            "web: {web}\n---\n{{\"addons\":[{{\"service\":\"fakesql\",\"plan\":null,\"attachment\":null}}],\
             \"env\":{{\"SECRET_KEY\":{{\"generate\":true}},\"MODE\":{{\"value\":\"fast\"}}}}}}"
        )
    };
    bench.deploy(&code("a")).await.unwrap();
    let config = bench.engine.config(&hello()).await.unwrap();
    assert!(config.get("FAKE_URL").is_some());
    assert_eq!(config.get("MODE").unwrap().expose(), "fast");
    let secret = config.get("SECRET_KEY").unwrap().clone();
    bench.deploy(&code("b")).await.unwrap();
    let config = bench.engine.config(&hello()).await.unwrap();
    assert_eq!(config.get("SECRET_KEY").unwrap(), &secret);
    assert_eq!(bench.platform.world.addons().len(), 1);
    assert_eq!(bench.engine.releases(&hello()).await.unwrap().len(), 2);
    bench.is_sound().await;
}

#[tokio::test]
async fn a_first_deploy_that_fails_takes_its_add_ons_back_and_the_next_one_makes_them() {
    let bench = Bench::new().await;
    let code = "web: a\n---\n{\"addons\":[{\"service\":\"fakesql\",\"plan\":null,\"attachment\":null}]}";
    bench.platform.world.crash("web");
    bench.deploy(code).await.unwrap_err();
    assert!(bench.platform.world.addons().is_empty());
    bench.is_sound().await;
    bench.platform.world.mend();
    bench.deploy(code).await.unwrap();
    assert_eq!(bench.platform.world.addons().len(), 1);
    bench.is_sound().await;
}

#[tokio::test]
async fn an_add_on_is_made_attached_rolled_out_and_removed_again() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let order = AddonOrder::new("fakesql".parse().unwrap());
    let (id, made) = bench.engine.add_addon(&hello(), order, &me()).await.unwrap();
    let made = made.succeeded().await.unwrap();
    let rollout = made.output("attach").unwrap()["rollout"].as_str().unwrap().parse().unwrap();
    bench.engine.workflow(rollout).succeeded().await.unwrap();
    assert_eq!(bench.engine.app(&hello()).await.unwrap().live.unwrap().version, version(2));
    assert!(bench.engine.config(&hello()).await.unwrap().get("FAKE_URL").is_some());
    let given = ConfigVars::new().with("FAKE_URL", "mine").unwrap();
    let refused = bench.engine.configure(&hello(), ConfigEdit::set(given), &me()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidParams);
    bench.engine.remove_addon(id, &me()).await.unwrap().succeeded().await.unwrap();
    assert!(bench.platform.world.addons().is_empty());
    assert!(bench.engine.config(&hello()).await.unwrap().is_empty());
    bench.is_sound().await;
}

#[tokio::test]
async fn a_destroyed_app_leaves_nothing_and_its_name_is_free() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let order = AddonOrder::new("fakesql".parse().unwrap());
    bench.engine.add_addon(&hello(), order, &me()).await.unwrap().1.succeeded().await.unwrap();
    bench.engine.destroy_app(&hello(), &me()).await.unwrap().succeeded().await.unwrap();
    assert_eq!(bench.engine.app(&hello()).await.unwrap_err().code(), ErrorCode::NotFound);
    assert!(bench.platform.world.instances().is_empty());
    assert!(bench.platform.world.addons().is_empty());
    bench.engine.create_app(&hello(), &me()).await.unwrap();
    bench.deploy(WEB).await.unwrap();
    assert_eq!(bench.engine.app(&hello()).await.unwrap().live.unwrap().version, version(1));
}

#[tokio::test]
async fn an_instance_that_comes_back_elsewhere_is_routed_again() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let before = bench.platform.world.routes(&hello()).unwrap();
    bench.platform.world.restart_instance(&hello(), "web.1");
    let mut events = bench.engine.watch(0, Some(hello()));
    loop {
        let event = StreamExt::next(&mut events).await.unwrap().unwrap();
        if matches!(event.kind, EventKind::RoutesChanged { generation } if generation > before.generation) {
            break;
        }
    }
    loop {
        let routes = bench.platform.world.routes(&hello()).unwrap();
        if routes.generation > before.generation {
            assert_ne!(routes.backends, before.backends);
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_domain_belongs_to_one_app() {
    let bench = Bench::new().await;
    let other = "other".parse().unwrap();
    bench.engine.create_app(&other, &me()).await.unwrap();
    let domain: paas_core::DomainName = "www.example.com".parse().unwrap();
    bench.engine.add_domain(&hello(), domain.clone(), &me()).await.unwrap();
    assert!(bench.platform.world.routes(&hello()).unwrap().domains.contains(&domain));
    let taken = bench.engine.add_domain(&other, domain.clone(), &me()).await.unwrap_err();
    assert_eq!(taken.code(), ErrorCode::Exists);
    let ours = bench.engine.add_domain(&other, "hello.localhost".parse().unwrap(), &me()).await.unwrap_err();
    assert_eq!(ours.code(), ErrorCode::Exists);
    bench.engine.remove_domain(&hello(), &domain, &me()).await.unwrap();
    bench.engine.add_domain(&other, domain, &me()).await.unwrap();
}
