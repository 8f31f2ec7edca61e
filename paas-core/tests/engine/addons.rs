//! What add-ons of an app bring about, and what they must not.

use std::time::Duration;

use paas_core::testkit::world::{Fault, TestPlatform};
use paas_core::{
    AddonId, AddonOrder, AddonState, ConfigEdit, ConfigKey, ConfigVars, ErrorCode, RollbackOrder, StepState,
    Subject, Version, WorkflowState,
};

use crate::{Bench, WEB, hello, me};

fn wish(service: &str, attachment: &str) -> String {
    format!("{{\"service\":\"{service}\",\"plan\":null,\"attachment\":{attachment}}}")
}

fn app_json(wishes: &[String]) -> String {
    format!("web: a\n---\n{{\"addons\":[{}]}}", wishes.join(","))
}

#[tokio::test]
async fn a_service_that_is_not_had_here_fails_the_deploy_and_leaves_nothing() {
    let bench = Bench::new().await;
    let code = app_json(&[wish("fakesql", "null"), wish("redis", "null")]);
    let ended = tokio::time::timeout(Duration::from_secs(60), bench.deploy(&code)).await;
    assert_eq!(ended.expect("the deploy ends").unwrap_err().code(), ErrorCode::NotFound);
    assert!(bench.platform.world.addons().is_empty());
    bench.deploy(WEB).await.unwrap();
    bench.is_sound().await;
}

#[tokio::test]
async fn two_wishes_for_one_service_make_one() {
    let bench = Bench::new().await;
    let code = app_json(&[wish("fakesql", "null"), wish("fakesql", "null")]);
    bench.deploy(&code).await.unwrap();
    assert_eq!(bench.platform.world.addons().len(), 1);
}

#[tokio::test]
async fn each_add_on_has_its_own_vars_also_where_one_name_begins_with_the_other() {
    let bench = Bench::new().await;
    let code = app_json(&[wish("fakesql", "\"FAKE\""), wish("fakesql", "\"FAKE_TWO\"")]);
    bench.deploy(&code).await.unwrap();
    let addons = bench.engine.addons(&hello()).await.unwrap();
    let two = addons.iter().find(|a| a.attachment.as_str() == "FAKE_TWO").unwrap().id;
    bench.engine.remove_addon(two, &me()).await.unwrap().succeeded().await.unwrap();
    let config = bench.engine.config(&hello()).await.unwrap();
    assert!(config.get("FAKE_TWO_URL").is_none(), "a destroyed add-on's var is still there");
}

#[tokio::test]
async fn what_an_app_says_of_an_add_on_reaches_its_provider() {
    let bench = Bench::new().await;
    let wish = r#"{"service":"fakesql","plan":null,"attachment":null,"options":{"version":"16"}}"#;
    bench.deploy(&app_json(&[wish.to_owned()])).await.unwrap();
    let mut order = AddonOrder::new("fakesql".parse().unwrap()).named("SECOND".parse().unwrap());
    order.options.insert("version".to_owned(), "17".to_owned());
    let (_, made) = bench.engine.add_addon(&hello(), order, &me()).await.unwrap();
    made.succeeded().await.unwrap();
    let effects = bench.platform.world.history();
    let said: Vec<_> = effects.iter().filter_map(|effect| effect.split_once(" version=")).collect();
    assert_eq!(said.iter().map(|(_, version)| *version).collect::<Vec<_>>(), ["16", "17"], "{effects:?}");
}

#[tokio::test]
async fn rolling_back_past_an_attach_keeps_the_add_on() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let order = AddonOrder::new("fakesql".parse().unwrap());
    let (_, made) = bench.engine.add_addon(&hello(), order, &me()).await.unwrap();
    let made = made.succeeded().await.unwrap();
    let rollout = made.output("attach").unwrap()["rollout"].as_str().unwrap().parse().unwrap();
    bench.engine.workflow(rollout).succeeded().await.unwrap();
    bench
        .engine
        .rollback(&hello(), RollbackOrder::to(Version::FIRST), &me())
        .await
        .unwrap()
        .succeeded()
        .await
        .unwrap();
    bench.deploy("web: again\n").await.unwrap();
    assert_eq!(bench.engine.addons(&hello()).await.unwrap().len(), 1);
    assert!(
        bench.engine.config(&hello()).await.unwrap().get("FAKE_URL").is_some(),
        "the add-on is there and nobody has it"
    );
}

#[tokio::test]
async fn an_add_on_that_the_owners_own_var_would_hide_is_refused() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let vars = ConfigVars::new().with("FAKE_URL", "mine").unwrap();
    bench.engine.configure(&hello(), ConfigEdit::set(vars), &me()).await.unwrap().succeeded().await.unwrap();
    let order = AddonOrder::new("fakesql".parse().unwrap());
    let refused = bench.engine.add_addon(&hello(), order.clone(), &me()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Exists);
    let other = order.named("OTHER".parse().unwrap());
    bench.engine.add_addon(&hello(), other, &me()).await.unwrap().1.succeeded().await.unwrap();
}

#[tokio::test]
async fn a_var_that_an_add_on_gives_is_neither_missing_nor_set_by_app_json() {
    let bench = Bench::new().await;
    let env = r#""env":{"FAKE_URL":{"value":"sample","required":true},"FAKE_TWO_URL":{"required":true},"SECRET":{"generate":true}}"#;
    let wishes = [wish("fakesql", "null"), wish("fakesql", "\"FAKE_TWO\"")].join(",");
    bench.deploy(&format!("web: a\n---\n{{\"addons\":[{wishes}],{env}}}")).await.unwrap();
    let config = bench.engine.config(&hello()).await.unwrap();
    assert!(config.get("FAKE_URL").unwrap().expose().starts_with("fake://"));
    assert!(config.get("FAKE_TWO_URL").is_some());
    let app = bench.engine.app(&hello()).await.unwrap();
    let own: Vec<_> = app.head.config_keys().map(ConfigKey::as_str).collect();
    assert_eq!(own, ["SECRET"], "the add-ons' vars are theirs");
}

#[tokio::test]
async fn a_var_that_app_json_requires_and_nobody_gives_fails_the_deploy_before_anything_is_made() {
    let bench = Bench::new().await;
    let code = format!(
        "web: a\n---\n{{\"addons\":[{}],\"env\":{{\"KEY\":{{\"required\":true}}}}}}",
        wish("fakesql", "null")
    );
    let refused = bench.deploy(&code).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidParams);
    assert!(refused.to_string().contains("KEY"), "{refused}");
    assert!(bench.platform.world.addons().is_empty());
    let vars = ConfigVars::new().with("KEY", "mine").unwrap();
    bench.engine.configure(&hello(), ConfigEdit::set(vars), &me()).await.unwrap().succeeded().await.unwrap();
    bench.deploy(&code).await.unwrap();
    assert_eq!(bench.engine.config(&hello()).await.unwrap().get("KEY").unwrap().expose(), "mine");
    bench.is_sound().await;
}

/// A live app with an add-on.
async fn with_add_on() -> (Bench, AddonId) {
    let bench = Bench::new().await;
    bench.deploy(&app_json(&[wish("fakesql", "null")])).await.unwrap();
    let addon = bench.engine.addons(&hello()).await.unwrap()[0].id;
    (bench, addon)
}

async fn fake_url(bench: &Bench) -> String {
    bench.engine.config(&hello()).await.unwrap().get("FAKE_URL").unwrap().expose().to_owned()
}

#[tokio::test]
async fn rotated_credentials_reach_the_app_and_the_old_ones_end_after_its_last_old_instance() {
    let (bench, addon) = with_add_on().await;
    let before = fake_url(&bench).await;
    let done = bench.engine.rotate_addon(addon, &me()).await.unwrap().succeeded().await.unwrap();
    assert_eq!(done.subject, Subject::Addon(addon));
    assert_ne!(fake_url(&bench).await, before);

    let releases = bench.engine.releases(&hello()).await.unwrap();
    assert_eq!(releases.len(), 2);
    assert_eq!(releases[0].description, "Rotate FAKE credentials");
    let history = bench.platform.world.history();
    let at = |what: &str| {
        history.iter().position(|e| e.starts_with(what)).unwrap_or_else(|| panic!("no {what}: {history:#?}"))
    };
    let order = ["rotate ", "start hello web.1 v2", "stop hello web.1 v1", "revoke "].map(at);
    assert!(order.is_sorted(), "{history:#?}");
    bench.is_sound().await;
}

#[tokio::test]
async fn while_the_app_does_not_come_up_with_new_credentials_the_old_ones_stay_valid() {
    let (bench, addon) = with_add_on().await;
    bench.platform.world.crash("web");
    let rotating = bench.engine.rotate_addon(addon, &me()).await.unwrap();
    let waits = async || rotating.state().await.unwrap().step("settle").unwrap().state;
    let failed = async || bench.engine.releases(&hello()).await.unwrap()[0].failure.is_some();
    while waits().await != StepState::Retrying || !failed().await {
        tokio::task::yield_now().await;
    }
    let said = rotating.state().await.unwrap().step("settle").unwrap().output.to_string();
    assert!(said.contains("v1 still runs with the old credentials"), "{said}");
    assert_eq!(bench.platform.world.count(&format!("revoke {addon} 0")), 0);

    // The next release that comes up has them, whatever it was made for.
    bench.platform.world.mend();
    bench.deploy(WEB).await.unwrap();
    rotating.succeeded().await.unwrap();
    assert_eq!(bench.platform.world.count(&format!("revoke {addon} 0")), 1);
    bench.is_sound().await;
}

#[tokio::test]
async fn a_rotation_that_is_cancelled_before_the_app_has_it_leaves_the_credentials_that_it_runs_with() {
    let (bench, addon) = with_add_on().await;
    let before = fake_url(&bench).await;
    bench.platform.world.plan("rotate", [Fault::Hang]);
    let rotating = bench.engine.rotate_addon(addon, &me()).await.unwrap();
    while bench.platform.world.planned("rotate") > 0 {
        tokio::task::yield_now().await;
    }
    bench.engine.cancel(rotating.id(), "not now", &me()).await.unwrap();
    assert_eq!(rotating.ended().await.unwrap().state, WorkflowState::Cancelled);
    assert_eq!(fake_url(&bench).await, before);
    assert_eq!(bench.engine.releases(&hello()).await.unwrap().len(), 1);

    bench.engine.rotate_addon(addon, &me()).await.unwrap().succeeded().await.unwrap();
    assert_ne!(fake_url(&bench).await, before);
    bench.is_sound().await;
}

#[tokio::test]
async fn an_app_that_is_destroyed_during_a_rotation_takes_the_rotation_with_it() {
    let (bench, addon) = with_add_on().await;
    bench.platform.world.crash("web");
    let rotating = bench.engine.rotate_addon(addon, &me()).await.unwrap();
    while rotating.state().await.unwrap().step("settle").unwrap().state != StepState::Retrying {
        tokio::task::yield_now().await;
    }
    bench.engine.destroy_app(&hello(), &me()).await.unwrap().succeeded().await.unwrap();
    rotating.succeeded().await.unwrap();
    assert!(bench.platform.world.addons().is_empty());
    let gone = bench.engine.rotate_addon(addon, &me()).await.unwrap_err();
    assert_eq!(gone.code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn credentials_of_an_app_that_was_never_deployed_are_rotated_at_once() {
    let bench = Bench::new().await;
    let order = AddonOrder::new("fakesql".parse().unwrap());
    let (addon, made) = bench.engine.add_addon(&hello(), order, &me()).await.unwrap();
    made.succeeded().await.unwrap();
    let before = fake_url(&bench).await;
    bench.engine.rotate_addon(addon, &me()).await.unwrap().succeeded().await.unwrap();
    assert_ne!(fake_url(&bench).await, before);
}

#[tokio::test]
async fn what_a_first_deploy_made_is_unmade_when_somebody_adds_the_same_before_it_goes_on() {
    let bench = Bench::new().await;
    let world = &bench.platform.world;
    world.plan("bind", [Fault::Hang]);
    let code = app_json(&[wish("fakesql", "null")]);
    let deploy = TestPlatform::deploy(&bench.engine, &hello(), &code).await.unwrap();
    while world.planned("bind") > 0 {
        tokio::task::yield_now().await;
    }
    // It has made one, and stops.
    bench.engine.shutdown().await;
    let order = AddonOrder::new("fakesql".parse().unwrap());
    let (added, _) = bench.engine.add_addon(&hello(), order, &me()).await.unwrap();
    let next = bench.platform.engine(bench.store.clone()).unwrap().build().unwrap();
    next.start().await.unwrap();
    next.workflow(deploy.id()).succeeded().await.unwrap();
    while !next.addons(&hello()).await.unwrap().iter().all(|addon| addon.state == AddonState::Provisioned) {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.addons().into_keys().collect::<Vec<_>>(), [added]);
    next.shutdown().await;
}
