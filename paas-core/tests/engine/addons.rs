//! What add-ons of an app bring about, and what they must not.

use std::time::Duration;

use paas_core::{AddonOrder, ConfigEdit, ConfigVars, ErrorCode, RollbackOrder, Version};

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
