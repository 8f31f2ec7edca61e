//! Bodies as they come, and connections that are kept.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use crate::support::{World, echo, field, header, origin, within};

#[tokio::test]
async fn each_piece_passes_before_there_is_more_in_both_directions_at_once() {
    let world = World::serving(
        &[origin(|mut conn, _| async move {
            conn.head().await.unwrap();
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            // Each piece goes back as soon as it has come: both directions flow at once.
            while let Some(chunk) = conn.chunk().await.filter(|chunk| !chunk.is_empty()) {
                conn.send(format!("{:x}\r\n", chunk.len())).await;
                conn.send(chunk).await;
                conn.send("\r\n").await;
            }
            conn.send("0\r\n\r\n").await;
        })
        .await],
        |_| {},
    )
    .await;
    let mut conn = world.connect().await;
    conn.send("POST / HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    conn.send("5\r\nfirst\r\n").await;
    conn.head().await.unwrap();
    assert_eq!(conn.chunk().await.unwrap(), b"first");
    for round in 0..10 {
        conn.send(format!("6\r\nround{round}\r\n")).await;
        assert_eq!(conn.chunk().await.unwrap(), format!("round{round}").as_bytes());
    }
    conn.send("0\r\n\r\n").await;
    assert_eq!(conn.chunk().await.unwrap(), b"");
    assert_eq!(field(&world.logged("at=info").await, "bytes"), "65");
}

#[tokio::test]
async fn an_app_that_does_not_read_slows_its_client_down() {
    const LIMIT: usize = 64 << 20;
    let world = World::serving(
        &[origin(|mut conn, _| async move {
            conn.head().await.unwrap();
            std::future::pending::<()>().await;
        })
        .await],
        |_| {},
    )
    .await;
    let mut conn = world.connect().await;
    conn.send(format!("POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: {LIMIT}\r\n\r\n")).await;
    let block = vec![b'x'; 64 << 10];
    let mut taken = 0;
    // Nothing is taken for a while: the buffers on the way are full.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(500), conn.0.get_mut().write(&block)).await
    {
        taken += written.unwrap();
        assert!(taken < LIMIT / 2, "the proxy swallowed {taken} bytes");
    }
}

#[tokio::test]
async fn large_bodies_pass_whole_both_ways() {
    let world = World::serving(&[echo().await], |_| {}).await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let mut conn = world.connect().await;
    let head = format!("POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: {}\r\n\r\n", body.len());
    conn.send(head).await;
    conn.send(&body).await;
    let answer = conn.answer().await.unwrap();
    assert!(answer.whole && answer.body.ends_with(&body));
}

/// Bytes of which no two neighbours are alike, nor two blocks.
fn pattern(length: u64) -> Vec<u8> {
    (0..length).map(|at| (at ^ (at >> 8) ^ (at >> 16)).to_le_bytes()[0]).collect()
}

/// Answers each request with so much of the pattern as its path says.
async fn large() -> std::net::SocketAddr {
    origin(|mut conn, number| async move {
        while let Some(head) = conn.head().await {
            let length = head.split(['/', ' ']).nth(2).and_then(|path| path.parse().ok()).unwrap_or(0);
            let head =
                format!("HTTP/1.1 200 OK\r\nConnection-Number: {number}\r\nContent-Length: {length}\r\n\r\n");
            conn.send(head).await;
            conn.send(pattern(length)).await;
        }
    })
    .await
}

#[tokio::test]
async fn large_answers_pass_whole_one_after_another_and_keep_both_connections() {
    let world = World::serving(&[large().await], |_| {}).await;
    let mut conn = world.connect().await;
    for length in [5_000_000, 65_536, 65_537, 3, 1_048_576, 300_000] {
        conn.send(format!("GET /{length} HTTP/1.1\r\nHost: hello.test\r\n\r\n")).await;
        let answer = conn.answer().await.unwrap();
        assert!(answer.whole && answer.body == pattern(length), "{length} bytes came otherwise");
        assert_eq!(answer.header("connection-number"), Some("0"), "the app's connection was kept");
        assert_eq!(field(&world.logged(&format!("path=\"/{length}\"")).await, "bytes"), length.to_string());
    }
}

#[tokio::test]
async fn a_large_answer_waits_for_a_client_that_reads_slowly() {
    const LENGTH: u64 = 20_000_000;
    let world = World::serving(&[large().await], |_| {}).await;
    let mut conn = world.connect().await;
    conn.send(format!("GET /{LENGTH} HTTP/1.1\r\nHost: hello.test\r\n\r\n")).await;
    conn.head().await.unwrap();
    let mut came = Vec::new();
    while came.len() < 20_000_000 {
        // So that everything on the way is full before more is taken.
        tokio::time::sleep(Duration::from_millis(5)).await;
        came.extend(conn.exactly(1_000_000).await.0);
    }
    assert!(came == pattern(LENGTH), "something came otherwise");
}

#[tokio::test]
async fn a_large_answer_that_is_cut_short_is_cut_for_its_client_too() {
    let dying = origin(|mut conn, _| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n").await;
        conn.send(pattern(1_000_000)).await;
    })
    .await;
    let world = World::serving(&[dying], |_| {}).await;
    let mut conn = world.connect().await;
    conn.send("GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
    conn.head().await.unwrap();
    assert!(conn.rest().await == pattern(1_000_000), "what the app sent came otherwise");
    assert_eq!(field(&world.logged("code=H18").await, "bytes"), "1000000");
}

#[tokio::test]
async fn trailers_pass() {
    let world = World::serving(
        &[origin(|mut conn, _| async move {
            conn.head().await.unwrap();
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n").await;
            conn.send("2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n").await;
        })
        .await],
        |_| {},
    )
    .await;
    let mut conn = world.connect().await;
    conn.send("GET / HTTP/1.1\r\nHost: hello.test\r\nTE: trailers\r\nConnection: close\r\n\r\n").await;
    let answer = String::from_utf8(conn.rest().await).unwrap();
    assert!(answer.ends_with("2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_the_connections_are_kept() {
    let accepted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = accepted.clone();
    let world = World::serving(
        &[origin(move |mut conn, number| {
            count.store(number + 1, std::sync::atomic::Ordering::SeqCst);
            async move {
                while let Some(head) = conn.head().await {
                    conn.send(match head.split(' ').nth(1).unwrap() {
                        "/empty" => "HTTP/1.1 204 No Content\r\n\r\n",
                        "/same" => "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n",
                        "/zero" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                        "/chunked" => {
                            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
                        }
                        _ if head.starts_with("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
                        _ => "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                    })
                    .await;
                }
            }
        })
        .await],
        |_| {},
    )
    .await;
    let mut conn = world.connect().await;
    for _ in 0..5 {
        for (path, status, body) in [
            ("/empty", 204, ""),
            ("/same", 304, ""),
            ("/zero", 200, ""),
            ("/chunked", 200, "ok"),
            ("/", 200, "hello"),
        ] {
            conn.send(format!("GET {path} HTTP/1.1\r\nHost: hello.test\r\n\r\n")).await;
            let answer = conn.answer().await.unwrap_or_else(|| panic!("{path} is answered"));
            assert_eq!((answer.status, answer.text()), (status, body), "{path}");
        }
        conn.send("HEAD / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
        let head = conn.head().await.unwrap();
        assert_eq!(header(&head, "content-length"), Some("5"), "{head}");
    }
    assert_eq!(
        accepted.load(std::sync::atomic::Ordering::SeqCst),
        1,
        "one connection to the app for all of them"
    );
}

#[tokio::test]
async fn an_answer_of_http_1_0_ends_with_its_connection_and_a_client_of_1_0_gets_it_whole() {
    let world = World::serving(
        &[origin(|mut conn, _| async move {
            conn.head().await.unwrap();
            conn.send("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end").await;
        })
        .await],
        |_| {},
    )
    .await;
    for version in ["1.0", "1.1"] {
        let answer = world.ask(&format!("GET / HTTP/{version}\r\nHost: hello.test\r\n\r\n")).await;
        assert!(answer.whole && answer.text() == "until the end", "{answer:?}");
    }
}

#[tokio::test]
async fn an_app_may_answer_before_it_has_read_the_request() {
    let world = World::serving(
        &[origin(|mut conn, _| async move {
            conn.head().await.unwrap();
            conn.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
                .await;
        })
        .await],
        |_| {},
    )
    .await;
    let answer = world.ask("POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 1000000\r\n\r\nx").await;
    assert_eq!((answer.status, answer.text()), (413, "big"));
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_dropped() {
    let world =
        World::serving(&[echo().await], |config| config.header_timeout = Duration::from_millis(150)).await;
    let mut silent = world.connect().await;
    let mut dripping = world.connect().await;
    dripping.send("GET / HTTP/1.1\r\nHost: hel").await;
    assert_eq!(silent.rest().await, b"");
    // 408 or nothing, but it is over.
    dripping.rest().await;
}

#[tokio::test]
async fn a_shutdown_lets_requests_finish_and_closes_idle_connections() {
    let (asked, mut was_asked) = mpsc::channel(1);
    let release = std::sync::Arc::new(tokio::sync::Notify::new());
    let gate = release.clone();
    let world = World::serving(
        &[origin(move |mut conn, _| {
            let (asked, gate) = (asked.clone(), gate.clone());
            async move {
                while conn.head().await.is_some() {
                    asked.send(()).await.unwrap();
                    gate.notified().await;
                    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
                }
            }
        })
        .await],
        |_| {},
    )
    .await;
    let mut busy = world.connect().await;
    busy.send("GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
    within(was_asked.recv()).await;
    let mut idle = world.connect().await;
    idle.send("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n").await;
    assert_eq!(idle.answer().await.unwrap().status, 404);
    world.cancel.cancel(paas_core::CancelReason::Shutdown);
    assert_eq!(idle.rest().await, b"", "an idle connection is closed");
    release.notify_one();
    let answer = busy.answer().await.unwrap();
    assert_eq!((answer.text(), answer.header("connection")), ("done", Some("close")));
    world.stop().await;
}
