//! After a 101: bytes both ways, until one side ends it, nobody says anything any more, or the instance goes away. Both
//! ends of a WebSocket are told the last of these, with a close frame.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until, timeout};

use super::access::Record;
use super::client::Peer;
use super::fault::Fault;
use super::pipe::Pipe;
use super::reach::Carrier as _;
use super::upstream::Connection;
use super::{Shared, websocket};

/// How long a client that was told that we go away may take to say that it heard it.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

/// The two ends of a tunnel, before they are free of HTTP.
pub(super) struct Ends {
    pub(super) client_side: OnUpgrade,
    pub(super) app_side: OnUpgrade,
    pub(super) connection: Connection,
    pub(super) is_websocket: bool,
}

impl Ends {
    /// Both, once HTTP lets go of them; nothing else of it stays.
    async fn open(mut self) -> hyper::Result<(Upgraded, Upgraded)> {
        let app = poll_fn(|cx| {
            self.connection.drive(cx);
            Pin::new(&mut self.app_side).poll(cx)
        });
        // The client's side comes free once the 101 was written to it.
        tokio::try_join!(app, self.client_side)
    }
}

/// Runs a tunnel. The record keeps the backend claimed, so a drain sees it.
pub(super) async fn run(ends: Ends, mut record: Box<Record>, peer: Arc<Peer>, shared: Arc<Shared>) {
    let config = &shared.config;
    let is_websocket = ends.is_websocket;
    let Ok(Ok((app, client))) = timeout(config.first_byte, ends.open()).await else {
        record.fail(Fault::ClientGone);
        return;
    };
    peer.heads.forget();
    let moved = Moved { began: Instant::now(), at: AtomicU64::new(0) };
    let mut tunnel = Tunnel::new(client, app, is_websocket);
    let removed = record.upstream().map(|upstream| upstream.close_tunnels.clone()).unwrap_or_default();
    let fault = tokio::select! {
        // However it ends: one side has closed it, as tunnels are.
        _ = poll_fn(|cx| tunnel.poll(cx, &moved)) => None,
        () = moved.idle_for(config.idle) => Some(Fault::IdleBackend),
        () = removed.cancelled() => None,
        () = peer.closing.cancelled() => Some(Fault::ForcedClose),
    };
    if removed.is_cancelled() || fault == Some(Fault::ForcedClose) {
        tunnel.say_farewell(&moved).await;
    }
    record.bytes = tunnel.down.bytes;
    match fault {
        Some(fault) => record.fail(fault),
        None => record.done(),
    }
}

/// Both ends, and what is on its way between them.
struct Tunnel {
    client: TokioIo<Upgraded>,
    app: TokioIo<Upgraded>,
    /// To the client.
    down: Pipe,
    /// To the app.
    up: Pipe,
    down_ended: bool,
    up_ended: bool,
    is_websocket: bool,
}

impl Tunnel {
    fn new(client: Upgraded, app: Upgraded, is_websocket: bool) -> Self {
        let pipe = || if is_websocket { Pipe::of_frames() } else { Pipe::default() };
        Self {
            client: TokioIo::new(client),
            app: TokioIo::new(app),
            down: pipe(),
            up: pipe(),
            down_ended: false,
            up_ended: false,
            is_websocket,
        }
    }

    /// Passes on what there is; ready once both directions have ended, or one has failed.
    fn poll(&mut self, cx: &mut Context<'_>, moved: &Moved) -> Poll<io::Result<()>> {
        let before = self.down.bytes + self.up.bytes;
        if !self.down_ended {
            self.down_ended = self.down.poll(cx, &mut self.app, &mut self.client)?.is_ready();
        }
        if !self.up_ended {
            self.up_ended = self.up.poll(cx, &mut self.client, &mut self.app)?.is_ready();
        }
        if self.down.bytes + self.up.bytes > before {
            moved.note();
        }
        if self.down_ended && self.up_ended { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Tells both ends of a WebSocket that it goes away, and hears the client out for a moment.
    async fn say_farewell(&mut self, moved: &Moved) {
        if !self.is_websocket {
            return;
        }
        // Where one of them has closed by itself, the other one's answer is all that is to come.
        if !self.down.is_closed() && !self.up.is_closed() {
            let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
            self.down.say_last(Bytes::from_static(&websocket::GOING_AWAY));
            self.up.say_last(Bytes::copy_from_slice(&websocket::going_away_masked([a, b, c, d])));
        }
        let heard = poll_fn(|cx| match self.poll(cx, moved) {
            Poll::Pending if self.up_ended && self.down.is_silent() => Poll::Ready(()),
            poll => poll.map(drop),
        });
        // Who doesn't answer is closed all the same.
        let _ = timeout(FAREWELL, heard).await;
    }
}

/// When something passed last.
#[derive(Debug)]
struct Moved {
    began: Instant,
    /// Milliseconds after `began`.
    at: AtomicU64,
}

impl Moved {
    fn note(&self) {
        let millis = self.began.elapsed().as_millis();
        self.at.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

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
