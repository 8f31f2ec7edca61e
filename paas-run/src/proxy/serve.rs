//! Accepting connections, and ending them without cutting a request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use paas_core::{Cancel, Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::client::{Client, Peer};
use super::config::TunnelDrain;
use super::front::announced;
use super::plain::{self, Rest};
use super::rewound::Rewound;
use super::wire::Wire;

/// The pause after an accept that failed for want of files or memory.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many requests of one HTTP/2 connection are answered at a time.
const STREAMS: u32 = 200;
/// How many of them may be given up before they were looked at, and how many because of errors, until it is cut.
const RESETS: (usize, usize) = (20, 1024);

/// What connections are told when the listener stops.
#[derive(Debug, Clone, Default)]
struct Stops {
    /// Finish the request at hand and close.
    gently: CancellationToken,
    /// Close.
    now: CancellationToken,
    tunnels: CancellationToken,
}

/// What a listener's connections begin with.
#[derive(Clone)]
pub(super) enum Entry {
    /// A request.
    Plain,
    /// A TLS handshake.
    #[cfg(feature = "tls")]
    Tls(super::tls::Handshakes),
}

impl Entry {
    fn is_secure(&self) -> bool {
        !matches!(self, Self::Plain)
    }
}

/// Accepts connections until cancelled or left to another process, then lets requests finish for the grace that is configured.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    entry: Entry,
    cancel: Cancel,
) -> Result<()> {
    let port = listener
        .local_addr()
        .map_err(|error| Error::from_io("can't tell the address of the router's listener", error))?
        .port();
    let tracker = TaskTracker::new();
    let stops = Stops::default();
    let leaves = loop {
        let accepted = tokio::select! {
            biased;
            _ = cancel.cancelled() => break false,
            () = shared.leaving.told.cancelled() => break true,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(error = %error, "a client's connection keeps Nagle's algorithm");
                }
                let client = Client { secure: entry.is_secure(), ..Client::new(address, port) };
                let arrival =
                    Arrival { shared: Arc::clone(&shared), entry: entry.clone(), stops: stops.clone() };
                tracker.spawn(arrival.serve(stream, client, tracker.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(error = %error, "the router can't accept a connection; trying again");
                shared.pools.shed();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    drop(listener);
    tracker.close();
    if leaves {
        tokio::select! {
            () = tracker.wait() => return Ok(()),
            _ = cancel.cancelled() => {}
            () = tokio::time::sleep(shared.config.linger) => {}
        }
    }
    stops.gently.cancel();
    if shared.config.tunnels == TunnelDrain::Close {
        stops.tunnels.cancel();
    }
    if tokio::time::timeout(shared.config.shutdown_grace, tracker.wait()).await.is_err() {
        stops.tunnels.cancel();
        stops.now.cancel();
        tracker.wait().await;
    }
    Ok(())
}

/// A connection that has just come.
struct Arrival {
    shared: Arc<Shared>,
    entry: Entry,
    stops: Stops,
}

impl Arrival {
    async fn serve(self, mut stream: TcpStream, client: Client, tracker: TaskTracker) {
        let front = &self.shared.config.front;
        let client = match front.is_trusted(client.address.ip()) {
            false => client,
            true if !front.proxy_protocol => client.trusted(),
            // What comes behind it is the client's own word.
            true => match self.in_time(announced(&mut stream, client)).await {
                Some(Ok(client)) => client,
                Some(Err(error)) => {
                    return tracing::debug!(error = %error, peer = %client.address, "a proxy in front doesn't say for whom it speaks");
                }
                None => return,
            },
        };
        // Held until the connection ends.
        let _guest = match self.shared.config.client_connections {
            None => None,
            Some(most) => match self.shared.guests.admit(client.address.ip(), most) {
                None => return tracing::debug!(peer = %client.address, "a client has too many connections"),
                guest => guest,
            },
        };
        let peer = Peer::new(client, tracker, self.stops.tunnels.clone());
        match &self.entry {
            Entry::Plain => connection(self.shared, stream, Arc::new(peer), self.stops).await,
            #[cfg(feature = "tls")]
            Entry::Tls(handshakes) => {
                let stream = tokio::select! {
                    stream = Box::pin(handshakes.shake(stream)) => stream,
                    () = self.stops.gently.cancelled() => None,
                };
                if let Some(stream) = stream {
                    let host = stream.get_ref().1.server_name().unwrap_or_default();
                    let peer = peer.made_for(handshakes.clone(), host);
                    Box::pin(connection(self.shared, stream, Arc::new(peer), self.stops)).await;
                }
            }
        }
    }

    /// `None` when it takes too long, or the listener stops.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = tokio::time::timeout(self.shared.config.header_timeout, work) => done.ok(),
            () = self.stops.gently.cancelled() => None,
        }
    }
}

/// The client went away between connecting and being accepted.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Serves one connection alone.
#[cfg(feature = "fuzzing")]
pub(super) async fn one(shared: Arc<Shared>, stream: impl Stream, client: Client) {
    let stops = Stops::default();
    let peer = Arc::new(Peer::new(client, TaskTracker::new(), stops.tunnels.clone()));
    connection(shared, stream, peer, stops).await;
}

/// A client's bytes.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

async fn connection(shared: Arc<Shared>, stream: impl Stream, peer: Arc<Peer>, stops: Stops) {
    // Tokens of its own: polling a shared one would take a lock that all connections share.
    let (gently, now) = (stops.gently.child_token(), stops.now.child_token());
    let serving = async {
        if let Some(Rest { stream, input }) = plain::serve(&shared, stream, &peer, &gently).await {
            let is_http2 = input.starts_with(PREFACE);
            let wire = Wire::new(Rewound::new(stream, input), Arc::clone(&peer), shared.config.idle);
            // In boxes: most connections need neither, and would have room for both.
            if is_http2 {
                peer.heads.forget();
                Box::pin(with_http2(&shared, wire, &peer, &gently)).await;
            } else {
                Box::pin(with_http1(&shared, wire, &peer, &gently)).await;
            }
        }
    };
    // Before what is being served is dropped, or nobody would know why.
    let forced = async {
        now.cancelled().await;
        peer.force();
    };
    tokio::select! {
        biased;
        () = serving => {}
        () = forced => {}
    }
}

/// How HTTP/2 begins, up to where no other version goes on alike.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Answers requests of every kind.
async fn with_http1(
    shared: &Arc<Shared>,
    wire: Wire<impl Stream>,
    peer: &Arc<Peer>,
    gently: &CancellationToken,
) {
    let config = &shared.config;
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_header_size(config.header_bytes)
        .max_buf_size(config.buffer().max(config.header_bytes));
    let service = service_fn(|request| Arc::clone(shared).answer(Arc::clone(peer), request));
    let serving = server.serve_connection(TokioIo::new(wire), service).with_upgrades();
    drive(serving, gently, http1::UpgradeableConnection::graceful_shutdown).await;
}

/// Answers requests that share a connection, up to the usual limits against those who make and drop them by the thousand.
async fn with_http2(
    shared: &Arc<Shared>,
    wire: Wire<impl Stream>,
    peer: &Arc<Peer>,
    gently: &CancellationToken,
) {
    let mut server = http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS.0)
        .max_local_error_reset_streams(RESETS.1)
        .max_header_list_size(u32::try_from(shared.config.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(shared.config.idle)
        .max_send_buf_size(shared.config.buffer());
    let (shared, peer) = (Arc::clone(shared), Arc::clone(peer));
    // In a box: hyper moves it to a task of its own, and it is large.
    let service = service_fn(move |request| Box::pin(Arc::clone(&shared).answer(Arc::clone(&peer), request)));
    let serving = server.serve_connection(TokioIo::new(wire), service);
    drive(serving, gently, http2::Connection::graceful_shutdown).await;
}

/// Serves until the connection ends; gently, once it is told to.
async fn drive<C>(serving: C, gently: &CancellationToken, shut_down: fn(Pin<&mut C>))
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut serving = std::pin::pin!(serving);
    let mut told = std::pin::pin!(gently.cancelled());
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = serving.as_mut() => break ended,
            () = told.as_mut(), if !stopping => {
                stopping = true;
                shut_down(serving.as_mut());
            }
        }
    };
    if let Err(error) = ended {
        // Clients that vanish, send no HTTP or are too slow: nothing to do for anybody.
        tracing::debug!(error = %error, "a client's connection ended with an error");
    }
}
