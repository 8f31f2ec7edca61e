//! One plain request's way to the app, and its answer's way back.

use std::any::Any;
use std::future::poll_fn;
use std::io::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use http::HeaderValue;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use super::body::{Framing, Passed};
use super::link::Link;
use super::request::Plain;
use super::response::{self, Head, Seen};
use super::scratch::Buffers;
use super::splice::{LARGE, Splice};
use crate::proxy::access::Record;
use crate::proxy::client::Peer;
use crate::proxy::deadline::Deadline;
use crate::proxy::fault::Fault;
use crate::proxy::serve::Stream;
use crate::proxy::{Shared, page};

/// A client's connection.
pub(super) struct Client<'a, S> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) peer: &'a Peer,
    pub(super) stream: S,
    /// What it has sent and has no answer yet.
    pub(super) input: Vec<u8>,
    pub(super) deadline: Deadline,
    /// No further request is to be waited for.
    pub(super) gently: &'a CancellationToken,
}

/// Why a request has no whole answer.
enum Failed {
    /// Nothing of one was sent to the client: it can have a page.
    Before(Fault),
    /// Too late for a page: the client's connection is cut, so that it doesn't take a part for the whole.
    Amid(Fault),
}

/// Why the app said nothing.
enum Silent {
    /// Its connection ended. `unsent`: and it got nothing of the request.
    Closed {
        unsent: bool,
    },
    Failed(Fault),
}

impl<S: Stream> Client<'_, S> {
    /// Answers a request, whatever happens; whether there may be another one.
    pub(super) async fn answer(&mut self, plain: &Plain, mut record: Record, buffers: &mut Buffers) -> bool {
        match self.forward(plain, &mut record, buffers).await {
            Ok(last) => {
                record.done();
                !last
            }
            Err(Failed::Amid(fault)) => {
                record.fail(fault);
                false
            }
            Err(Failed::Before(fault)) => {
                record.fail(fault);
                let accept =
                    plain.accept.clone().and_then(|at| HeaderValue::from_bytes(&self.input[at]).ok());
                let id = HeaderValue::from_bytes(&buffers.request[plain.id.clone()]).ok();
                let page = {
                    let all = record.route.rules();
                    let own = all.as_ref().and_then(|rules| rules.page(fault));
                    page::page(fault, page::wants_html(accept.as_ref()), id.as_ref(), own)
                };
                let last = self.is_last(plain);
                let date = |out: &mut Vec<u8>| self.shared.dates.write(&*self.shared.clock, out);
                response::write_page(&page, plain.bare, last, date, plain.hsts.as_ref(), &mut buffers.answer);
                fault != Fault::ClientGone && self.write(&buffers.answer).await.is_ok() && !last
            }
        }
    }

    /// Whether this answer is the last one, as far as one knows now.
    fn is_last(&self, plain: &Plain) -> bool {
        plain.last || self.shared.leaving.is.load(Ordering::Relaxed) || self.gently.is_cancelled()
    }

    /// Brings the app's answer to the client; whether that was said to be the last one.
    async fn forward(
        &mut self,
        plain: &Plain,
        record: &mut Record,
        buffers: &mut Buffers,
    ) -> Result<bool, Failed> {
        self.shared.admit(self.peer, plain.rules.as_deref()).map_err(Failed::Before)?;
        let (mut link, head) = self.exchange(plain, record, buffers).await.map_err(Failed::Before)?;
        record.status = Some(head.status);
        if let Some(seconds) = head.keep {
            link.age.keep_at_most(seconds);
        }
        let clean = self.relay(&mut link, &head, record, buffers).await.map_err(Failed::Amid)?;
        if head.reusable && clean {
            link.age.rest(Instant::now());
            if let Some(upstream) = record.upstream() {
                upstream.keep(link);
            }
        }
        Ok(head.last)
    }

    /// Sends the request and gets the answer's head, over as many connections as that takes.
    async fn exchange(
        &mut self,
        plain: &Plain,
        record: &mut Record,
        buffers: &mut Buffers,
    ) -> Result<(Link, Head), Fault> {
        let mut pooled = true;
        loop {
            let shared = self.shared;
            let mut link: Link = tokio::select! {
                biased;
                link = shared.reach(record, pooled) => link?,
                () = poll_fn(|cx| self.poll_gone(cx)) => return Err(Fault::ClientGone),
            };
            match self.ask(&mut link, plain, buffers).await {
                Ok(head) => return Ok((link, head)),
                // The app may be closing an idle connection just now. A request that may be done twice is sent once more.
                Err(Silent::Closed { unsent }) if link.age.reused && (unsent || plain.idempotent) => {
                    pooled = false;
                }
                Err(Silent::Closed { .. }) => return Err(Fault::ClosedWithoutResponse),
                Err(Silent::Failed(fault)) => return Err(fault),
            }
        }
    }

    /// Sends the request over this connection and waits for the head of the answer.
    async fn ask(&mut self, link: &mut Link, plain: &Plain, buffers: &mut Buffers) -> Result<Head, Silent> {
        let Buffers { request, input, answer } = buffers;
        input.clear();
        let mut sent = 0;
        // An app may answer and not read to the end.
        let mut deaf = false;
        self.deadline.set(Instant::now() + self.shared.config.first_byte);
        poll_fn(|cx| {
            while sent < request.len() && !deaf {
                match Pin::new(&mut link.stream).poll_write(cx, &request[sent..]) {
                    Poll::Ready(Ok(bytes)) if bytes > 0 => sent += bytes,
                    Poll::Ready(_) => deaf = true,
                    Poll::Pending => break,
                }
            }
            loop {
                input.reserve(2 * 1024);
                match poll_read_buf(Pin::new(&mut link.stream), cx, input) {
                    Poll::Ready(Ok(bytes)) if bytes > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Err(Silent::Closed { unsent: sent == 0 })),
                    Poll::Pending => break,
                }
                match self.head(plain, input, answer) {
                    Ok(Some(mut head)) => {
                        head.reusable &= sent == request.len();
                        return Poll::Ready(Ok(head));
                    }
                    Ok(None) => {}
                    Err(fault) => return Poll::Ready(Err(Silent::Failed(fault))),
                }
            }
            if self.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Silent::Failed(Fault::ClientGone)));
            }
            if self.deadline.poll(cx).is_ready() {
                return Poll::Ready(Err(Silent::Failed(Fault::RequestTimeout)));
            }
            Poll::Pending
        })
        .await
    }

    /// The answer's head, once it is whole.
    fn head(&self, plain: &Plain, input: &mut Vec<u8>, answer: &mut Vec<u8>) -> Result<Option<Head>, Fault> {
        loop {
            let date = |out: &mut Vec<u8>| self.shared.dates.write(&*self.shared.clock, out);
            match response::read(input, plain.bare, self.is_last(plain), date, plain.hsts.as_ref(), answer)? {
                Seen::Head(head) => return Ok(Some(head)),
                Seen::Interim(bytes) => drop(input.drain(..bytes)),
                Seen::Part if input.len() >= self.shared.config.buffer() => {
                    return Err(Fault::ResponseTooLarge);
                }
                Seen::Part => return Ok(None),
            }
        }
    }

    /// Sends the answer on as it comes; whether the app said nothing beyond it.
    async fn relay(
        &mut self,
        link: &mut Link,
        head: &Head,
        record: &mut Record,
        buffers: &mut Buffers,
    ) -> Result<bool, Fault> {
        let Buffers { input, answer, .. } = buffers;
        let mut framing = head.framing.clone();
        let mut from = head.taken;
        loop {
            let came = &input[from..];
            let Passed { bytes, content } = framing.pass(came).map_err(|_| Fault::ResponseInterrupted)?;
            if framing == Framing::Rest && bytes > 0 {
                // Writing to a Vec can't fail.
                let _ = write!(answer, "{bytes:x}\r\n");
                answer.extend_from_slice(came);
                answer.extend_from_slice(b"\r\n");
            } else if !answer.is_empty() {
                answer.extend_from_slice(&came[..bytes]);
            }
            let out = if answer.is_empty() { &came[..bytes] } else { &answer[..] };
            self.write(out).await?;
            record.bytes += content;
            answer.clear();
            if framing.is_done() {
                return Ok(from + bytes == input.len());
            }
            if let Framing::Length(left @ LARGE..) = framing
                && self.splice(link, left, record).await?
            {
                return Ok(true);
            }
            input.clear();
            from = 0;
            if !self.more(link, input).await? {
                if framing != Framing::Rest {
                    return Err(Fault::ResponseInterrupted);
                }
                self.write(b"0\r\n\r\n").await?;
                return Ok(false);
            }
        }
    }

    /// Passes on the rest of the answer, so many bytes, without looking at it; false where that can't be done.
    async fn splice(&mut self, link: &Link, mut left: u64, record: &mut Record) -> Result<bool, Fault> {
        if self.socket().is_none() {
            return Ok(false);
        }
        let Some(mut splice) = Splice::new() else { return Ok(false) };
        while left > 0 {
            self.deadline.set(Instant::now() + self.shared.config.idle);
            let filled = poll_fn(|cx| {
                match splice.poll_fill(cx, &link.stream, left) {
                    Poll::Ready(Ok(bytes)) if bytes > 0 => return Poll::Ready(Ok(bytes)),
                    Poll::Ready(_) => return Poll::Ready(Err(Fault::ResponseInterrupted)),
                    Poll::Pending => {}
                }
                if self.poll_gone(cx).is_ready() {
                    return Poll::Ready(Err(Fault::ClientGone));
                }
                self.deadline.poll(cx).map(|()| Err(Fault::IdleBackend))
            });
            left -= filled.await? as u64;
            let mut waits = false;
            while !splice.is_empty() {
                let drained = poll_fn(|cx| {
                    let Some(socket) = self.socket() else { return Poll::Ready(Err(Fault::ClientGone)) };
                    match splice.poll_drain(cx, socket) {
                        Poll::Ready(Ok(bytes)) if bytes > 0 => Poll::Ready(Ok(bytes)),
                        Poll::Ready(_) => Poll::Ready(Err(Fault::ClientGone)),
                        Poll::Pending => self.poll_stalled(cx, &mut waits).map_ok(|()| 0),
                    }
                });
                record.bytes += drained.await? as u64;
                waits = false;
            }
        }
        Ok(true)
    }

    /// The client's socket, where bytes reach it as they are.
    fn socket(&self) -> Option<&TcpStream> {
        (&self.stream as &dyn Any).downcast_ref()
    }

    /// The next bytes from the app; `false` at their end.
    async fn more(&mut self, link: &mut Link, input: &mut Vec<u8>) -> Result<bool, Fault> {
        input.reserve(self.shared.config.buffer());
        self.deadline.set(Instant::now() + self.shared.config.idle);
        poll_fn(|cx| {
            match poll_read_buf(Pin::new(&mut link.stream), cx, input) {
                Poll::Ready(Ok(bytes)) => return Poll::Ready(Ok(bytes > 0)),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::ResponseInterrupted)),
                Poll::Pending => {}
            }
            if self.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(Fault::ClientGone));
            }
            self.deadline.poll(cx).map(|()| Err(Fault::IdleBackend))
        })
        .await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut written = 0;
        let mut waits = false;
        poll_fn(|cx| {
            while written < bytes.len() {
                match Pin::new(&mut self.stream).poll_write(cx, &bytes[written..]) {
                    Poll::Ready(Ok(more)) if more > 0 => {
                        written += more;
                        waits = false;
                    }
                    Poll::Ready(_) => return Poll::Ready(Err(Fault::ClientGone)),
                    Poll::Pending => return self.poll_stalled(cx, &mut waits),
                }
            }
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(flushed) => Poll::Ready(flushed.map_err(|_| Fault::ClientGone)),
                Poll::Pending => self.poll_stalled(cx, &mut waits),
            }
        })
        .await
    }

    /// Ready once the client has taken nothing for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>, waits: &mut bool) -> Poll<Result<(), Fault>> {
        if !std::mem::replace(waits, true) {
            self.deadline.set(Instant::now() + self.shared.config.idle);
        }
        self.deadline.poll(cx).map(|()| Err(Fault::ClientIdle))
    }

    /// Ready once the client has closed its side: nobody waits for the answer any more. What it sends meanwhile is kept.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < self.shared.config.header_bytes {
            match std::task::ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input)) {
                Ok(bytes) if bytes > 0 => {}
                _ => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}
