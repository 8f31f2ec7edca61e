//! The short way: plain requests, without hyper.
//!
//! ```text
//! client's bytes -> request::read ─ plain ──> head and body in one write -> app -> response::read -> client
//!                        └─ anything else: the connection goes on with hyper, from its first unanswered byte
//! ```
//!
//! Most requests have a short head, a body that comes with it or none, and ask for nothing special. For those a buffer
//! each way and four system calls do. What is plain is decided once, strictly, in `request`; whatever isn't, also what is
//! malformed or whose host leads nowhere, is hyper's, so that every refusal is written in one place only.
//!
//! | file | idea |
//! |---|---|
//! | `request`, `response`, `field` | heads: what they mean, and what the other side gets |
//! | `body` | where an answer ends |
//! | `exchange` | one request's way to the app and its answer's way back |
//! | `splice` | large answers, which needn't be seen |
//! | `link`, `scratch` | connections to apps, and buffers |

mod body;
mod exchange;
mod field;
mod link;
mod request;
mod response;
mod scratch;
mod splice;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;
use tokio_util::sync::CancellationToken;

use self::exchange::Client;
pub(super) use self::link::Link;
use self::request::Seen;
use self::scratch::Scratch;
use super::Shared;
use super::client::Peer;
use super::deadline::Deadline;
use super::serve::Stream;

/// Room for a head, at first.
const HEAD: usize = 4 * 1024;

/// What was not plain, and the stream it came from.
#[derive(Debug)]
pub(super) struct Rest<S> {
    pub(super) stream: S,
    pub(super) input: Vec<u8>,
}

/// Answers a client's requests for as long as they are plain. `gently`: no further one is to be waited for.
pub(super) async fn serve<S: Stream>(
    shared: &Arc<Shared>,
    stream: S,
    peer: &Arc<Peer>,
    gently: &CancellationToken,
) -> Option<Rest<S>> {
    let deadline = Deadline::new(Instant::now() + shared.config.header_timeout);
    let input = Vec::with_capacity(HEAD);
    let mut client = Client { shared, peer, stream, input, deadline, gently };
    let mut told = pin!(gently.cancelled());
    // A client that has just come gets one answer in any case.
    let mut answered = false;
    // So many bytes are known to be the beginning of a head.
    let mut part = 0;
    loop {
        if client.input.len() == part {
            let waits = answered && part == 0;
            let came = poll_fn(|cx| {
                if let Poll::Ready(read) = poll_read_buf(Pin::new(&mut client.stream), cx, &mut client.input)
                {
                    return Poll::Ready(read.is_ok_and(|bytes| bytes > 0));
                }
                let over = waits && told.as_mut().poll(cx).is_ready();
                if over || client.deadline.poll(cx).is_ready() { Poll::Ready(false) } else { Poll::Pending }
            });
            if !came.await {
                return None;
            }
        }
        let length = client.input.len();
        // A head that drips in isn't read anew for each byte.
        if part > 0
            && length < shared.config.header_bytes
            && !has_end(&client.input[part.saturating_sub(3)..])
        {
            part = length;
            continue;
        }
        let mut scratch = Scratch::take();
        let (plain, record) = match request::read(&client.input, shared, peer, &mut scratch.0.request) {
            Seen::Plain(plain, record) => (plain, record),
            Seen::Part => {
                part = length;
                continue;
            }
            Seen::Other => return Some(Rest { stream: client.stream, input: client.input }),
        };
        let goes_on = client.answer(&plain, record, &mut scratch.0).await;
        drop(scratch);
        if !goes_on {
            // The client closes its side when it has read all; what it still sends is of no interest.
            let _ = client.stream.shutdown().await;
            return None;
        }
        (answered, part) = (true, 0);
        client.input.drain(..plain.taken);
        if client.input.is_empty() && client.input.capacity() > 4 * HEAD {
            client.input = Vec::with_capacity(HEAD);
        }
        client.deadline.set(Instant::now() + shared.config.header_timeout);
    }
}

/// Whether an empty line ends a head in these bytes, however it is written.
fn has_end(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes)
        .any(|at| matches!(bytes.get(at + 1..), Some([b'\n', ..] | [b'\r', b'\n', ..])))
}
