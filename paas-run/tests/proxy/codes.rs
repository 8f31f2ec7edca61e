//! Every way in which a request doesn't get its app's answer.

use std::time::Duration;

use paas_core::RouteState;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

use crate::support::{Conn, World, echo, field, header, nobody, origin, within};

/// Short enough to wait for.
const SHORT: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_host_without_an_app_gets_404_as_a_page_or_as_text() {
    let world = World::start(|_| {}).await;
    let text = world.get("/").await;
    assert_eq!((text.status, text.header("content-type")), (404, Some("text/plain; charset=utf-8")));
    assert!(text.text().starts_with("There is nothing here yet"), "{}", text.text());
    let page = world.ask("GET / HTTP/1.1\r\nHost: a.test\r\nAccept: text/html,*/*;q=0.8\r\n\r\n").await;
    assert_eq!((page.status, page.header("content-type")), (404, Some("text/html; charset=utf-8")));
    assert!(page.text().contains("<h1>There is nothing here yet</h1>"));
}

#[tokio::test]
async fn h81_h10_h14_and_h80_tell_what_an_app_without_instances_is_doing() {
    let world = World::start(|_| {}).await;
    let cases = [
        (RouteState::Empty, "H81", "Blank app", "at=info"),
        (RouteState::Serving, "H10", "App crashed", "at=error"),
        (RouteState::Stopped, "H14", "No web processes running", "at=error"),
        (RouteState::Maintenance, "H80", "Maintenance mode", "at=info"),
    ];
    for (generation, (state, code, desc, at)) in (1..).zip(cases) {
        world.route(generation, state, &[]).await;
        let answer = world.get("/").await;
        assert_eq!(answer.status, 503);
        assert!(answer.text().contains(code), "{}", answer.text());
        let line = world.logged(code).await;
        assert!(line.starts_with(at), "{line}");
        assert_eq!((field(&line, "desc"), field(&line, "status"), field(&line, "dyno")), (desc, "503", ""));
    }
}

#[tokio::test]
async fn requests_wait_for_an_app_whose_instances_are_about_to_be_up() {
    let world = World::start(|_| {}).await;
    world.route(1, RouteState::Starting, &[]).await;
    let mut waiting = world.connect().await;
    waiting.send("GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
    // Another generation without anybody changes nothing for it.
    world.route(2, RouteState::Starting, &[]).await;
    let mut too = world.connect().await;
    too.send("GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
    world.route(3, RouteState::Serving, &[echo().await]).await;
    for mut conn in [waiting, too] {
        assert_eq!(conn.answer().await.expect("an answer").status, 200);
    }
    world.route(4, RouteState::Starting, &[]).await;
    let mut waiting = world.connect().await;
    waiting.send("GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
    world.route(5, RouteState::Serving, &[]).await;
    assert_eq!(waiting.answer().await.expect("an answer").status, 503, "it crashed, and nobody says so");
    world.logged("code=H10").await;
}

#[tokio::test]
async fn h20_ends_a_request_whose_app_does_not_come_up() {
    let world = World::start(|config| config.boot_timeout = SHORT).await;
    world.route(1, RouteState::Starting, &[]).await;
    assert_eq!(world.get("/").await.status, 503);
    let line = world.logged("code=H20").await;
    assert_eq!((field(&line, "desc"), field(&line, "status")), ("App boot timeout", "503"));
}

#[tokio::test]
async fn maintenance_shuts_out_requests_though_instances_are_up() {
    let world = World::start(|_| {}).await;
    world.route(1, RouteState::Maintenance, &[echo().await]).await;
    assert_eq!(world.get("/").await.status, 503);
    world.logged("code=H80").await;
}

#[tokio::test]
async fn h12_ends_a_request_whose_first_byte_does_not_come() {
    let silent = origin(|mut conn, _| async move {
        conn.head().await;
        conn.rest().await;
    })
    .await;
    let world = World::serving(&[silent], |config| config.first_byte = SHORT).await;
    let answer = world.get("/slow?a=1").await;
    assert_eq!(answer.status, 503);
    let line = world.logged("code=H12").await;
    assert_eq!(
        (field(&line, "path"), field(&line, "dyno"), field(&line, "bytes")),
        ("/slow?a=1", "web.1", "0")
    );
}

#[tokio::test]
async fn an_upload_that_goes_on_for_longer_than_the_first_byte_may_take_is_no_h12() {
    let slow = origin(|mut conn, _| async move {
        conn.head().await.expect("a head");
        conn.exactly(5).await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let world = World::serving(&[slow], |config| config.first_byte = SHORT).await;
    let mut conn = world.connect().await;
    conn.send("POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 5\r\n\r\n").await;
    for byte in ["1", "2", "3", "4", "5"] {
        tokio::time::sleep(SHORT * 2 / 3).await;
        conn.send(byte).await;
    }
    assert_eq!(conn.answer().await.expect("an answer").text(), "ok");
}

#[tokio::test]
async fn h13_ends_a_request_whose_connection_the_app_closes_without_a_word() {
    let closing = origin(|mut conn, _| async move {
        conn.head().await;
    })
    .await;
    let world = World::serving(&[closing], |_| {}).await;
    assert_eq!(world.get("/").await.status, 503);
    world.logged("code=H13 desc=\"Connection closed without response\"").await;
}

#[tokio::test]
async fn h15_cuts_an_answer_that_lies_still() {
    let stuck = origin(|mut conn, _| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345").await;
        conn.rest().await;
    })
    .await;
    let world = World::serving(&[stuck], |config| config.idle = SHORT).await;
    let answer = world.get("/").await;
    assert!(!answer.whole, "what was cut doesn't look whole");
    let line = world.logged("code=H15").await;
    assert_eq!((field(&line, "bytes"), field(&line, "status")), ("5", "503"));
}

#[tokio::test]
async fn h17_ends_a_request_whose_answer_is_no_http() {
    let babbling = origin(|mut conn, _| async move {
        conn.head().await;
        conn.send("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
        conn.rest().await;
    })
    .await;
    let world = World::serving(&[babbling], |_| {}).await;
    assert_eq!(world.get("/").await.status, 503);
    world.logged("code=H17").await;
}

#[tokio::test]
async fn h18_cuts_an_answer_whose_connection_the_app_closes_in_the_middle() {
    for framing in ["Content-Length: 100\r\n\r\n12345", "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"] {
        let dying = origin(move |mut conn, _| async move {
            conn.head().await;
            conn.send(format!("HTTP/1.1 200 OK\r\n{framing}")).await;
        })
        .await;
        let world = World::serving(&[dying], |_| {}).await;
        let mut conn = world.connect().await;
        conn.send("GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
        assert!(conn.answer().await.is_none_or(|answer| !answer.whole), "what was cut doesn't look whole");
        let line = world.logged("code=H18").await;
        assert!(line.starts_with("sock=backend at=error"), "{line}");
    }
}

#[tokio::test]
async fn h19_ends_a_request_whose_app_does_not_take_connections() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let address = full.local_addr().unwrap();
    // Connections that nobody accepts fill its queue; the next one gets no answer.
    let mut waiting = Vec::new();
    while let Ok(conn) = tokio::time::timeout(SHORT, Conn::to(address)).await {
        waiting.push(conn);
    }
    let world = World::serving(&[address], |config| config.connect_timeout = SHORT).await;
    assert_eq!(world.get("/").await.status, 503);
    let line = world.logged("code=H19").await;
    assert_eq!((field(&line, "dyno"), field(&line, "service")), ("web.1", ""));
}

#[tokio::test]
async fn h21_ends_a_request_that_every_instance_refuses() {
    let world = World::serving(&[nobody().await, nobody().await], |_| {}).await;
    assert_eq!(world.get("/").await.status, 503);
    world.logged("code=H21 desc=\"Backend connection refused\"").await;
}

#[tokio::test]
async fn an_instance_that_refuses_connections_costs_no_request_while_another_is_up() {
    let world = World::serving(&[nobody().await, echo().await, nobody().await], |_| {}).await;
    for _ in 0..30 {
        assert_eq!(world.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_request_for_instances_that_refused_others_waits_for_new_routes() {
    let world = World::serving(&[nobody().await], |config| config.quarantine = Duration::from_secs(60)).await;
    assert_eq!(world.get("/first").await.status, 503);
    let mut waiting = world.connect().await;
    waiting.send("GET /waits HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
    tokio::task::yield_now().await;
    world.route(2, RouteState::Serving, &[echo().await]).await;
    assert_eq!(waiting.answer().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn h99_ends_a_request_that_waited_for_too_long() {
    let world = World::serving(&[nobody().await], |config| {
        config.quarantine = Duration::from_secs(60);
        config.connect_budget = SHORT;
    })
    .await;
    assert_eq!(world.get("/first").await.status, 503);
    assert_eq!(world.get("/second").await.status, 503);
    assert_eq!(field(&world.logged("code=H99").await, "path"), "/second");
}

#[tokio::test]
async fn h25_ends_a_request_whose_answer_has_a_head_that_is_too_large() {
    let boasting = origin(|mut conn, _| async move {
        conn.head().await;
        conn.send(format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\n\r\n", "x".repeat(600 * 1024))).await;
        conn.rest().await;
    })
    .await;
    let world = World::serving(&[boasting], |_| {}).await;
    assert_eq!(world.get("/").await.status, 502);
    world.logged("code=H25").await;
}

#[tokio::test]
async fn h27_tells_of_a_client_that_went_away_before_the_answer_and_frees_the_instance() {
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(1);
    let silent = origin(move |mut conn, _| {
        let asked = asked.clone();
        async move {
            conn.head().await;
            asked.send(()).await.expect("the test waits");
            conn.rest().await;
        }
    })
    .await;
    let world = World::serving(&[silent], |_| {}).await;
    let mut conn = world.connect().await;
    conn.send("GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
    within(was_asked.recv()).await;
    drop(conn);
    let line = world.logged("code=H27").await;
    assert!(line.starts_with("sock=client at=warning"), "{line}");
    assert_eq!(field(&line, "status"), "499");
}

#[tokio::test]
async fn h28_ends_an_upload_that_lies_still() {
    let reading = origin(|mut conn, _| async move {
        conn.rest().await;
    })
    .await;
    let world = World::serving(&[reading], |config| (config.first_byte, config.idle) = (SHORT, SHORT)).await;
    let mut conn = world.connect().await;
    conn.send("POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 100\r\n\r\nhalf").await;
    conn.rest().await;
    assert_eq!(field(&world.logged("code=H28").await, "status"), "499");
}

#[tokio::test]
async fn h28_cuts_off_a_client_that_does_not_read() {
    let flooding = origin(|mut conn, _| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
        let block = vec![b'x'; 1 << 20];
        while conn.0.get_mut().write_all(&block).await.is_ok() {}
    })
    .await;
    let world = World::serving(&[flooding], |config| config.idle = SHORT).await;
    let mut conn = world.connect().await;
    conn.send("GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
    world.logged("code=H28").await;
}

#[tokio::test]
async fn h24_ends_a_request_that_outlasts_the_grace_of_a_shutdown() {
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(1);
    let silent = origin(move |mut conn, _| {
        let asked = asked.clone();
        async move {
            conn.head().await;
            asked.send(()).await.expect("the test waits");
            conn.rest().await;
        }
    })
    .await;
    let world = World::serving(&[silent], |config| config.shutdown_grace = SHORT).await;
    let mut conn = world.connect().await;
    conn.send("GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
    within(was_asked.recv()).await;
    world.cancel.cancel(paas_core::CancelReason::Shutdown);
    assert_eq!(conn.rest().await, b"");
    world.logged("code=H24").await;
    world.stop().await;
}

#[tokio::test]
async fn an_answered_request_is_logged_as_heroku_does() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let answer = world
        .ask(
            "GET /a?b=c HTTP/1.1\r\nHost: hello.test\r\nX-Forwarded-For: a\" b\r\n\
             X-Request-Id: 0123456789-0123456789\r\n\r\n",
        )
        .await;
    let line = world.logged("at=info").await;
    let (head, tail) = line.split_once(" connect=").expect("how long it took");
    assert_eq!(
        head,
        "at=info method=GET path=\"/a?b=c\" host=hello.test request_id=0123456789-0123456789 \
         fwd=\"a\\\" b, 127.0.0.1\" dyno=web.1"
    );
    let bytes = answer.body.len().to_string();
    assert_eq!((field(&line, "status"), field(&line, "bytes")), ("200", bytes.as_str()));
    assert!(tail.contains("ms service=") && tail.ends_with("protocol=http"), "{line}");
    assert_eq!(header(answer.text(), "x-request-id"), Some("0123456789-0123456789"));
    assert_eq!(world.log().await.len(), 1, "one line for each request");
}
