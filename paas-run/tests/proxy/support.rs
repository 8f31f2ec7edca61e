//! A proxy on loopback, origins by script, and a client that sees bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use paas_core::{
    AppId, AppName, AppRoutes, Backend, Cancel, CancelReason, Context, IdempotencyKey, LogQuery, LogSource,
    LogWriter, Logs as _, MemoryLogs, RouteSettings, RouteState, Router as _, SystemClock, WorkflowId,
};
use paas_run::proxy::{Proxy, ProxyConfig};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it comes within 30 s")
}

pub(crate) struct World {
    pub(crate) proxy: Proxy,
    pub(crate) address: SocketAddr,
    pub(crate) cancel: Cancel,
    pub(crate) serving: JoinHandle<paas_core::Result<()>>,
    logs: Arc<MemoryLogs>,
    id: AppId,
}

impl World {
    pub(crate) async fn start(configure: impl FnOnce(&mut ProxyConfig)) -> Self {
        let mut config = ProxyConfig::default();
        config.short_way = crate::SHORT_WAY;
        configure(&mut config);
        let logs = Arc::new(MemoryLogs::default());
        let proxy = Proxy::new(config, logs.clone(), Arc::new(SystemClock::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let cancel = Cancel::new();
        let serving = tokio::spawn({
            let (proxy, cancel) = (proxy.clone(), cancel.clone());
            async move { proxy.serve(listener, cancel).await }
        });
        Self { proxy, address, cancel, serving, logs, id: AppId::new() }
    }

    /// With the app `hello` at `hello.test`, whose instances listen here.
    pub(crate) async fn serving(origins: &[SocketAddr], configure: impl FnOnce(&mut ProxyConfig)) -> Self {
        let world = Self::start(configure).await;
        world.route(1, RouteState::Serving, origins).await;
        world
    }

    pub(crate) fn context(&self) -> Context {
        let clock = Arc::new(SystemClock::new());
        let log = LogWriter::new(self.logs.clone(), clock.clone(), hello(), LogSource::Platform, "test");
        let key = IdempotencyKey::new(WorkflowId::new(), "switch_route".parse().expect("a name"));
        Context::new(key, self.cancel.clone(), clock, log)
    }

    pub(crate) async fn route(
        &self,
        generation: u64,
        state: RouteState,
        origins: &[SocketAddr],
    ) -> Vec<Backend> {
        let mut routes = AppRoutes::new(hello(), self.id, generation);
        routes.domains = vec!["hello.test".parse().expect("a host")];
        routes.backends = origins
            .iter()
            .enumerate()
            .map(|(index, at)| Backend::new(format!("web.{}", index + 1), *at))
            .collect();
        routes.state = state;
        self.proxy.apply(&self.context(), &routes).await.expect("routes are applied");
        routes.backends
    }

    /// The same app and origins, brought to as `settings` say.
    pub(crate) async fn settle(&self, settings: RouteSettings) {
        let mut routes = self.proxy.observe(&hello()).await.expect("observed").expect("there are routes");
        routes.generation += 1;
        routes.settings = settings;
        self.proxy.apply(&self.context(), &routes).await.expect("routes are applied");
    }

    pub(crate) async fn state(&self, state: RouteState) {
        let mut routes = self.proxy.observe(&hello()).await.expect("observed").expect("there are routes");
        routes.generation += 1;
        routes.state = state;
        self.proxy.apply(&self.context(), &routes).await.expect("routes are applied");
    }

    pub(crate) async fn connect(&self) -> Conn {
        Conn::to(self.address).await
    }

    /// One GET on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: hello.test\r\n\r\n")).await
    }

    pub(crate) async fn ask(&self, request: &str) -> Answer {
        let mut conn = self.connect().await;
        conn.send(request).await;
        conn.answer().await.expect("an answer")
    }

    /// The router's next line that says this.
    pub(crate) async fn logged(&self, what: &str) -> String {
        let query = LogQuery::all().process("router").follow();
        let mut lines = self.logs.read(&hello(), query).await.expect("a log");
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let line = lines.next().await.expect("a follower has no end");
                if line.text.contains(what) {
                    return line.text;
                }
            }
        });
        if let Ok(line) = found.await {
            return line;
        }
        panic!("no line says {what:?}; there are {:#?}", self.log().await)
    }

    pub(crate) async fn log(&self) -> Vec<String> {
        let lines = self.logs.read(&hello(), LogQuery::all().process("router")).await.expect("a log");
        lines.map(|line| line.text).collect().await
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel(CancelReason::Shutdown);
        within(self.serving).await.expect("no panic").expect("no error");
    }
}

pub(crate) fn hello() -> AppName {
    "hello".parse().expect("a name")
}

/// One field of a log line.
pub(crate) fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let start = line.find(&format!(" {name}=")).map(|at| at + name.len() + 2);
    let value = start.map_or("", |at| &line[at..]);
    match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => value.split(' ').next().unwrap_or_default(),
    }
}

/// An answer as it came. Header names are in lower case, as hyper sends them.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The body ended as its head said.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// One end of a connection.
pub(crate) struct Conn(pub(crate) BufReader<TcpStream>);

impl Conn {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(address).await.expect("a connection")))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).await.expect("bytes are taken");
    }

    /// A head with its empty line; `None` at the end of the connection.
    pub(crate) async fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        loop {
            let before = head.len();
            if within(self.0.read_line(&mut head)).await.ok()? == 0 {
                return None;
            }
            if &head[before..] == "\r\n" {
                return Some(head);
            }
        }
    }

    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let head = self.head().await?;
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        let mut answer = Answer { status, head, body: Vec::new(), whole: false };
        if status == 101 || status == 204 || status == 304 {
            answer.whole = true;
        } else if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().ok()?;
            (answer.body, answer.whole) = self.exactly(length).await;
        } else if answer.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().await {
                answer.whole = chunk.is_empty();
                if answer.whole {
                    break;
                }
                answer.body.extend(chunk);
            }
        } else {
            answer.whole = within(self.0.read_to_end(&mut answer.body)).await.is_ok();
        }
        Some(answer)
    }

    /// One chunk; empty at the last one.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = String::new();
        within(self.0.read_line(&mut line)).await.ok()?;
        let size = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
        if size == 0 {
            // Trailers and their empty line.
            self.head().await?;
            return Some(Vec::new());
        }
        let (chunk, whole) = self.exactly(size).await;
        let (_, end) = self.exactly(2).await;
        (whole && end).then_some(chunk)
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> (Vec<u8>, bool) {
        let mut bytes = vec![0; length];
        let whole = within(self.0.read_exact(&mut bytes)).await.is_ok();
        (if whole { bytes } else { Vec::new() }, whole)
    }

    /// Everything until the other side closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset ends it like a close.
        let _ = within(self.0.read_to_end(&mut bytes)).await;
        bytes
    }
}

/// A server that gives each connection, and how many came before it, to this script.
pub(crate) async fn origin<F, Fut>(script: F) -> SocketAddr
where
    F: Fn(Conn, usize) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(script(Conn(BufReader::new(stream)), count));
            count += 1;
        }
    });
    address
}

/// An origin that answers every request without body with what came.
pub(crate) async fn echo() -> SocketAddr {
    origin(|mut conn, _| async move {
        while let Some(head) = conn.head().await {
            let length =
                header(&head, "content-length").map_or(0, |length| length.parse().expect("a number"));
            let (body, _) = conn.exactly(length).await;
            let total = head.len() + body.len();
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n{head}")).await;
            conn.send(body).await;
        }
    })
    .await
}

/// An address at which nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address")
}
