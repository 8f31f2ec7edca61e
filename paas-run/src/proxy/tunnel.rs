//! After a 101: bytes both ways, until one side ends it or nobody says anything any more.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::{Instant, sleep_until};

use super::access::Record;
use super::client::Peer;
use super::config::ProxyConfig;
use super::fault::Fault;
use super::reach::Carrier as _;
use super::upstream::Connection;

/// The two ends of a tunnel, before they are free of HTTP.
pub(super) struct Ends {
    pub(super) client_side: OnUpgrade,
    pub(super) app_side: OnUpgrade,
    pub(super) connection: Connection,
}

/// Runs a tunnel. The record keeps the backend claimed, so a drain sees it.
pub(super) async fn run(mut ends: Ends, mut record: Box<Record>, peer: Arc<Peer>, config: ProxyConfig) {
    // The client's side comes free once the 101 was written to it.
    let opened = tokio::time::timeout(config.first_byte, async {
        let app = poll_fn(|cx| {
            ends.connection.drive(cx);
            Pin::new(&mut ends.app_side).poll(cx)
        });
        tokio::try_join!(app, ends.client_side)
    });
    let Ok(Ok((app, client))) = opened.await else {
        record.fail(Fault::ClientGone);
        return;
    };
    let moved = Arc::new(Moved { began: Instant::now(), at: AtomicU64::new(0), from_app: AtomicU64::new(0) });
    let mut app = Metered { io: TokioIo::new(app), moved: Arc::clone(&moved), of_app: true };
    let mut client = Metered { io: TokioIo::new(client), moved: Arc::clone(&moved), of_app: false };
    let removed = record.upstream().map(|upstream| upstream.close_tunnels.clone()).unwrap_or_default();
    let fault = tokio::select! {
        // However it ends: one side has closed it, as tunnels are.
        _ = copy_bidirectional(&mut client, &mut app) => None,
        () = moved.idle_for(config.idle) => Some(Fault::IdleBackend),
        () = removed.cancelled() => None,
        () = peer.closing.cancelled() => Some(Fault::ForcedClose),
    };
    record.bytes = moved.from_app.load(Ordering::Relaxed);
    match fault {
        Some(fault) => record.fail(fault),
        None => record.done(),
    }
}

/// When something passed last, and how much the app has said.
#[derive(Debug)]
struct Moved {
    began: Instant,
    /// Milliseconds after `began`.
    at: AtomicU64,
    from_app: AtomicU64,
}

impl Moved {
    async fn idle_for(&self, limit: Duration) {
        loop {
            let due = self.began + Duration::from_millis(self.at.load(Ordering::Relaxed)) + limit;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// One side, whose bytes are counted.
struct Metered {
    io: TokioIo<Upgraded>,
    moved: Arc<Moved>,
    of_app: bool,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if read > 0 {
            let millis = self.moved.began.elapsed().as_millis();
            self.moved.at.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
            if self.of_app {
                self.moved.from_app.fetch_add(read as u64, Ordering::Relaxed);
            }
        }
        result
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
