//! Types with volumes: one instance at a time, and data that nobody loses by a deploy.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use paas_core::{ErrorCode, LogQuery, ProcessType, Scale, WorkflowId};

use crate::{Bench, WEB, hello, me};

const DATA: &str = r#"{"formation":{"web":{"volumes":[{"volume":"data","path":"/data"}]}}}"#;

fn code(web: &str, manifest: &str) -> String {
    format!("web: {web}\n---\n{manifest}")
}

async fn said(bench: &Bench, workflow: WorkflowId) -> String {
    let lines = bench.engine.read_log(&hello(), LogQuery::all().workflow(workflow)).await.unwrap();
    lines.map(|line| line.text + "\n").collect().await
}

#[tokio::test]
async fn a_type_that_holds_a_volume_is_stopped_before_it_is_started_anew_and_the_deploy_says_so() {
    let bench = Bench::new().await;
    bench.deploy(&code("a", DATA)).await.unwrap();
    let second = bench.deploy(&code("b", DATA)).await.unwrap();
    let history = bench.platform.world.history();
    let place =
        |what: &str| history.iter().position(|h| h == what).unwrap_or_else(|| panic!("{what}: {history:#?}"));
    assert!(place("stop hello web.1 v1") < place("start hello web.1 v2"));
    let said = said(&bench, second.id).await;
    for shown in ["web has a volume (data at /data)", "stopped before the new one starts; requests are held"]
    {
        assert!(said.contains(shown), "{said}");
    }
    bench.is_sound().await;
}

#[tokio::test]
async fn many_instances_share_a_volume_only_where_the_app_says_so() {
    let bench = Bench::new().await;
    let three = || BTreeMap::from([(ProcessType::web(), Scale::of(3))]);
    bench.deploy(&code("a", DATA)).await.unwrap();
    let refused = bench.engine.scale(&hello(), three(), &me()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidParams);
    assert!(refused.message().contains("volume data, which one instance holds alone"), "{refused}");

    let shared = DATA.replace("\"/data\"", "\"/data\",\"shared\":true");
    let shared = bench.deploy(&code("b", &shared)).await.unwrap();
    assert!(!said(&bench, shared.id).await.contains(" !     "), "nothing is degraded");
    bench.engine.scale(&hello(), three(), &me()).await.unwrap().succeeded().await.unwrap();
    assert_eq!(bench.platform.world.instances().len(), 3);

    let error = bench.deploy(&code("c", DATA)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidParams, "{error}");
    assert_eq!(bench.platform.world.instances().len(), 3, "the old release serves");
    bench.is_sound().await;
}

#[tokio::test]
async fn a_volume_stays_when_no_release_asks_for_it_until_somebody_says_twice_that_it_goes() {
    let bench = Bench::new().await;
    let (engine, data) = (&bench.engine, "data".parse().unwrap());
    bench.deploy(&code("a", DATA)).await.unwrap();
    let [volume] = &engine.volumes(&hello()).await.unwrap()[..] else { panic!("one volume") };
    assert!(volume.is_made && volume.seen == [(ProcessType::web(), "/data".parse().unwrap())], "{volume:?}");
    let in_use = engine.remove_volume(&hello(), &data, "hello", &me()).await.unwrap_err();
    assert_eq!(in_use.code(), ErrorCode::Conflict, "{in_use}");

    bench.deploy(WEB).await.unwrap();
    let [volume] = &engine.volumes(&hello()).await.unwrap()[..] else { panic!("it stays") };
    assert!(volume.is_made && volume.seen.is_empty(), "{volume:?}");
    for wrong in ["", "data", "yes"] {
        let error = engine.remove_volume(&hello(), &data, wrong, &me()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidParams, "{error}");
    }
    engine.remove_volume(&hello(), &data, "hello", &me()).await.unwrap();
    assert_eq!(engine.volumes(&hello()).await.unwrap(), []);
    let gone = engine.remove_volume(&hello(), &data, "hello", &me()).await.unwrap_err();
    assert_eq!(gone.code(), ErrorCode::NotFound, "{gone}");

    bench.deploy(&code("b", DATA)).await.unwrap();
    engine.destroy_app(&hello(), &me()).await.unwrap().succeeded().await.unwrap();
    engine.create_app(&hello(), &me()).await.unwrap();
    assert_eq!(engine.volumes(&hello()).await.unwrap(), [], "volumes go with their app");
}

#[tokio::test]
async fn who_deploys_hears_when_what_could_only_start_after_the_switch_does_not() {
    let bench = Bench::new().await;
    bench.deploy(&code("a", DATA)).await.unwrap();
    bench.platform.world.crash("web");
    let second = bench.deploy(&code("b", DATA)).await.unwrap();
    let said = said(&bench, second.id).await;
    for shown in ["web.1 did not start: Process exited with status 1", "deploy a fix, or roll back to v1"] {
        assert!(said.contains(shown), "{said}");
    }
}
