//! What the proxy tells of requests beside its log.

use std::time::Duration;

use paas_core::RouteState;

use crate::support::{World, echo, hello};

#[tokio::test]
async fn each_request_is_counted_for_its_app_by_class_and_time() {
    let world = World::serving(&[echo().await], |_| {}).await;
    assert_eq!(world.proxy.traffic(&hello()), None);
    let answer = world.get("/").await;
    world.logged("at=info").await;
    let before = world.proxy.traffic(&hello()).expect("there was a request");
    assert_eq!((before.classes, before.bytes), ([0, 1, 0, 0, 0], answer.body.len() as u64));
    assert_eq!(before.in_flight, 0);
    assert!(before.quantile(0.95).expect("it took a time") < Duration::from_secs(30));

    world.route(2, RouteState::Stopped, &[]).await;
    world.get("/").await;
    world.logged("code=H14").await;
    let after = world.proxy.traffic(&hello()).expect("there were two");
    assert_eq!(after.since(&before).classes, [0, 0, 0, 0, 1]);
}
