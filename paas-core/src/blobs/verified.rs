//! Reading content that says at its end whether it is what was put.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::digest::Hasher;
use crate::{Digest, Error, ErrorCode};

/// Hashes what passes and ends with an error where it doesn't have the digest, so that nobody takes a torn or changed
/// content for the whole.
pub(super) struct Verified<R> {
    from: R,
    digest: Digest,
    /// Taken when the end was reached.
    hasher: Option<Hasher>,
}

impl<R> Verified<R> {
    pub(super) fn new(from: R, digest: Digest) -> Self {
        Self { from, digest, hasher: Some(Hasher::new()) }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Verified<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.from).poll_read(cx, into))?;
        let read = &into.filled()[before..];
        if !read.is_empty() {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(read);
            }
            return Poll::Ready(Ok(()));
        }
        // At the second end there is nothing left to compare.
        let Some(hasher) = self.hasher.take() else { return Poll::Ready(Ok(())) };
        let (digest, actual) = (self.digest, hasher.finish());
        if actual == digest {
            return Poll::Ready(Ok(()));
        }
        let what = format!(
            "the content kept as {digest} has the digest {actual}: it was damaged where it is kept; deploy it again, or put \
             back your backup of it"
        );
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Error::new(ErrorCode::Corrupt, what))))
    }
}
