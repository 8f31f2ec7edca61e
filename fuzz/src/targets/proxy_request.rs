//! A client's connection to the router, the short way and through hyper, to real backends on loopback: no request gets to another app
//! than its host's, and none is read by an app otherwise than by the router.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use paas_core::{AppId, AppName, AppRoutes, Backend, RouteState};
use paas_run::proxy::{Client, Proxy, ProxyConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::logs::{Kept, NoTime};
use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "proxy_request",
    run,
    words: &[
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\n",
        "CONNECT one.test:80 HTTP/1.1\r\n",
        "GET http://two.test/ HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "Host: one.test\r\n",
        "Host: two.test\r\n",
        "Host: ONE.TEST.:80\r\n",
        "Content-Length: {length}\r\n",
        "Content-Length: 5\r\n",
        "content-length:5\r\n",
        "Content-Length : 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:\tchunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Connection: close\r\n",
        "Connection: host, content-length, x-forwarded-for\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
        "Upgrade: h2c\r\n",
        "Expect: 100-continue\r\n",
        "TE: trailers\r\n",
        "Trailer: Host\r\n",
        "X-Forwarded-For: 1.2.3.4\r\n",
        "X-Request-Id: abcdefghijklmnopqrstuvwxyz\r\n",
        "0\r\n\r\n",
        "5\r\nhello\r\n",
        "5;a=b\r\nhello\r\n",
        "\r\n\r\n",
        "\r\n",
        "\n",
        "\r",
        "\0",
        " ",
        "\t",
        "one.test",
        "two.test",
        "user@",
        "[::1]",
        ":80",
    ],
};

/// What a client can't know: where the router says it comes from.
const ADDRESS: &str = "203.0.113.77";

#[derive(Debug)]
struct World {
    /// With the short way for plain requests, and without.
    proxies: [Proxy; 2],
    apps: [Arc<Mutex<Vec<String>>>; 2],
}

const HOSTS: [&str; 2] = ["one.test", "two.test"];

impl World {
    async fn new() -> Self {
        let apps = [Arc::default(), Arc::default()];
        let mut routes = Vec::new();
        for (host, wrong) in HOSTS.into_iter().zip(&apps) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("its address");
            tokio::spawn(app(listener, host, Arc::clone(wrong)));
            let name = AppName::new(host.trim_end_matches(".test")).expect("a name");
            let mut route = AppRoutes::new(name, AppId::new(), 1);
            route.domains = vec![host.parse().expect("a domain")];
            route.backends = vec![Backend::new("web.1", address)];
            route.state = RouteState::Serving;
            routes.push(route);
        }
        let proxies = [true, false].map(|short_way| {
            let mut config = ProxyConfig::default();
            config.short_way = short_way;
            let proxy = Proxy::new(config, Arc::new(Kept::default()), Arc::new(NoTime));
            proxy.adopt(&routes).expect("routes");
            proxy
        });
        Self { proxies, apps }
    }
}

/// The input: what a client sends before it stops writing.
fn run(input: &[u8]) -> String {
    thread_local! {
        static WORLD: World = super::block_on(World::new());
    }
    let bytes = super::with_gzip(input);
    let answers = WORLD.with(|world| {
        let answers = world.proxies.each_ref().map(|proxy| super::block_on(talk(proxy, &bytes))).concat();
        let wrong: Vec<String> = world
            .apps
            .iter()
            .flat_map(|app| std::mem::take(&mut *app.lock().expect("nobody panicked")))
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("; "));
        answers
    });
    let text = String::from_utf8_lossy(&answers);
    // The kind: each status with what the page says.
    let lines = text
        .lines()
        .filter(|line| line.starts_with("HTTP/1.1 ") || line.contains("It ") || line.contains("code="));
    let letters = ["none", "informed", "ok", "moved", "refused", "failed"];
    let status = |line: &str| {
        line.as_bytes().get(9).and_then(|digit| letters.get(usize::from(digit.wrapping_sub(b'0'))).copied())
    };
    let words = lines.take(4).flat_map(|line| [status(line).unwrap_or("-"), line.get(..60).unwrap_or(line)]);
    words.collect::<Vec<_>>().join(" ")
}

async fn talk(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let (ours, theirs) = tokio::io::duplex(16 << 10);
    let client = Client::new(SocketAddr::new(ADDRESS.parse().expect("an address"), 1), 80);
    let (mut from, mut to) = tokio::io::split(ours);
    let sending = async {
        // The router may have had enough.
        let _ = to.write_all(bytes).await;
        let _ = to.shutdown().await;
    };
    let mut answers = Vec::new();
    let all =
        async { tokio::join!(proxy.serve_stream(theirs, client), sending, from.read_to_end(&mut answers)) };
    let ended = tokio::time::timeout(Duration::from_secs(20), all).await;
    assert!(ended.is_ok(), "a connection hangs");
    answers
}

/// An app of this host, which takes nothing for granted. What is wrong with a request is told.
async fn app(listener: TcpListener, host: &'static str, wrong: Arc<Mutex<Vec<String>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let wrong = Arc::clone(&wrong);
        tokio::spawn(async move {
            if let Err(what) = serve(stream, host).await {
                wrong.lock().expect("nobody panicked").push(what);
            }
        });
    }
}

async fn serve(stream: TcpStream, host: &str) -> Result<(), String> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                // A client that went away takes the connection with it.
                Err(_) => return Ok(()),
            }
        }
        let framing = check(&head, host).map_err(|what| format!("{what}: {}", head.escape_ascii()))?;
        let whole = match framing {
            Framing::None => true,
            Framing::Length(length) => {
                // It may say that terabytes come.
                let mut body = (&mut stream).take(length);
                tokio::io::copy(&mut body, &mut tokio::io::sink()).await.is_ok_and(|came| came == length)
            }
            Framing::Chunked => chunks(&mut stream).await?,
        };
        if !whole {
            return Ok(());
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        if stream.get_mut().write_all(answer).await.is_err() {
            return Ok(());
        }
    }
}

enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// Reads a head as strictly as anybody could.
fn check(head: &[u8], host: &str) -> Result<Framing, String> {
    let text = std::str::from_utf8(&head[..head.len() - 4]);
    // Values may have bytes beyond ASCII; nothing here looks at them.
    let text =
        text.map_or_else(|_| String::from_utf8_lossy(&head[..head.len() - 4]).into_owned(), str::to_owned);
    let mut lines = text.split("\r\n");
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    if first.len() != 3 || first[2] != "HTTP/1.1" || !(first[1].starts_with('/') || first[1] == "*") {
        return Err("no request line".to_owned());
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a line without a colon")?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(format!("{name:?} is no header's name"));
        }
        if value.contains(['\r', '\n', '\0']) {
            return Err(format!("{name} has more than a line"));
        }
        fields.push((name.to_ascii_lowercase(), value.trim()));
    }
    let all = |name: &str| {
        fields.iter().filter(|(known, _)| known == name).map(|(_, value)| *value).collect::<Vec<_>>()
    };
    let one = |name: &str| match all(name)[..] {
        [value] => Ok(value),
        _ => Err(format!("{} times {name}", all(name).len())),
    };
    let asked = one("host")?.to_ascii_lowercase();
    let asked = asked.rsplit_once(':').map_or(asked.as_str(), |(name, _)| name);
    if asked.trim_end_matches('.') != host {
        return Err(format!("the host {asked} was routed to {host}"));
    }
    if !one("x-forwarded-for")?.ends_with(ADDRESS) {
        return Err("it isn't the router's".to_owned());
    }
    if !one("via")?.ends_with("1.1 paas-router")
        || one("x-forwarded-proto")? != "http"
        || one("x-forwarded-port")? != "80"
    {
        return Err("it says it came another way".to_owned());
    }
    one("x-request-start")?;
    let id = one("x-request-id")?;
    if !(20..=200).contains(&id.len())
        || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    {
        return Err(format!("{id:?} is no id"));
    }
    if let Some(hop) =
        ["proxy-connection", "keep-alive", "proxy-authorization"].iter().find(|name| !all(name).is_empty())
    {
        return Err(format!("{hop} is for one hop"));
    }
    match (&all("transfer-encoding")[..], &all("content-length")[..]) {
        ([], []) => Ok(Framing::None),
        (["chunked"], []) => Ok(Framing::Chunked),
        ([], [length]) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map(Framing::Length).map_err(|_| "too long".to_owned())
        }
        (coding, length) => Err(format!("it is framed by {coding:?} and {length:?}")),
    }
}

/// Reads chunks to their end; whether it came.
async fn chunks(stream: &mut BufReader<TcpStream>) -> Result<bool, String> {
    loop {
        let Some(line) = line(stream).await else { return Ok(false) };
        let size = usize::from_str_radix(&line, 16).map_err(|_| format!("{line:?} is no chunk's size"))?;
        if size == 0 {
            // Trailers, up to an empty line.
            loop {
                match self::line(stream).await.as_deref() {
                    Some("") => return Ok(true),
                    Some(_) => {}
                    None => return Ok(false),
                }
            }
        }
        let mut chunk = vec![0; size + 2];
        if stream.read_exact(&mut chunk).await.is_err() {
            return Ok(false);
        }
        if !chunk.ends_with(b"\r\n") {
            return Err("a chunk doesn't end where it says".to_owned());
        }
    }
}

async fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.ok()?);
    }
    line.truncate(line.len() - 2);
    Some(String::from_utf8_lossy(&line).into_owned())
}
