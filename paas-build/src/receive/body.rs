//! Bodies of requests and answers.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;
use tower::BoxError;

/// A request's body, whatever the embedder's server calls it.
pub(crate) type Incoming = UnsyncBoxBody<Bytes, BoxError>;

/// The body of an answer: a text, or what git says as it says it.
#[derive(Debug)]
pub struct ReceiveBody(Kind);

#[derive(Debug)]
enum Kind {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl ReceiveBody {
    pub(crate) fn whole(content: impl Into<Bytes>) -> Self {
        let content = content.into();
        Self(Kind::Whole((!content.is_empty()).then_some(content)))
    }

    pub(crate) fn stream(content: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self(Kind::Stream(content))
    }
}

impl Body for ReceiveBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match &mut self.0 {
            Kind::Whole(content) => Poll::Ready(content.take().map(Ok)),
            Kind::Stream(content) => content.poll_recv(cx),
        };
        next.map(|content| content.map(|content| content.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(content) => SizeHint::with_exact(content.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}

/// Takes a request's content out of its encoding, piece by piece.
#[derive(Debug)]
pub(crate) enum Decoder {
    Plain,
    Gzip(Box<flate2::write::GzDecoder<Vec<u8>>>),
}

impl Decoder {
    pub(crate) fn of(gzip: bool) -> Self {
        if gzip { Self::Gzip(Box::new(flate2::write::GzDecoder::new(Vec::new()))) } else { Self::Plain }
    }

    /// How many bytes to decode at once: a bomb holds a thousand times as much.
    pub(crate) fn at_once(&self) -> usize {
        match self {
            Self::Plain => usize::MAX,
            Self::Gzip(_) => 8 * 1024,
        }
    }

    /// What this piece holds.
    pub(crate) fn decode(&mut self, piece: Bytes) -> io::Result<Bytes> {
        match self {
            Self::Plain => Ok(piece),
            Self::Gzip(decoder) => {
                decoder.write_all(&piece)?;
                Ok(std::mem::take(decoder.get_mut()).into())
            }
        }
    }

    /// What was still held back.
    pub(crate) fn finish(self) -> io::Result<Bytes> {
        match self {
            Self::Plain => Ok(Bytes::new()),
            Self::Gzip(decoder) => decoder.finish().map(Bytes::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_decoded_piece_by_piece() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        encoder.write_all(&content).unwrap();
        let packed = encoder.finish().unwrap();
        let mut decoder = Decoder::of(true);
        let mut got = Vec::new();
        for piece in packed.chunks(777) {
            got.extend_from_slice(&decoder.decode(Bytes::copy_from_slice(piece)).unwrap());
        }
        got.extend_from_slice(&decoder.finish().unwrap());
        assert_eq!(got, content);
    }

    #[test]
    fn what_is_not_gzip_is_an_error() {
        assert!(Decoder::of(true).decode(Bytes::from_static(b"no gzip at all")).is_err());
    }
}
