//! WebSocket and its like.

use std::time::Duration;

use paas_core::{DrainRequest, RouteState, Router as _};
use paas_run::proxy::TunnelDrain;

use crate::support::{Conn, World, echo, field, header, hello, origin, within};

const ASK: &str = "GET /live HTTP/1.1\r\nHost: hello.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: abc\r\n\r\n";

pub(crate) async fn echoing_tunnel() -> std::net::SocketAddr {
    origin(|mut conn, _| async move {
        let head = conn.head().await.expect("a head");
        assert_eq!(
            (header(&head, "upgrade"), header(&head, "connection")),
            (Some("websocket"), Some("upgrade"))
        );
        assert_eq!(header(&head, "sec-websocket-key"), Some("abc"));
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nwelcome",
        )
        .await;
        loop {
            let (message, whole) = conn.exactly(4).await;
            if !whole {
                return;
            }
            conn.send(message).await;
        }
    })
    .await
}

pub(crate) async fn opened(world: &World) -> Conn {
    let mut conn = world.connect().await;
    conn.send(ASK).await;
    let answer = conn.answer().await.expect("an answer");
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(conn.exactly(7).await.0, b"welcome");
    conn
}

#[tokio::test]
async fn bytes_pass_both_ways_after_a_101_and_are_logged_at_the_end() {
    let world = World::serving(&[echoing_tunnel().await], |_| {}).await;
    let mut conn = opened(&world).await;
    for number in 1000..1200 {
        conn.send(number.to_string()).await;
        assert_eq!(conn.exactly(4).await.0, number.to_string().as_bytes());
    }
    drop(conn);
    let line = world.logged("at=info").await;
    assert_eq!(
        (field(&line, "status"), field(&line, "bytes"), field(&line, "path")),
        ("101", "807", "/live")
    );
}

#[tokio::test]
async fn nothing_passes_before_the_101() {
    let refusing = origin(|mut conn, _| async move {
        while let Some(head) = conn.head().await {
            assert!(head.starts_with("GET /live "), "only the first request comes here, not {head}");
            conn.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        }
    })
    .await;
    let world = World::serving(&[refusing], |_| {}).await;
    let mut conn = world.connect().await;
    // What follows is another request, for an app that isn't there; as a tunnel it would reach the first app.
    conn.send(format!("{ASK}GET /smuggled HTTP/1.1\r\nHost: nobody.test\r\n\r\n")).await;
    let answer = conn.answer().await.unwrap();
    assert_eq!((answer.status, answer.text()), (403, "no"));
    if let Some(answer) = conn.answer().await {
        assert_eq!(answer.status, 404);
    }
}

#[tokio::test]
async fn h2c_does_not_pass_as_an_upgrade() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let answer = world
        .ask("GET / HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n")
        .await;
    assert_eq!((answer.status, header(answer.text(), "upgrade")), (200, None));
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_no_answer() {
    let eager = origin(|mut conn, _| async move {
        conn.head().await;
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        conn.rest().await;
    })
    .await;
    let world = World::serving(&[eager], |_| {}).await;
    assert_eq!(world.get("/").await.status, 503);
    world.logged("code=H1").await;
}

#[tokio::test]
async fn a_tunnel_in_which_nobody_speaks_is_closed() {
    let world =
        World::serving(&[echoing_tunnel().await], |config| config.idle = Duration::from_millis(200)).await;
    let mut conn = opened(&world).await;
    assert_eq!(conn.rest().await, b"");
    world.logged("code=H15").await;
}

#[tokio::test]
async fn a_drain_closes_the_tunnels_of_removed_instances() {
    let world = World::serving(&[echoing_tunnel().await], |_| {}).await;
    let mut conn = opened(&world).await;
    let old = world.proxy.observe(&hello()).await.unwrap().unwrap().backends;
    world.route(2, RouteState::Serving, &[echo().await]).await;
    conn.send("ping").await;
    assert_eq!(conn.exactly(4).await.0, b"ping", "before the drain it goes on");
    let left = within(world.proxy.drain(&world.context(), &DrainRequest::new(hello(), old))).await.unwrap();
    assert_eq!(left, 0);
    assert_eq!(conn.rest().await, b"");
}

#[tokio::test]
async fn a_drain_waits_for_tunnels_where_it_is_told_to() {
    let world = World::serving(&[echoing_tunnel().await], |config| config.tunnels = TunnelDrain::Wait).await;
    let conn = opened(&world).await;
    let old = world.proxy.observe(&hello()).await.unwrap().unwrap().backends;
    world.route(2, RouteState::Serving, &[]).await;
    let request = DrainRequest::new(hello(), old);
    let short = request.clone().with_timeout(Duration::from_millis(50));
    assert_eq!(world.proxy.drain(&world.context(), &short).await.unwrap(), 1, "a tunnel counts as in flight");
    let context = world.context();
    let drain = world.proxy.drain(&context, &request);
    drop(conn);
    assert_eq!(within(drain).await.unwrap(), 0);
}

#[tokio::test]
async fn a_shutdown_closes_tunnels() {
    let world = World::serving(&[echoing_tunnel().await], |_| {}).await;
    let mut conn = opened(&world).await;
    world.cancel.cancel(paas_core::CancelReason::Shutdown);
    assert_eq!(conn.rest().await, b"");
    world.stop().await;
}
