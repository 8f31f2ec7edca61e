//! What owners say of how requests are brought to their apps.

use paas_core::{
    Balance, ConfigEdit, ConfigVars, ErrorCode, Rate, RollbackOrder, RouteSettings, RouteState, Version,
};

use crate::{Bench, WEB, hello, me};

fn settings() -> RouteSettings {
    let mut settings = RouteSettings::default();
    settings.https_only = true;
    settings.balance = Balance::LeastConnections;
    settings.error_page = Some("https://example.com/error.html".into());
    settings
}

#[tokio::test]
async fn settings_reach_the_router_without_a_release_and_outlive_deploys() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let routes = || bench.platform.world.routes(&hello()).unwrap();
    let before = routes();
    bench.engine.set_routing(&hello(), settings(), &me()).await.unwrap();
    let after = routes();
    assert_eq!((after.settings.clone(), after.backends), (settings(), before.backends));
    assert!(after.generation > before.generation, "no proxy would take them over");
    assert_eq!(bench.engine.releases(&hello()).await.unwrap().len(), 1);

    bench.deploy("web: other\n").await.unwrap();
    assert_eq!(routes().settings, settings());
    bench.engine.set_routing(&hello(), RouteSettings::default(), &me()).await.unwrap();
    assert_eq!(routes().settings, RouteSettings::default());
    bench.is_sound().await;
}

#[tokio::test]
async fn settings_that_cannot_be_carried_out_are_refused_and_change_nothing() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let before = bench.platform.world.routes(&hello()).unwrap();
    let mut wrong = settings();
    wrong.client_rate = Some(Rate::per_second(0));
    let error = bench.engine.set_routing(&hello(), wrong, &me()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidParams, "{error}");
    assert_eq!(bench.platform.world.routes(&hello()).unwrap(), before);
    let error = bench.engine.set_routing(&"nobody".parse().unwrap(), settings(), &me()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound, "{error}");
}

#[tokio::test]
async fn pages_that_config_vars_name_go_before_and_are_those_of_the_live_release() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    bench.engine.set_routing(&hello(), settings(), &me()).await.unwrap();
    let page = |key: &str, value: &str| ConfigEdit::set(ConfigVars::new().with(key, value).unwrap());
    for (key, value) in
        [("ERROR_PAGE_URL", "https://example.com/ours.html"), ("MAINTENANCE_PAGE_URL", "javascript:alert(1)")]
    {
        let changed = bench.engine.configure(&hello(), page(key, value), &me()).await.unwrap();
        changed.succeeded().await.unwrap();
    }
    let pages = || {
        let settings = bench.platform.world.routes(&hello()).unwrap().settings;
        (settings.error_page, settings.maintenance_page)
    };
    assert_eq!(pages(), (Some("https://example.com/ours.html".into()), None), "what is no page is left out");

    let order = RollbackOrder::to(Version::FIRST);
    bench.engine.rollback(&hello(), order, &me()).await.unwrap().succeeded().await.unwrap();
    assert_eq!(pages(), (settings().error_page, None));
    bench.is_sound().await;
}

#[tokio::test]
async fn a_paused_app_stays_paused_through_deploys_and_maintenance_goes_before() {
    let bench = Bench::new().await;
    bench.deploy(WEB).await.unwrap();
    let state = || bench.platform.world.routes(&hello()).unwrap().state;
    bench.engine.pause(&hello(), &me()).await.unwrap();
    assert_eq!(state(), RouteState::Paused);
    bench.deploy("web: other\n").await.unwrap();
    assert_eq!(state(), RouteState::Paused);
    bench.engine.set_maintenance(&hello(), true, &me()).await.unwrap();
    assert_eq!(state(), RouteState::Maintenance);
    bench.engine.set_maintenance(&hello(), false, &me()).await.unwrap();
    assert_eq!(state(), RouteState::Paused);
    bench.engine.resume(&hello(), &me()).await.unwrap();
    assert_eq!(state(), RouteState::Serving);
    assert!(!bench.platform.world.routes(&hello()).unwrap().backends.is_empty());
    bench.is_sound().await;
}
