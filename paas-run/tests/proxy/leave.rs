//! Leaving further connections to another process.

use std::time::Duration;

use paas_core::{CancelReason, RouteState};

use crate::support::{World, echo, origin, within};
use crate::tunnel::{echoing_tunnel, opened};

const GET: &str = "GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n";

#[tokio::test]
async fn an_idle_connection_gets_one_more_answer_which_says_that_it_is_the_last() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let mut conn = world.connect().await;
    conn.send(GET).await;
    assert_eq!(conn.answer().await.unwrap().header("connection"), None);

    world.proxy.leave();
    conn.send(GET).await;
    let last = conn.answer().await.unwrap();
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert!(conn.rest().await.is_empty());
    within(world.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn errors_say_it_too_and_what_is_being_answered_is_answered_whole() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let slow = origin(move |mut conn, _| {
        let mut wait = wait.clone();
        async move {
            conn.head().await.expect("a head");
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await;
            wait.wait_for(|go| *go).await.expect("the test goes on");
            conn.send("full").await;
        }
    })
    .await;
    let world = World::serving(&[slow], |_| {}).await;
    let (mut streaming, mut idle) = (world.connect().await, world.connect().await);
    streaming.send(GET).await;
    streaming.head().await.unwrap();
    assert_eq!(streaming.exactly(4).await.0, b"half");
    idle.send("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n").await;
    assert_eq!(idle.answer().await.unwrap().header("connection"), None);

    world.proxy.leave();
    go.send_replace(true);
    assert_eq!(streaming.exactly(4).await.0, b"full");
    world.route(2, RouteState::Stopped, &[]).await;
    // Its first answer had no word of it, so there is another one.
    streaming.send(GET).await;
    let (last, error) = (streaming.answer().await.unwrap(), {
        idle.send("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n").await;
        idle.answer().await.unwrap()
    });
    assert_eq!((last.status, last.header("connection")), (503, Some("close")));
    assert_eq!((error.status, error.header("connection")), (404, Some("close")));
    within(world.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn tunnels_go_on_until_the_time_is_up() {
    let world = World::serving(&[echoing_tunnel().await], |config| {
        config.linger = Duration::from_secs(3600);
    })
    .await;
    let mut conn = opened(&world).await;
    world.proxy.leave();
    for _ in 0..3 {
        conn.send("more").await;
        assert_eq!(conn.exactly(4).await.0, b"more");
    }
    assert!(!world.serving.is_finished());
    world.cancel.cancel(CancelReason::Shutdown);
    within(world.serving).await.unwrap().unwrap();
    assert!(conn.rest().await.is_empty());
}

#[tokio::test]
async fn connections_that_say_nothing_end_with_the_time_to_linger() {
    let world = World::serving(&[echo().await], |config| config.linger = Duration::from_millis(50)).await;
    let mut conn = world.connect().await;
    conn.send(GET).await;
    conn.answer().await.unwrap();
    world.proxy.leave();
    assert!(conn.rest().await.is_empty());
    within(world.serving).await.unwrap().unwrap();
}
