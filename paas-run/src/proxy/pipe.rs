//! One direction of a tunnel.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::websocket::Frames;

/// How much is read at once.
const PIECE: usize = 8 * 1024;

/// Passes on what comes. A tunnel in which nobody speaks holds no buffer: most do so most of the time.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// What came and could not be written yet.
    stuck: Bytes,
    /// How much came.
    pub(super) bytes: u64,
    /// Where a word of ours may stand; `None` where the protocol isn't known.
    frames: Option<Frames>,
    last_word: Option<Bytes>,
    /// The last word was said: what comes now reaches nobody any more.
    silent: bool,
    ended: bool,
}

impl Pipe {
    pub(super) fn of_frames() -> Self {
        Self { frames: Some(Frames::default()), ..Self::default() }
    }

    /// Says this at the next place for it, and passes on nothing after it.
    pub(super) fn say_last(&mut self, word: Bytes) {
        self.last_word = Some(word);
    }

    /// Whether the side that speaks has said its own last word.
    pub(super) fn is_closed(&self) -> bool {
        self.frames.as_ref().is_some_and(Frames::is_closed)
    }

    /// Whether everything is said, our last word among it.
    pub(super) fn is_silent(&self) -> bool {
        self.silent && self.stuck.is_empty()
    }

    /// Ready once the reading side has nothing more to say, and the writing side was told so.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.stuck.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.stuck))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.stuck.advance(written);
            }
            self.stuck = Bytes::new();
            if self.ended {
                return Pin::new(&mut *to).poll_shutdown(cx);
            }
            if self.silent && self.is_closed() {
                return Pin::new(&mut *to).poll_flush(cx);
            }
            if self.frames.as_ref().is_some_and(Frames::is_between) && self.last_word.is_some() {
                self.stuck = self.say(BytesMut::new());
                continue;
            }
            let mut space = [MaybeUninit::uninit(); PIECE];
            let mut space = ReadBuf::uninit(&mut space);
            if Pin::new(&mut *from).poll_read(cx, &mut space)?.is_pending() {
                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                return Poll::Pending;
            }
            let came = space.filled();
            self.bytes += came.len() as u64;
            self.ended = came.is_empty();
            let passed = self.passes(came);
            // What can't be written at once is the only thing that is ever copied.
            let written = match &came[..passed] {
                [] => 0,
                bytes => match Pin::new(&mut *to).poll_write(cx, bytes) {
                    Poll::Ready(written) => written?,
                    Poll::Pending => 0,
                },
            };
            self.stuck = Bytes::copy_from_slice(&came[written..passed]);
            if passed < came.len() && !self.silent {
                self.stuck = self.say(BytesMut::from(&self.stuck[..]));
                self.read(&came[passed..]);
            }
        }
    }

    /// How much of what came is passed on.
    fn passes(&mut self, came: &[u8]) -> usize {
        if self.silent {
            self.read(came);
            return 0;
        }
        match &mut self.frames {
            Some(frames) if self.last_word.is_some() => frames.finish(came),
            _ => {
                self.read(came);
                came.len()
            }
        }
    }

    fn read(&mut self, came: &[u8]) {
        if let Some(frames) = &mut self.frames {
            frames.pass(came);
        }
    }

    /// The last word after this; none where the side that spoke has closed by itself.
    fn say(&mut self, mut after: BytesMut) -> Bytes {
        let word = self.last_word.take().filter(|_| !self.is_closed());
        self.silent = true;
        after.extend_from_slice(&word.unwrap_or_default());
        after.freeze()
    }
}
