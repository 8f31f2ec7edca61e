//! What apps and clients are told, and what passes by neither.

use std::convert::Infallible;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use paas_run::proxy::{Client, Front};
use tower::ServiceExt as _;

use crate::support::{Conn, World, echo, field, header, origin};

#[tokio::test]
async fn an_app_is_told_what_heroku_tells() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let answer = world.get("/path?query").await;
    let seen = answer.text();
    assert!(seen.starts_with("GET /path?query HTTP/1.1\r\n"), "{seen}");
    assert_eq!(header(seen, "host"), Some("hello.test"));
    assert_eq!(header(seen, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header(seen, "x-forwarded-proto"), Some("http"));
    assert_eq!(header(seen, "x-forwarded-port"), Some(world.address.port().to_string().as_str()));
    assert_eq!(header(seen, "via"), Some("1.1 paas-router"));
    let start: u64 = header(seen, "x-request-start").unwrap().parse().unwrap();
    assert!(start > 1_700_000_000_000, "milliseconds of Unix time, not {start}");
    assert_eq!(header(seen, "x-request-id").unwrap().len(), 36);
    assert_eq!(answer.header("via"), Some("1.1 paas-router"));
}

#[tokio::test]
async fn what_a_client_claims_stands_to_the_left_and_cannot_forge_the_rest() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let answer = world
        .ask(
            "GET / HTTP/1.1\r\nHost: hello.test\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nX-Request-Start: 1\r\nVia: 1.0 cache\r\n\r\n",
        )
        .await;
    let seen = answer.text();
    assert_eq!(header(seen, "x-forwarded-for"), Some("1.1.1.1, 2.2.2.2, 127.0.0.1"));
    assert_eq!(seen.matches("x-forwarded-for").count(), 1);
    assert_eq!(header(seen, "x-forwarded-proto"), Some("http"));
    assert_ne!(header(seen, "x-forwarded-port"), Some("443"));
    assert_ne!(header(seen, "x-request-start"), Some("1"));
    assert_eq!(header(seen, "via"), Some("1.0 cache, 1.1 paas-router"));
}

#[tokio::test]
async fn a_request_id_of_a_client_is_kept_if_it_is_well_formed_and_replaced_if_not() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let good = ["0123456789_ABCDEF-xyz", &"a".repeat(200)].map(ToOwned::to_owned);
    let bad = ["too-short", "has spaces in it, sadly", &"a".repeat(201)].map(ToOwned::to_owned);
    for (id, kept) in good.iter().map(|id| (id, true)).chain(bad.iter().map(|id| (id, false))) {
        let answer =
            world.ask(&format!("GET / HTTP/1.1\r\nHost: hello.test\r\nX-Request-Id: {id}\r\n\r\n")).await;
        assert_eq!(header(answer.text(), "x-request-id") == Some(id), kept, "{id}");
    }
    let ids: Vec<_> = [world.get("/").await, world.get("/").await]
        .iter()
        .map(|answer| header(answer.text(), "x-request-id").unwrap().to_owned())
        .collect();
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_side() {
    let chatty = origin(|mut conn, _| async move {
        while let Some(head) = conn.head().await {
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nConnection: x-internal\r\nX-Internal: secret\r\nKeep-Alive: timeout=5\r\n\
                 Proxy-Authenticate: Basic\r\nX-Stays: yes\r\nContent-Length: {}\r\n\r\n{head}",
                head.len()
            ))
            .await;
        }
    })
    .await;
    let world = World::serving(&[chatty], |_| {}).await;
    let answer = world
        .ask(
            "GET / HTTP/1.1\r\nHost: hello.test\r\nConnection: keep-alive, X-Mine, Host\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nTE: gzip, trailers\r\nUpgrade: h2c\r\n\
             Expect: 100-continue\r\nX-Stays: yes\r\n\r\n",
        )
        .await;
    let seen = answer.text();
    for gone in
        ["connection", "x-mine", "keep-alive", "proxy-connection", "proxy-authorization", "upgrade", "expect"]
    {
        assert_eq!(header(seen, gone), None, "{gone} in {seen}");
    }
    assert_eq!(header(seen, "te"), Some("trailers"));
    assert_eq!((header(seen, "host"), header(seen, "x-stays")), (Some("hello.test"), Some("yes")));
    for gone in ["connection", "x-internal", "keep-alive", "proxy-authenticate"] {
        assert_eq!(answer.header(gone), None, "{gone} in {}", answer.head);
    }
    assert_eq!(answer.header("x-stays"), Some("yes"));
}

#[tokio::test]
async fn the_authority_of_an_absolute_target_is_the_host() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let answer = world.ask("GET http://HELLO.test:80/a HTTP/1.1\r\nHost: other.test\r\n\r\n").await;
    let seen = answer.text();
    assert!(seen.starts_with("GET /a HTTP/1.1\r\n"), "{seen}");
    assert_eq!(header(seen, "host"), Some("HELLO.test:80"));
}

#[tokio::test]
async fn a_host_may_have_capitals_a_port_and_a_dot() {
    let world = World::serving(&[echo().await], |_| {}).await;
    for host in ["hello.test", "HELLO.Test", "hello.test.", "hello.test:80", "Hello.test.:5000"] {
        let answer = world.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!((answer.status, header(answer.text(), "host")), (200, Some(host)));
    }
}

#[tokio::test]
async fn an_embedder_mounts_the_service_behind_a_server_and_layers_of_its_own() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = Client::new("[::ffff:203.0.113.7]:1234".parse().unwrap(), 443).secure();
    let service = tower::service_fn({
        let inner = world.proxy.service(client);
        move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.headers_mut().insert("x-layer", http::HeaderValue::from_static("was here"));
            inner.clone().oneshot(request)
        }
    });
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let serve = service_fn(move |request| {
            let service = service.clone();
            async move { Ok::<_, Infallible>(service.oneshot(request).await.unwrap()) }
        });
        hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), serve)
            .await
            .unwrap();
    });
    let mut conn = Conn::to(address).await;
    conn.send("GET / HTTP/1.1\r\nHost: hello.test\r\nConnection: close\r\n\r\n").await;
    let answer = conn.answer().await.unwrap();
    let seen = answer.text();
    assert_eq!(header(seen, "x-layer"), Some("was here"));
    assert_eq!(header(seen, "x-forwarded-for"), Some("203.0.113.7"));
    assert_eq!(
        (header(seen, "x-forwarded-proto"), header(seen, "x-forwarded-port")),
        (Some("https"), Some("443"))
    );
    assert!(world.logged("at=info").await.ends_with("protocol=https"));
}

fn loopback() -> Front {
    Front::trusting(["127.0.0.0/8".parse().expect("a network")])
}

#[tokio::test]
async fn a_proxy_in_front_is_believed_how_its_clients_came() {
    let world = World::serving(&[echo().await], |config| config.front = loopback()).await;
    let ask = async |more: &str| {
        let answer = world.ask(&format!("GET / HTTP/1.1\r\nHost: hello.test\r\n{more}\r\n")).await;
        let seen = answer.text();
        let value = |name| header(seen, name).unwrap_or_default().to_owned();
        ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-port"].map(value)
    };
    let told = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n";
    assert_eq!(ask(told).await, ["192.0.2.7, 127.0.0.1", "https", "443"]);
    assert_eq!(field(&world.logged("192.0.2.7").await, "protocol"), "https");
    // A chain of them, and headers that make a request take the other way.
    let chain =
        "X-Forwarded-Proto: https, http\r\nX-Forwarded-Port: 443, 80\r\nTE: trailers\r\nConnection: TE\r\n";
    assert_eq!(ask(chain).await, ["127.0.0.1", "https", "443"]);
    let own = world.address.port().to_string();
    assert_eq!(ask("").await, ["127.0.0.1", "http", own.as_str()]);
    let nonsense = "X-Forwarded-Proto: gopher\r\nX-Forwarded-Port: 0\r\n";
    assert_eq!(ask(nonsense).await, ["127.0.0.1", "http", own.as_str()]);
}

#[tokio::test]
async fn a_proxy_header_names_the_client_and_who_is_not_trusted_cannot_send_one() {
    let front = loopback().with_proxy_protocol();
    let world = World::serving(&[echo().await], |config| config.front = front).await;
    let get = "GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n";
    let claims =
        "GET / HTTP/1.1\r\nHost: hello.test\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 80\r\n\r\n";
    let announced = world.ask(&format!("PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n{claims}{get}")).await;
    let seen = announced.text();
    assert_eq!(header(seen, "x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(header(seen, "x-forwarded-proto"), Some("https"));
    assert_eq!(header(seen, "x-forwarded-port"), Some("443"));
    let mut silent = world.connect().await;
    silent.send(get).await;
    assert!(silent.answer().await.is_none(), "a proxy in front that doesn't say for whom it speaks");

    let elsewhere = Front::trusting(["192.0.2.0/24".parse().expect("a network")]).with_proxy_protocol();
    let world = World::serving(&[echo().await], |config| config.front = elsewhere).await;
    assert_eq!(header(world.ask(get).await.text(), "x-forwarded-for"), Some("127.0.0.1"));
    let forged = world.ask(&format!("PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n{get}")).await;
    assert_eq!(forged.status, 400);
}
