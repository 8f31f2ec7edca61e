//! What an app says to the router: whatever that is, a client gets answers that are framed as HTTP wants it, and what was
//! cut off doesn't look whole.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paas_core::{AppId, AppName, AppRoutes, Backend, RouteState};
use paas_run::proxy::{Client, Proxy, ProxyConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::logs::{Kept, NoTime};
use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "proxy_answer",
    run,
    words: &[
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 304 Not Modified\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n",
        "HTTP/1.1 500 \r\n",
        "Content-Length: {length}\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: 0\r\n",
        "content-length:+5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive, x-a\r\n",
        "Keep-Alive: timeout=5\r\n",
        "Upgrade: websocket\r\n",
        "Trailer: X-A\r\n",
        "X-A: 1\r\n",
        "Via: 1.0 other\r\n",
        "Date: now\r\n",
        "5\r\nhello\r\n",
        "5;a=b\r\nhello\r\n",
        "0\r\n\r\n",
        "0\r\nX-A: 1\r\n\r\n",
        "\r\n\r\n",
        "\r\n",
        "\n",
        "\r",
        "\0",
        " ",
    ],
};

struct World {
    proxies: [Proxy; 2],
    says: Arc<Mutex<Vec<u8>>>,
}

impl World {
    async fn new() -> Self {
        let says: Arc<Mutex<Vec<u8>>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        tokio::spawn(app(listener, Arc::clone(&says)));
        let mut routes = AppRoutes::new(AppName::new("one").expect("a name"), AppId::new(), 1);
        routes.domains = vec!["one.test".parse().expect("a domain")];
        routes.backends = vec![Backend::new("web.1", address)];
        routes.state = RouteState::Serving;
        let proxies = [true, false].map(|short_way| {
            let mut config = ProxyConfig::default();
            config.short_way = short_way;
            let proxy = Proxy::new(config, Arc::new(Kept::default()), Arc::new(NoTime));
            proxy.adopt(std::slice::from_ref(&routes)).expect("routes");
            proxy
        });
        Self { proxies, says }
    }
}

/// Says these bytes to whoever connects, once its head has come, and closes.
async fn app(listener: TcpListener, says: Arc<Mutex<Vec<u8>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let bytes = says.lock().expect("nobody panicked").clone();
        tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            // The router may have had enough.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut head).await;
        });
    }
}

/// The input: what an app answers before it closes its connection.
fn run(input: &[u8]) -> String {
    thread_local! {
        static WORLD: World = super::block_on(World::new());
    }
    let bytes = super::with_gzip(input);
    WORLD.with(|world| {
        *world.says.lock().expect("nobody panicked") = bytes;
        let answers = world.proxies.each_ref().map(|proxy| super::block_on(ask(proxy)));
        answers.map(|answer| check(&answer)).join(" ")
    })
}

async fn ask(proxy: &Proxy) -> Vec<u8> {
    let (mut ours, theirs) = tokio::io::duplex(16 << 10);
    let client = Client::new(SocketAddr::from(([203, 0, 113, 77], 1)), 80);
    let mut answer = Vec::new();
    let talk = async {
        ours.write_all(
            b"POST / HTTP/1.1\r\nHost: one.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        )
        .await
        .expect("the router reads");
        ours.read_to_end(&mut answer).await.expect("memory doesn't fail");
    };
    let all = async { tokio::join!(proxy.serve_stream(theirs, client), talk) };
    assert!(tokio::time::timeout(Duration::from_secs(20), all).await.is_ok(), "a connection hangs");
    answer
}

/// Reads an answer as strictly as anybody could; its kind.
fn check(answer: &[u8]) -> String {
    let shown = || answer.escape_ascii().to_string();
    if answer.is_empty() {
        // Cut before anything of it was sent.
        return "none".to_owned();
    }
    let Some(end) = answer.windows(4).position(|part| part == b"\r\n\r\n") else {
        panic!("there is no whole head in {}", shown())
    };
    let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|first| first.strip_prefix("HTTP/1.1 ")?.get(..3));
    let status: u16 = status.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{}", shown()));
    let (mut lengths, mut chunked) = (Vec::new(), 0);
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?} in {}", shown()));
        assert!(!line.contains(['\r', '\n', '\0']), "{line:?} in {}", shown());
        match name.to_ascii_lowercase().as_str() {
            "content-length" => lengths.push(value.trim().parse::<usize>().expect("a length")),
            "transfer-encoding" => chunked += usize::from(value.trim() == "chunked"),
            "keep-alive" | "upgrade" | "proxy-authenticate" => panic!("{name} in {}", shown()),
            _ => {}
        }
    }
    assert!(lengths.len() + chunked <= 1, "one framing in {}", shown());
    let whole = match lengths[..] {
        _ if status == 204 || status == 304 => {
            assert!(body.is_empty(), "a body in {}", shown());
            true
        }
        [length] => {
            assert!(body.len() <= length, "too much in {}", shown());
            body.len() == length
        }
        _ if chunked == 1 => body == b"0\r\n\r\n" || body.ends_with(b"\r\n\r\n"),
        _ => true,
    };
    format!(
        "{status} {} {}",
        if chunked == 1 { "chunks" } else { "length" },
        if whole { "whole" } else { "cut" }
    )
}
