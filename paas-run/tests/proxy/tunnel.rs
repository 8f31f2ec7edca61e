//! WebSocket and its like.

use std::time::Duration;

use paas_core::{DrainRequest, RouteState, Router as _};
use paas_run::proxy::TunnelDrain;

use crate::support::{Conn, PATIENCE, World, echo, field, header, hello, origin, within};

const ASK: &str = "GET /live HTTP/1.1\r\nHost: hello.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: chat\r\n\
                   Chat-Key: abc\r\n\r\n";

/// A close frame that says "going away", as a server sends it.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xE9];

/// A text frame, as a server sends it. What a client sends is masked, by a mask of zeros here.
fn frame(text: &str) -> Vec<u8> {
    [&[0x81, u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat()
}

fn masked(frame: &[u8]) -> Vec<u8> {
    [&[frame[0], 0x80 | frame[1], 0, 0, 0, 0], &frame[2..]].concat()
}

/// The payload of a client's frame, with its mask taken off.
fn unmasked(frame: &[u8]) -> Vec<u8> {
    frame[6..].iter().zip(frame[2..6].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
}

pub(crate) async fn echoing_tunnel() -> std::net::SocketAddr {
    origin(|mut conn, _| async move {
        let head = conn.head().await.expect("a head");
        assert_eq!((header(&head, "upgrade"), header(&head, "connection")), (Some("chat"), Some("upgrade")));
        assert_eq!(header(&head, "chat-key"), Some("abc"));
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nwelcome")
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
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("chat")));
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
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n").await;
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

/// Speaks WebSocket, as an app with a library for it: echoes messages of at most 125 bytes, answers a close frame and
/// then hears no more. Tells what it was closed with.
async fn socket_app() -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
    let (closed, told) = tokio::sync::mpsc::unbounded_channel();
    let address = origin(move |mut conn, _| {
        let closed = closed.clone();
        async move {
            conn.head().await.expect("a head");
            conn.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n",
            )
            .await;
            loop {
                let (mut head, whole) = conn.exactly(6).await;
                if !whole {
                    return;
                }
                let (payload, whole) = conn.exactly(usize::from(head[1] & 0x7F)).await;
                if !whole {
                    return;
                }
                head.extend(payload);
                let plain = unmasked(&head);
                conn.send([&[head[0], head[1] & 0x7F], &plain[..]].concat()).await;
                if head[0] == 0x88 {
                    closed.send(plain).expect("the test listens");
                    return;
                }
            }
        }
    })
    .await;
    (address, told)
}

async fn socket(world: &World) -> Conn {
    let mut conn = world.connect().await;
    conn.send(ASK.replace("chat", "websocket")).await;
    assert_eq!(conn.answer().await.expect("an answer").status, 101);
    conn
}

/// Removes the app's instances and waits until nothing is in flight at them.
async fn drained(world: &World, timeout: Duration) -> u64 {
    let old = world.proxy.observe(&hello()).await.expect("routes").expect("some").backends;
    world.route(2, RouteState::Serving, &[echo().await]).await;
    let request = DrainRequest::new(hello(), old).with_timeout(timeout);
    within(world.proxy.drain(&world.context(), &request)).await.expect("a count")
}

#[tokio::test]
async fn both_ends_of_a_websocket_are_told_that_it_goes_away() {
    let (app, mut told) = socket_app().await;
    let world = World::serving(&[app], |_| {}).await;
    let mut conn = socket(&world).await;
    conn.send(masked(&frame("ping"))).await;
    assert_eq!(conn.exactly(6).await.0, frame("ping"));
    let client = async {
        assert_eq!(conn.exactly(4).await.0, GOING_AWAY);
        conn.send(masked(&GOING_AWAY)).await;
        assert_eq!(conn.rest().await, b"", "nothing follows a close frame");
    };
    let (left, ()) = tokio::join!(drained(&world, PATIENCE), client);
    assert_eq!(left, 0);
    assert_eq!(within(told.recv()).await.unwrap(), [0x03, 0xE9]);
    assert_eq!(field(&world.logged("at=info").await, "status"), "101");
}

#[tokio::test]
async fn a_message_that_has_begun_is_whole_before_the_end_is_told() {
    let (app, mut told) = socket_app().await;
    let world = World::serving(&[app], |_| {}).await;
    let mut conn = socket(&world).await;
    let message = masked(&frame("half and half"));
    let (one, other) = message.split_at(9);
    conn.send(masked(&frame("first"))).await;
    assert_eq!(conn.exactly(7).await.0, frame("first"));
    conn.send(one).await;
    let client = async {
        assert_eq!(conn.exactly(4).await.0, GOING_AWAY);
        conn.send([other, &masked(&GOING_AWAY)].concat()).await;
        assert_eq!(conn.rest().await, b"");
    };
    let (left, ()) = tokio::join!(drained(&world, PATIENCE), client);
    assert_eq!(left, 0);
    // It read the message, or it would have taken the close frame for the rest of it.
    assert_eq!(within(told.recv()).await.unwrap(), [0x03, 0xE9]);
}

#[tokio::test]
async fn a_client_that_does_not_hear_its_farewell_holds_no_drain_up() {
    let (app, _told) = socket_app().await;
    let world = World::serving(&[app], |_| {}).await;
    let mut conn = socket(&world).await;
    assert_eq!(drained(&world, PATIENCE).await, 0);
    assert_eq!(conn.rest().await, GOING_AWAY);
}

#[tokio::test]
async fn a_websocket_that_is_waited_for_is_told_at_the_end_of_the_drain() {
    let (app, _told) = socket_app().await;
    let world = World::serving(&[app], |config| config.tunnels = TunnelDrain::Wait).await;
    let mut conn = socket(&world).await;
    let client = async {
        conn.send(masked(&frame("still here"))).await;
        assert_eq!(conn.exactly(12).await.0, frame("still here"));
        assert_eq!(conn.exactly(4).await.0, GOING_AWAY);
        conn.send(masked(&GOING_AWAY)).await;
    };
    let (left, ()) = tokio::join!(drained(&world, Duration::from_millis(200)), client);
    assert_eq!(left, 0);
    assert_eq!(conn.rest().await, b"");
}

#[tokio::test]
async fn a_websocket_that_its_app_closes_gets_no_word_of_ours() {
    let (app, mut told) = socket_app().await;
    let world = World::serving(&[app], |_| {}).await;
    let mut conn = socket(&world).await;
    let normal = [0x88, 2, 0x03, 0xE8];
    conn.send(masked(&normal)).await;
    assert_eq!(within(told.recv()).await.unwrap(), [0x03, 0xE8]);
    assert_eq!(drained(&world, PATIENCE).await, 0);
    assert_eq!(conn.rest().await, normal);
}

#[tokio::test]
async fn a_long_message_passes_whole_to_a_client_that_reads_late() {
    let long = [&[0x82, 127][..], &(4_u64 << 20).to_be_bytes(), &vec![0x88; 4 << 20]].concat();
    let sent = long.clone();
    let app = origin(move |mut conn, _| {
        let sent = sent.clone();
        async move {
            conn.head().await.expect("a head");
            conn.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .await;
            conn.send(sent).await;
            conn.rest().await;
        }
    })
    .await;
    let world = World::serving(&[app], |_| {}).await;
    let mut conn = socket(&world).await;
    let client = async {
        assert!(conn.exactly(long.len()).await.0 == long, "something else came");
        assert_eq!(conn.exactly(4).await.0, GOING_AWAY);
        conn.send(masked(&GOING_AWAY)).await;
    };
    let (left, ()) = tokio::join!(drained(&world, PATIENCE), client);
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_drain_waits_for_tunnels_where_it_is_told_to() {
    let world = World::serving(&[echoing_tunnel().await], |config| config.tunnels = TunnelDrain::Wait).await;
    let conn = opened(&world).await;
    let old = world.proxy.observe(&hello()).await.unwrap().unwrap().backends;
    world.route(2, RouteState::Serving, &[]).await;
    let context = world.context();
    let request = DrainRequest::new(hello(), old);
    let mut drain = std::pin::pin!(world.proxy.drain(&context, &request));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut drain).await;
    assert!(early.is_err(), "it doesn't wait for the tunnel: {early:?}");
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
