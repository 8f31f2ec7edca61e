//! Whether the size of the route table, or changes of it, cost requests anything: how long a change takes until it holds, and
//! requests' latencies while a thousand routes a second change.
//!
//! `cargo bench -p paas-run --bench routes [-- HOSTS…]`: with 1, 1,000 and 100,000 hosts where nothing is said. What a request
//! costs the proxy by the number of hosts, `benches/router.py --hosts` measures.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a program that prints figures"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use paas_core::{
    AppId, AppName, AppRoutes, Backend, Cancel, CancelReason, Context, IdempotencyKey, LogSource, LogWriter,
    MemoryLogs, RouteState, Router as _, SystemClock, WorkflowId,
};
use paas_run::proxy::{Proxy, ProxyConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, interval};

/// How many changes are timed.
const CHANGES: usize = 5_000;
/// For how long requests are timed, once with changes and once without, so many times each.
const SPAN: Duration = Duration::from_secs(2);
const ROUNDS: usize = 9;
const CLIENTS: usize = 8;

#[tokio::main]
async fn main() {
    let mut hosts: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    if hosts.is_empty() {
        hosts = vec![1, 1_000, 100_000];
    }
    for hosts in hosts {
        measure(hosts).await;
    }
}

/// A proxy with apps of one host each, whose routes go to one of two origins.
struct World {
    proxy: Proxy,
    address: SocketAddr,
    apps: Vec<(AppName, AppId)>,
    origins: [SocketAddr; 2],
    ctx: Context,
}

async fn measure(hosts: usize) {
    let (logs, clock) = (Arc::new(MemoryLogs::default()), Arc::new(SystemClock::new()));
    let proxy = Proxy::new(ProxyConfig::default(), logs.clone(), clock.clone());
    let cancel = Cancel::new();
    let key = IdempotencyKey::new(WorkflowId::new(), "switch_route".parse().unwrap());
    let app = |number: usize| AppName::new(format!("app-{number}")).unwrap();
    let log = LogWriter::new(logs, clock.clone(), app(0), LogSource::Platform, "bench");
    let ctx = Context::new(key, cancel.clone(), clock, log);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn({
        let (proxy, cancel) = (proxy.clone(), cancel.clone());
        async move { proxy.serve(listener, cancel).await }
    });
    let apps = (0..hosts).map(|number| (app(number), AppId::new())).collect();
    let world =
        Arc::new(World { proxy, address, apps, origins: [origin(b'a').await, origin(b'b').await], ctx });
    let began = Instant::now();
    for number in 0..hosts {
        world.change(number, 1).await;
    }
    println!("{hosts:>6} hosts: {:>6.2} us each to fill the table", micros(began.elapsed()) / hosts as f64);

    let mut changes = Vec::with_capacity(CHANGES);
    let mut client = world.connect().await;
    for generation in (2..).take(CHANGES) {
        let number = generation * 7_919 % hosts;
        let began = Instant::now();
        world.change(number, generation).await;
        changes.push(began.elapsed());
        assert_eq!(client.get(number).await, b"ab"[generation % 2], "a change holds when it was made");
    }
    println!("{hosts:>6} hosts: a change holds after {}", spread(changes));

    let (mut quiet, mut changing) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        quiet.extend(requests(&world, None).await);
        changing.extend(requests(&world, Some(CHANGES + 2 + round * 100_000)).await);
    }
    println!("{hosts:>6} hosts: a request takes {}", spread(quiet));
    println!("{hosts:>6} hosts: with 1,000 changes a second {}", spread(changing));
    cancel.cancel(CancelReason::Shutdown);
    serving.await.unwrap().unwrap();
}

/// Latencies of requests for hosts all over the table.
async fn requests(world: &Arc<World>, changes: Option<usize>) -> Vec<Duration> {
    let over = Arc::new(AtomicBool::new(false));
    let clients = (0..CLIENTS).map(|number| {
        let (world, over) = (world.clone(), over.clone());
        tokio::spawn(async move {
            let (mut client, mut taken) = (world.connect().await, Vec::new());
            for request in number.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let began = Instant::now();
                client.get(request * 104_729 % world.apps.len()).await;
                taken.push(began.elapsed());
            }
            taken
        })
    });
    let clients: Vec<_> = clients.collect();
    let until = Instant::now() + SPAN;
    let mut ticks = interval(Duration::from_millis(1));
    for generation in changes.unwrap_or_default().. {
        ticks.tick().await;
        if Instant::now() > until {
            break;
        }
        if changes.is_some() {
            world.change(generation * 7_919 % world.apps.len(), generation).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.unwrap());
    }
    all
}

impl World {
    /// Routes an app to the other origin.
    async fn change(&self, number: usize, generation: usize) {
        let (app, id) = self.apps[number].clone();
        let mut routes = AppRoutes::new(app, id, generation as u64);
        routes.domains = vec![format!("host-{number}.test").parse().unwrap()];
        routes.backends = vec![Backend::new("web.1", self.origins[generation % 2])];
        routes.state = RouteState::Serving;
        self.proxy.apply(&self.ctx, &routes).await.unwrap();
    }

    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }
}

struct Client(TcpStream);

impl Client {
    /// What the origin is that answers for this host.
    async fn get(&mut self, number: usize) -> u8 {
        let request = format!("GET / HTTP/1.1\r\nHost: host-{number}.test\r\n\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        let (mut answer, mut length) = ([0; 1024], 0);
        // The body is one byte behind the head.
        while !answer[..length].windows(4).any(|end| end == b"\r\n\r\n")
            || answer[..length].ends_with(b"\r\n\r\n")
        {
            let read = self.0.read(&mut answer[length..]).await.unwrap();
            assert!(read > 0, "it was cut off");
            length += read;
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
        answer[length - 1]
    }
}

/// An app that answers with this byte.
async fn origin(byte: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let answer = [&b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"[..], &[byte]].concat();
                let mut request = [0; 4096];
                // One request at a time, which comes whole.
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn micros(span: Duration) -> f64 {
    span.as_secs_f64() * 1e6
}

fn spread(mut all: Vec<Duration>) -> String {
    all.sort();
    let at = |share: f64| micros(all[((all.len() - 1) as f64 * share) as usize]);
    format!("{:.0} us, p99 {:.0} us, p99.9 {:.0} us, worst {:.0} us", at(0.5), at(0.99), at(0.999), at(1.0))
}
