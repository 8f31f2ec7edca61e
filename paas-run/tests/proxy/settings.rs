//! What an app's owner says of its requests, and what one client may have.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use paas_core::{
    AppId, AppRoutes, Backend, BackendProtocol, Balance, Concurrency, Hsts, PathRoute, Rate, RouteSettings,
    RouteState, Router as _,
};
use paas_run::proxy::Client;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

use crate::support::{World, echo, hello, origin, within};

fn with(change: impl FnOnce(&mut RouteSettings)) -> RouteSettings {
    let mut settings = RouteSettings::default();
    change(&mut settings);
    settings
}

/// An origin that says its name.
async fn named(name: &'static str) -> SocketAddr {
    origin(move |mut conn, _| async move {
        while conn.head().await.is_some() {
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())).await;
        }
    })
    .await
}

#[tokio::test]
async fn requests_without_tls_are_sent_to_https_where_the_app_wants_it() {
    let world = World::serving(&[echo().await], |config| config.https_port = 8443).await;
    world.settle(with(|settings| settings.https_only = true)).await;
    let answer = world.get("/a?b=c").await;
    assert_eq!((answer.status, answer.header("location")), (301, Some("https://hello.test:8443/a?b=c")));
    let form = world.ask("POST /form HTTP/1.1\r\nHost: hello.test:80\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((form.status, form.header("location")), (308, Some("https://hello.test:8443/form")));
    assert!(world.logged("status=301").await.contains("at=info"));
}

#[tokio::test]
async fn browsers_are_told_over_tls_and_only_there_to_come_by_nothing_else() {
    let world = World::serving(&[echo().await], |_| {}).await;
    world.settle(with(|settings| settings.hsts = Some(Hsts::new(Duration::from_secs(600))))).await;
    assert_eq!(world.get("/").await.header("strict-transport-security"), None);
    let client = Client::new("192.0.2.7:4711".parse().unwrap(), 443).secure();
    let request =
        http::Request::get("/").header("host", "hello.test").body(Full::<Bytes>::default()).unwrap();
    let answer = within(world.proxy.service(client).oneshot(request)).await.unwrap();
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=600");
}

#[tokio::test]
async fn a_client_comes_to_the_same_instance_again_as_long_as_it_is_there() {
    let (one, two) = (named("one").await, named("two").await);
    let world = World::serving(&[one, two], |_| {}).await;
    world.settle(with(|settings| settings.affinity = true)).await;
    let first = world.get("/").await;
    let cookie = first.header("set-cookie").expect("a cookie").split(';').next().unwrap().to_owned();
    let ask = format!("GET / HTTP/1.1\r\nHost: hello.test\r\nCookie: a=b; {cookie}\r\n\r\n");
    for _ in 0..10 {
        let again = world.ask(&ask).await;
        assert_eq!((again.text(), again.header("set-cookie")), (first.text(), None));
    }
    let seen: BTreeSet<String> = [world.get("/").await, world.get("/").await, world.get("/").await]
        .iter()
        .map(|answer| answer.text().to_owned())
        .collect();
    assert_eq!(seen.len(), 2, "without a cookie any will do");
    // The other one is all that is left.
    let left = if first.text() == "one" { two } else { one };
    let mut routes = world.proxy.observe(&hello()).await.unwrap().unwrap();
    routes.generation += 1;
    routes.backends.retain(|backend| backend.address == left);
    world.proxy.apply(&world.context(), &routes).await.unwrap();
    let moved = world.ask(&ask).await;
    assert!(moved.text() != first.text() && moved.header("set-cookie").is_some());
}

#[tokio::test]
async fn however_instances_are_chosen_each_gets_its_share() {
    let world = World::serving(&[named("one").await, named("two").await, named("three").await], |_| {}).await;
    for balance in [Balance::TwoChoices, Balance::Random, Balance::LeastConnections] {
        for slow_start in [0, 60] {
            world
                .settle(with(|settings| {
                    settings.balance = balance;
                    settings.slow_start = slow_start;
                }))
                .await;
            let mut seen = BTreeSet::new();
            for _ in 0..60 {
                seen.insert(world.get("/").await.text().to_owned());
            }
            assert_eq!(seen.len(), 3, "{balance:?} {slow_start}");
        }
    }
}

#[tokio::test]
async fn a_path_leads_to_another_app_and_the_longest_prefix_counts() {
    let world = World::serving(&[named("hello").await], |_| {}).await;
    for name in ["api", "docs"] {
        let mut routes = AppRoutes::new(name.parse().unwrap(), AppId::new(), 1);
        routes.backends =
            vec![Backend::new("web.1", named(if name == "api" { "api" } else { "docs" }).await)];
        routes.state = RouteState::Serving;
        world.proxy.apply(&world.context(), &routes).await.unwrap();
    }
    let paths = [("/api", "api"), ("/api/docs", "docs"), ("/gone", "gone")];
    let paths = paths.map(|(path, app)| PathRoute::new(path, app.parse().unwrap()));
    world.settle(with(|settings| settings.paths = paths.to_vec())).await;
    for (path, app) in [("/", "hello"), ("/api/users", "api"), ("/api/docs?x", "docs"), ("/apiary", "hello")]
    {
        assert_eq!(world.get(path).await.text(), app, "{path}");
    }
    assert_eq!(world.get("/gone").await.status, 404);
}

#[tokio::test]
async fn the_owners_own_pages_are_shown_in_a_frame_with_the_status_that_it_is() {
    let world = World::serving(&[crate::support::nobody().await], |_| {}).await;
    world
        .settle(with(|settings| {
            settings.error_page = Some("https://pages.example.com/error?a=1&b=2".into());
            settings.maintenance_page = Some("https://pages.example.com/maintenance".into());
        }))
        .await;
    let browser = "GET / HTTP/1.1\r\nHost: hello.test\r\nAccept: text/html\r\n\r\n";
    let failed = world.ask(browser).await;
    assert_eq!(failed.status, 503);
    assert!(
        failed.text().contains(r#"<iframe src="https://pages.example.com/error?a=1&amp;b=2""#),
        "{failed:?}"
    );
    assert!(!world.get("/").await.text().contains("iframe"), "programs get a line of text");
    world.state(RouteState::Maintenance).await;
    let closed = world.ask(browser).await;
    assert_eq!(closed.status, 503);
    assert!(closed.text().contains("https://pages.example.com/maintenance"), "{closed:?}");
}

#[tokio::test]
async fn a_client_that_asks_for_too_much_is_told_when_to_come_again() {
    let world = World::serving(&[echo().await], |_| {}).await;
    world.settle(with(|settings| settings.client_rate = Some(Rate::per_second(1).burst(3)))).await;
    let mut refused = None;
    // On a machine that is slow some flow in meanwhile.
    for _ in 0..1000 {
        let answer = world.get("/").await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    assert_eq!(refused.expect("one is refused").header("retry-after"), Some("1"));
    assert!(world.logged("status=429").await.contains("desc=\"Too many requests of one client\""));
    world.settle(RouteSettings::default()).await;
    assert_eq!(world.get("/").await.status, 200);
}

#[tokio::test]
async fn a_client_has_no_more_connections_than_it_may() {
    let world = World::serving(&[echo().await], |config| config.client_connections = Some(1)).await;
    let mut first = world.connect().await;
    first.send("GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
    assert_eq!(first.answer().await.unwrap().status, 200);
    assert_eq!(world.connect().await.rest().await, b"");
    drop(first);
    within(async {
        loop {
            let mut next = world.connect().await;
            if tokio::io::AsyncWriteExt::write_all(
                next.0.get_mut(),
                b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n",
            )
            .await
            .is_ok()
                && next.answer().await.is_some()
            {
                return;
            }
        }
    })
    .await;
}

/// An origin that answers once there is a permit.
async fn patient(permits: &Arc<Semaphore>) -> SocketAddr {
    let permits = Arc::clone(permits);
    origin(move |mut conn, _| {
        let permits = Arc::clone(&permits);
        async move {
            while conn.head().await.is_some() {
                permits.acquire().await.unwrap().forget();
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await
}

/// Waits until so many requests wait at the proxy.
async fn waiting(world: &World, count: u64) {
    within(async {
        // Seen once the first request of an app has ended.
        while world.proxy.traffic(&hello()).is_none_or(|traffic| traffic.waiting != count) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn requests_beyond_what_instances_take_wait_in_turn_and_those_beyond_the_queue_are_refused() {
    let permits = Arc::new(Semaphore::new(1));
    let world = Arc::new(World::serving(&[patient(&permits).await], |_| {}).await);
    assert_eq!(world.get("/").await.status, 200);
    world.settle(with(|settings| settings.concurrency = Some(Concurrency::new(1, 1)))).await;
    let ask = |world: &Arc<World>| {
        let world = Arc::clone(world);
        tokio::spawn(async move { world.get("/").await.status })
    };
    let (first, second) = (ask(&world), ask(&world));
    waiting(&world, 1).await;
    let refused = world.get("/").await;
    assert_eq!(refused.status, 503);
    assert!(world.logged("code=H11").await.contains("desc=\"Backlog too deep\""));
    permits.add_permits(2);
    assert_eq!((within(first).await.unwrap(), within(second).await.unwrap()), (200, 200));
}

#[tokio::test]
async fn a_paused_app_holds_its_requests_up_to_a_bound_and_loses_none() {
    let world = Arc::new(World::serving(&[echo().await], |config| config.held = 3).await);
    assert_eq!(world.get("/").await.status, 200);
    world.state(RouteState::Paused).await;
    let held: Vec<_> = (0..3)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.get("/").await.status })
        })
        .collect();
    waiting(&world, 3).await;
    assert_eq!(world.get("/").await.status, 503);
    assert!(world.logged("code=H11").await.contains("status=503"));
    world.state(RouteState::Serving).await;
    for held in held {
        assert_eq!(within(held).await.unwrap(), 200);
    }
}

/// A server that speaks HTTP/2 alone, and says back what it hears, with a trailer.
async fn http2_echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: http::Request<Incoming>| async move {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
                let te = request.headers().get("te").cloned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let frames =
                    [Ok::<_, std::convert::Infallible>(Frame::data(body)), Ok(Frame::trailers(trailers))];
                let mut answer = http::Response::new(StreamBody::new(futures_util::stream::iter(frames)));
                answer.headers_mut().insert("x-host", host.parse().unwrap());
                if let Some(te) = te {
                    answer.headers_mut().insert("x-te", te);
                }
                Ok::<_, std::convert::Infallible>(answer)
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn an_app_that_speaks_http2_alone_is_reached_with_trailers_both_by_old_and_new_clients() {
    let world = World::serving(&[http2_echo().await], |_| {}).await;
    world.settle(with(|settings| settings.protocol = BackendProtocol::H2c)).await;
    let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for word in ["one", "two"] {
        let request = http::Request::post("http://hello.test/echo")
            .header("te", "trailers")
            .body(Full::new(Bytes::from(word)))
            .unwrap();
        let answer = within(client.send_request(request)).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["x-host"]),
            (200, &"hello.test".parse().unwrap())
        );
        assert_eq!(answer.headers()["x-te"], "trailers");
        let all = within(answer.into_body().collect()).await.unwrap();
        assert_eq!(all.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(all.to_bytes(), word);
    }
    let old = world.ask("POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 3\r\n\r\nold").await;
    assert_eq!((old.status, old.text()), (200, "old"));
}
