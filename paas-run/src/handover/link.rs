//! Messages and open files on a socket: each message is its length and JSON, and files travel with its first byte.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::Message;

/// The most files that one message may bring.
const FILES: usize = 64;
/// The longest message in bytes: an app with a hundred thousand domains or instances.
const LONGEST: usize = 16 << 20;

/// Where messages are put to be sent. Clones send over the same socket, which is closed when all are gone.
#[derive(Debug, Clone)]
pub(super) struct Outbox(mpsc::UnboundedSender<Letter>);

/// Where messages come in.
#[derive(Debug)]
pub(super) struct Inbox {
    stream: Arc<UnixStream>,
    bytes: Vec<u8>,
    files: VecDeque<OwnedFd>,
}

#[derive(Debug)]
struct Letter {
    bytes: Vec<u8>,
    files: Vec<OwnedFd>,
}

/// Both ends of our side.
pub(super) fn link(stream: UnixStream) -> (Outbox, Inbox) {
    let stream = Arc::new(stream);
    let (outbox, letters) = mpsc::unbounded_channel();
    // A task of its own: a message is sent whole although whoever sends it may be dropped.
    tokio::spawn(post(Arc::clone(&stream), letters));
    (Outbox(outbox), Inbox { stream, bytes: Vec::new(), files: VecDeque::new() })
}

impl Outbox {
    /// Sends a message. Whether it arrives shows in what comes back, or that nothing does.
    pub(super) fn send(&self, message: &Message) -> io::Result<()> {
        self.send_with(message, Vec::new())
    }

    pub(super) fn send_with(&self, message: &Message, files: Vec<OwnedFd>) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        let bytes = [&length.to_be_bytes()[..], &body].concat();
        // The task has ended because the other side is gone, which the inbox tells.
        let _ = self.0.send(Letter { bytes, files });
        Ok(())
    }
}

async fn post(stream: Arc<UnixStream>, mut letters: mpsc::UnboundedReceiver<Letter>) {
    while let Some(letter) = letters.recv().await {
        if let Err(error) = write(&stream, &letter).await {
            tracing::debug!(error = %error, "the other process is gone");
            return;
        }
    }
}

async fn write(stream: &UnixStream, letter: &Letter) -> io::Result<()> {
    let mut sent = 0;
    while sent < letter.bytes.len() {
        let some = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let files: Vec<_> = letter.files.iter().map(AsFd::as_fd).collect();
            if sent == 0 && !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
                return Err(io::Error::other("too many files at once"));
            }
            let bytes = [IoSlice::new(&letter.bytes[sent..])];
            Ok(sendmsg(stream, &bytes, &mut control, SendFlags::NOSIGNAL)?)
        };
        sent += stream.async_io(Interest::WRITABLE, some).await?;
    }
    Ok(())
}

impl Inbox {
    /// The next message; `None` when the other side has closed or is dead. May be dropped and called again.
    pub(super) async fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            let Self { stream, bytes, files } = self;
            let read = stream.async_io(Interest::READABLE, || read(stream, bytes, files)).await;
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// A file that came with a message, in their order.
    pub(super) fn file(&mut self) -> Option<OwnedFd> {
        self.files.pop_front()
    }

    fn whole(&mut self) -> io::Result<Option<Message>> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(body)?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }
}

fn read(stream: &UnixStream, bytes: &mut Vec<u8>, files: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut chunk = [0; 16 * 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut chunk)];
    let read = recvmsg(stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            files.extend(came);
        }
    }
    bytes.extend_from_slice(&chunk[..read]);
    Ok(read)
}
