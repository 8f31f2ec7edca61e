//! The bodies that pass through, and what is learnt while they pass.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Instant;

use super::access::Record;
use super::backend::Upstream;
use super::deadline::Deadline;
use super::fault::Fault;
use super::mux::Mux;
use super::reach::Carrier as _;
use super::upstream::Connection;

pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// What a client sends. Most requests have none, which costs nothing.
pub(super) struct RequestBody(Option<Streamed>);

struct Streamed {
    body: Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>,
    upload: Arc<Upload>,
}

/// How far a client's body has come.
#[derive(Debug)]
pub(super) struct Upload {
    began: Instant,
    /// Milliseconds after `began` at which something of it passed last.
    moved: AtomicU64,
    state: AtomicU8,
}

/// What became of a client's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UploadState {
    Moving,
    Done,
    /// The client is gone.
    Gone,
    /// It isn't framed as HTTP wants it.
    Malformed,
}

impl Upload {
    fn touch(&self) {
        let millis = self.began.elapsed().as_millis();
        self.moved.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// When something of it passed last.
    pub(super) fn moved(&self) -> Instant {
        self.began + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    pub(super) fn state(&self) -> UploadState {
        match self.state.load(Ordering::Acquire) {
            0 => UploadState::Moving,
            1 => UploadState::Done,
            2 => UploadState::Gone,
            _ => UploadState::Malformed,
        }
    }

    fn end(&self, state: UploadState) {
        self.touch();
        self.state.store(state as u8, Ordering::Release);
    }
}

impl RequestBody {
    pub(super) const EMPTY: Self = Self(None);

    pub(super) fn new<B>(body: B) -> (Self, Option<Arc<Upload>>)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return (Self::EMPTY, None);
        }
        let state = AtomicU8::new(UploadState::Moving as u8);
        let upload = Arc::new(Upload { began: Instant::now(), moved: AtomicU64::new(0), state });
        let body = Box::pin(http_body_util::BodyExt::map_err(body, Into::into));
        (Self(Some(Streamed { body, upload: Arc::clone(&upload) })), Some(upload))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(Streamed { body, upload }) = &mut self.0 else { return Poll::Ready(None) };
        let frame = std::task::ready!(body.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(_)) if body.is_end_stream() => upload.end(UploadState::Done),
            Some(Ok(_)) => upload.touch(),
            None => upload.end(UploadState::Done),
            Some(Err(error)) if is_malformed(&**error) => upload.end(UploadState::Malformed),
            Some(Err(_)) => upload.end(UploadState::Gone),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|streamed| streamed.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |streamed| streamed.body.size_hint())
    }
}

/// Whether a body failed by what it says rather than by its connection.
fn is_malformed(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What the client gets: an app's answer as it comes, or a page.
pub struct ProxyBody(Kind);

enum Kind {
    Page(Option<Bytes>),
    Answer(Box<Answer>),
}

/// By what an answer comes.
pub(super) enum Carried {
    Alone(Connection),
    Shared(Mux),
}

impl Carried {
    fn deadline(&mut self) -> &mut Deadline {
        match self {
            Self::Alone(connection) => connection.deadline(),
            Self::Shared(mux) => mux.deadline(),
        }
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Alone(connection) => connection.drive(cx),
            Self::Shared(mux) => mux.drive(cx),
        }
    }

    fn end(self, upstream: &Arc<Upstream>) {
        match self {
            Self::Alone(connection) => connection.end(upstream),
            Self::Shared(mux) => mux.end(upstream),
        }
    }
}

/// An app's answer on its way.
struct Answer {
    body: Incoming,
    /// Drives the body; taken when it goes back to the pool.
    carried: Option<Carried>,
    upload: Option<Arc<Upload>>,
    idle: Duration,
    record: Box<Record>,
    /// The end was read. A chunked body doesn't tell afterwards.
    ended: bool,
}

impl ProxyBody {
    pub(super) fn page(body: Bytes) -> Self {
        Self(Kind::Page((!body.is_empty()).then_some(body)))
    }

    pub(super) fn answer(
        body: Incoming,
        mut carried: Carried,
        upload: Option<Arc<Upload>>,
        idle: Duration,
        record: Box<Record>,
    ) -> Self {
        carried.deadline().set(Instant::now() + idle);
        let carried = Some(carried);
        Self(Kind::Answer(Box::new(Answer { body, carried, upload, idle, record, ended: false })))
    }
}

impl Answer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(self.passed(frame));
        }
        let Some(carried) = &mut self.carried else { return Poll::Pending };
        carried.drive(cx);
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(self.passed(frame));
        }
        while carried.deadline().poll(cx).is_ready() {
            // Bytes of the client count too, until its body is whole.
            let moved = self.upload.as_ref().map(|upload| upload.moved() + self.idle);
            match moved {
                Some(moved) if moved > Instant::now() => carried.deadline().set(moved),
                _ => return Poll::Ready(Some(Err(self.fail(Fault::IdleBackend)))),
            }
        }
        Poll::Pending
    }

    fn passed(
        &mut self,
        frame: Option<Result<Frame<Bytes>, hyper::Error>>,
    ) -> Option<Result<Frame<Bytes>, BoxError>> {
        let Some(frame) = frame else {
            self.ended = true;
            return None;
        };
        match frame {
            Ok(frame) => {
                if let Some(data) = frame.data_ref() {
                    self.record.bytes += data.remaining() as u64;
                }
                if let Some(carried) = &mut self.carried {
                    carried.deadline().set(Instant::now() + self.idle);
                }
                Some(Ok(frame))
            }
            Err(_) => Some(Err(self.fail(match self.upload.as_ref().map(|upload| upload.state()) {
                Some(UploadState::Gone) => Fault::ClientGone,
                _ => Fault::ResponseInterrupted,
            }))),
        }
    }

    /// Too late for a page: the client's connection is cut, so that it doesn't take a part for the whole.
    fn fail(&mut self, fault: Fault) -> BoxError {
        self.record.fail(fault);
        fault.facts().desc.into()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            // The record tells that nobody waited for the rest.
            return;
        }
        self.record.done();
        if let Some(carried) = self.carried.take()
            && let Some(upstream) = self.record.upstream()
        {
            carried.end(upstream);
        }
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Page(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Answer(answer) => answer.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Page(bytes) => bytes.is_none(),
            Kind::Answer(answer) => answer.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Page(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Answer(answer) => answer.body.size_hint(),
        }
    }
}

impl fmt::Debug for ProxyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Page(_) => "ProxyBody::Page",
            Kind::Answer(_) => "ProxyBody::Answer",
        })
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "RequestBody::Streamed" } else { "RequestBody::Empty" })
    }
}
