//! Accepting connections, and ending them without cutting a request.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use paas_core::{Cancel, Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::client::{Client, Peer};
use super::config::TunnelDrain;
use super::plain::{self, Rest};
use super::rewound::Rewound;
use super::wire::Wire;

/// The pause after an accept that failed for want of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
                let peer = Arc::new(Peer::new(client, tracker.clone(), stops.tunnels.clone()));
                let (shared, stops) = (Arc::clone(&shared), stops.clone());
                match &entry {
                    Entry::Plain => drop(tracker.spawn(connection(shared, stream, peer, stops))),
                    #[cfg(feature = "tls")]
                    Entry::Tls(handshakes) => {
                        let handshakes = handshakes.clone();
                        tracker.spawn(async move {
                            let stream = tokio::select! {
                                stream = handshakes.shake(stream) => stream,
                                () = stops.gently.cancelled() => None,
                            };
                            if let Some(stream) = stream {
                                connection(shared, stream, peer, stops).await;
                            }
                        });
                    }
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(error = %error, "the router can't accept a connection; trying again");
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

/// The client went away between connecting and being accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
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
        let rest = if shared.config.short_way {
            plain::serve(&shared, stream, &peer, &gently).await
        } else {
            Some(Rest { stream, input: Vec::new() })
        };
        if let Some(Rest { stream, input }) = rest {
            with_hyper(&shared, Rewound::new(stream, input), &peer, &gently).await;
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

/// Answers requests of every kind.
async fn with_hyper(shared: &Arc<Shared>, stream: impl Stream, peer: &Arc<Peer>, gently: &CancellationToken) {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.header_timeout)
        .max_header_size(shared.config.header_bytes)
        .max_buf_size(shared.config.buffer().max(shared.config.header_bytes));
    let wire = Wire::new(stream, Arc::clone(peer), shared.config.idle);
    let service = service_fn(|request| Arc::clone(shared).answer(Arc::clone(peer), request));
    let serving = server.serve_connection(TokioIo::new(wire), service).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let mut told = std::pin::pin!(gently.cancelled());
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = serving.as_mut() => break ended,
            () = told.as_mut(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        // Clients that vanish, send no HTTP or are too slow: nothing to do for anybody.
        tracing::debug!(error = %error, "a client's connection ended with an error");
    }
}
