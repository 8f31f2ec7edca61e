//! What the endpoint answers to those who don't speak git.
#![cfg(feature = "git")]
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

#[allow(dead_code, reason = "shared with the other tests of pushes")]
#[path = "push/world.rs"]
mod world;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;
use world::Platform;

/// Asks with alice's token, as the embedder's server would.
async fn ask(platform: &Platform, request: Request<&'static str>) -> (StatusCode, String) {
    let mut request = request.map(|body| Full::new(Bytes::from_static(body.as_bytes())));
    let bearer = format!("Bearer {}", platform.token);
    request.headers_mut().entry("authorization").or_insert(bearer.parse().unwrap());
    let answer = platform.receive.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await;
    // git ends in the middle of what makes no sense, and so does the answer.
    let body = body.map_or_else(|_| "broken off".into(), http_body_util::Collected::to_bytes);
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_with_a_reason_and_makes_no_app() {
    let platform = Platform::start().await;
    let push = "application/x-git-receive-pack-request";
    for (method, path, kind, body, status) in [
        ("GET", "/", "", "", 404),
        ("GET", "/hello.git", "", "", 404),
        ("GET", "/hello.git/info/refs", "", "", 404),
        ("GET", "/hello.git/info/refs?service=git-evil-pack", "", "", 404),
        ("GET", "/hello.git/HEAD", "", "", 404),
        ("GET", "/hello.git/objects/info/packs", "", "", 404),
        ("GET", "/..%2f..%2fetc.git/info/refs?service=git-receive-pack", "", "", 400),
        ("GET", "/../hello.git/info/refs?service=git-receive-pack", "", "", 404),
        ("GET", "/Hello.git/info/refs?service=git-receive-pack", "", "", 400),
        ("GET", "/hello.git/git-receive-pack", push, "", 400),
        ("POST", "/hello.git/info/refs?service=git-receive-pack", "", "", 400),
        ("POST", "/hello.git/git-receive-pack", "text/plain", "0000", 400),
        ("GET", "/hello.git/info/refs?service=git-upload-pack", "", "", 404),
    ] {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let (answered, said) = ask(&platform, request.body(body).unwrap()).await;
        assert_eq!(answered, status, "{method} {path}: {said}");
        assert!(said.starts_with(" !     "), "{method} {path}: {said}");
    }
    assert!(platform.engine.apps().await.unwrap().is_empty());
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_push_ends_without_a_deploy() {
    let platform = Platform::start().await;
    for (encoding, body) in [("identity", "hello"), ("gzip", "no gzip"), ("identity", "ffff"), ("gzip", "")] {
        let mut request = Request::post("/hello.git/git-receive-pack")
            .header("content-type", "application/x-git-receive-pack-request");
        if encoding == "gzip" {
            request = request.header("content-encoding", encoding);
        }
        let (status, said) = ask(&platform, request.body(body).unwrap()).await;
        assert_eq!(status, 200, "{said}");
        assert!(!said.contains("ok refs"), "{said}");
    }
    // A client may choose what it speaks, but not what else git is told.
    let odd = Request::get("/hello.git/info/refs?service=git-receive-pack")
        .header("git-protocol", "version=2\t$(id)");
    assert_eq!(ask(&platform, odd.body("").unwrap()).await.0, 400);
    assert!(platform.live("hello").await.is_empty());
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_look_ahead_of_a_large_push_is_answered_at_once() {
    let platform = Platform::start().await;
    let request = Request::post("/hello.git/git-receive-pack")
        .header("content-type", "application/x-git-receive-pack-request")
        .header("content-length", "4");
    assert_eq!(ask(&platform, request.body("0000").unwrap()).await, (StatusCode::OK, String::new()));
    assert!(platform.engine.apps().await.unwrap().is_empty());
    let unknown = Request::get("/hello.git/info/refs?service=git-receive-pack")
        .header("authorization", "Basic bm9ib2R5Om5vdGhpbmc=");
    assert_eq!(ask(&platform, unknown.body("").unwrap()).await.0, 401);
    platform.end().await;
}
