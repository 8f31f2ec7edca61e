//! No request is lost: not by a release, not by an instance that closes its idle connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paas_core::{DrainRequest, RouteState, Router as _};
use tokio::io::BufReader;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::support::{Conn, World, header, hello, origin, within};

/// An instance that says its generation and can be killed: its listener and its connections go at once.
async fn instance(generation: u64) -> (std::net::SocketAddr, CancellationToken) {
    let killed = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let alive = killed.clone();
    tokio::spawn(alive.clone().run_until_cancelled_owned(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut conn = Conn(BufReader::new(stream));
            tokio::spawn(alive.clone().run_until_cancelled_owned(async move {
                while conn.head().await.is_some() {
                    // Some answers take a while, so that a swap meets requests in every state.
                    if generation.is_multiple_of(3) {
                        tokio::task::yield_now().await;
                    }
                    let body = generation.to_string();
                    conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
                        .await;
                }
            }));
        }
    }));
    (address, killed)
}

/// Every release brings new instances, is switched to, and its old instances are drained and killed hard.
#[tokio::test(flavor = "multi_thread")]
async fn releases_every_few_milliseconds_fail_no_request_and_leave_none_with_the_old_instances() {
    const RELEASES: u64 = 80;
    const CLIENTS: usize = 32;
    let world = World::start(|_| {}).await;
    let (first, mut killed) = instance(1).await;
    let mut old = world.route(1, RouteState::Serving, &[first]).await;
    let applied = Arc::new(AtomicU64::new(1));
    let done = Arc::new(AtomicBool::new(false));
    let address = world.address;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (applied, done) = (applied.clone(), done.clone());
            tokio::spawn(async move {
                let mut conn = Conn::to(address).await;
                let mut answers = 0_u64;
                while !done.load(Ordering::SeqCst) {
                    let at_least = applied.load(Ordering::SeqCst);
                    conn.send("GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await;
                    let answer = conn.answer().await.expect("every request gets an answer");
                    assert_eq!(answer.status, 200, "{answer:?}");
                    let generation: u64 = answer.text().parse().unwrap();
                    assert!(
                        generation >= at_least,
                        "generation {generation} answered after {at_least} was applied"
                    );
                    answers += 1;
                    // Half of the clients come back on the same connection, half on a new one.
                    if client.is_multiple_of(2) && answers.is_multiple_of(16) {
                        conn = Conn::to(address).await;
                    }
                }
                answers
            })
        })
        .collect();
    for generation in 2..=RELEASES {
        let (next, kill) = instance(generation).await;
        let new = world.route(generation, RouteState::Serving, &[next]).await;
        applied.store(generation, Ordering::SeqCst);
        let drain = DrainRequest::new(hello(), std::mem::replace(&mut old, new));
        assert_eq!(within(world.proxy.drain(&world.context(), &drain)).await.unwrap(), 0);
        std::mem::replace(&mut killed, kill).cancel();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    done.store(true, Ordering::SeqCst);
    let mut answers = 0;
    for client in clients {
        answers += within(client).await.expect("no request failed");
    }
    println!("{answers} requests during {RELEASES} releases, none failed");
    assert!(answers > RELEASES);
}

/// As net.md's race: the instance drops idle connections after a few milliseconds, and requests come at just that pace.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_closes_idle_connections_costs_no_get_and_gets_no_post_twice() {
    let seen: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let twice = seen.clone();
    let closing = origin(move |mut conn, _| {
        let seen = twice.clone();
        async move {
            let mut next = conn.head().await;
            while let Some(head) = next {
                let id = header(&head, "x-number").unwrap().to_owned();
                *seen.lock().unwrap().entry(id).or_default() += 1;
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                next = tokio::time::timeout(Duration::from_millis(5), conn.head()).await.ok().flatten();
            }
        }
    })
    .await;
    let world = World::serving(&[closing], |_| {}).await;
    let (posted, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let address = world.address;
    let clients: Vec<_> = (0..16_u64)
        .map(|client| {
            let (posted, lost) = (posted.clone(), lost.clone());
            tokio::spawn(async move {
                let mut conn = Conn::to(address).await;
                for number in 0..150 {
                    let method = if number % 3 == 0 { "POST" } else { "GET" };
                    let id = format!("{method}-{client}-{number}");
                    let request = format!(
                        "{method} / HTTP/1.1\r\nHost: hello.test\r\nX-Number: {id}\r\nContent-Length: 0\r\n\r\n"
                    );
                    conn.send(request).await;
                    let answer = conn.answer().await.expect("an answer");
                    if method == "GET" {
                        assert_eq!(answer.status, 200, "a GET is sent once more: {answer:?}");
                    } else {
                        posted.fetch_add(1, Ordering::Relaxed);
                        lost.fetch_add(usize::from(answer.status != 200), Ordering::Relaxed);
                    }
                    tokio::time::sleep(Duration::from_millis(3 + (client + number) % 5)).await;
                }
            })
        })
        .collect();
    for client in clients {
        within(client).await.expect("no GET failed");
    }
    let seen = seen.lock().unwrap();
    let twice: Vec<_> = seen.iter().filter(|(id, count)| id.starts_with("POST") && **count > 1).collect();
    assert!(twice.is_empty(), "a POST is never sent twice: {twice:?}");
    println!(
        "{} of {} POSTs met a closing connection",
        lost.load(Ordering::Relaxed),
        posted.load(Ordering::Relaxed)
    );
}

#[tokio::test]
async fn a_connection_is_kept_no_longer_than_the_instance_says() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    let brief = origin(move |mut conn, number| {
        count.store(number + 1, Ordering::SeqCst);
        async move {
            while conn.head().await.is_some() {
                conn.send("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let world = World::serving(&[brief], |_| {}).await;
    for _ in 0..3 {
        assert_eq!(world.get("/").await.status, 200);
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 3);
}
