//! HTTP/2 from clients that know that it is spoken here.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::{World, echo, header, origin, within};

async fn connect(world: &World) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(world.address).await.expect("a connection");
    let (sender, connection) =
        within(http2::handshake(TokioExecutor::new(), TokioIo::new(stream))).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

fn request(method: &str, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("http://hello.test{path}"))
        .version(Version::HTTP_2)
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body)))
        .expect("a request")
}

async fn text(response: Response<Incoming>) -> String {
    let body = within(response.into_body().collect()).await.expect("a whole body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

#[tokio::test]
async fn apps_get_http2_requests_as_http1_with_host_and_one_cookie() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let mut client = connect(&world).await;
    let response = within(client.send_request(request("GET", "/a?b", ""))).await.expect("an answer");
    assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
    let seen = text(response).await;
    assert!(seen.starts_with("GET /a?b HTTP/1.1\r\n"), "{seen}");
    assert_eq!(header(&seen, "host"), Some("hello.test"));
    assert_eq!(header(&seen, "cookie"), Some("a=1; b=2"));
    assert_eq!(header(&seen, "te"), Some("trailers"));
    assert_eq!(header(&seen, "x-forwarded-for"), Some("127.0.0.1"));
    world.logged("path=\"/a?b\" host=hello.test").await;
}

#[tokio::test]
async fn requests_share_a_connection_and_do_not_wait_for_each_other() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let slow = origin(move |mut conn, _| {
        let mut wait = wait.clone();
        async move {
            while let Some(head) = conn.head().await {
                if head.starts_with("GET /slow ") {
                    wait.wait_for(|go| *go).await.expect("the test goes on");
                }
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let world = World::serving(&[slow], |_| {}).await;
    let mut client = connect(&world).await;
    let first = tokio::spawn(client.send_request(request("GET", "/slow", "")));
    for _ in 0..5 {
        let quick = within(client.send_request(request("GET", "/quick", ""))).await.expect("an answer");
        assert_eq!(text(quick).await, "ok");
    }
    assert!(!first.is_finished());
    go.send_replace(true);
    assert_eq!(text(within(first).await.unwrap().expect("an answer")).await, "ok");
}

#[tokio::test]
async fn bodies_and_trailers_pass_as_grpc_needs_them() {
    let app = origin(|mut conn, _| async move {
        let head = conn.head().await.expect("a head");
        let length = header(&head, "content-length").expect("a length").parse().expect("a number");
        let (body, _) = conn.exactly(length).await;
        let size = body.len();
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n").await;
        conn.send(format!("{size:x}\r\n")).await;
        conn.send(body).await;
        conn.send("\r\n0\r\ngrpc-status: 0\r\n\r\n").await;
    })
    .await;
    let world = World::serving(&[app], |_| {}).await;
    let mut client = connect(&world).await;
    let answer = within(client.send_request(request("POST", "/rpc", "ping"))).await.expect("an answer");
    let body = within(answer.into_body().collect()).await.expect("a whole body");
    assert_eq!(body.trailers().and_then(|trailers| trailers.get("grpc-status")).expect("trailers"), "0");
    assert_eq!(body.to_bytes(), "ping");
}

#[tokio::test]
async fn a_host_without_an_app_is_refused_over_http2_too() {
    let world = World::start(|_| {}).await;
    let mut client = connect(&world).await;
    let answer = within(client.send_request(request("GET", "/", ""))).await.expect("an answer");
    assert_eq!(answer.status(), 404);
    assert!(text(answer).await.starts_with("There is nothing here yet"));
}

#[tokio::test]
async fn a_shutdown_lets_http2_requests_finish() {
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(1);
    let (go, wait) = tokio::sync::watch::channel(false);
    let slow = origin(move |mut conn, _| {
        let (asked, mut wait) = (asked.clone(), wait.clone());
        async move {
            conn.head().await.expect("a head");
            asked.send(()).await.expect("the test waits");
            wait.wait_for(|go| *go).await.expect("the test goes on");
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
        }
    })
    .await;
    let world = World::serving(&[slow], |config| config.shutdown_grace = Duration::from_secs(60)).await;
    let mut client = connect(&world).await;
    let waiting = tokio::spawn(client.send_request(request("GET", "/", "")));
    within(was_asked.recv()).await;
    world.cancel.cancel(paas_core::CancelReason::Shutdown);
    go.send_replace(true);
    assert_eq!(text(within(waiting).await.unwrap().expect("an answer")).await, "done");
    within(world.serving).await.unwrap().unwrap();
}
