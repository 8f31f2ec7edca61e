//! What the daemon says of a build, line by line.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http_body_util::BodyStream;
use paas_core::Result;
use paas_docker::{Answer, away};

/// What can't be done, in errors.
pub(super) const DOING: &str = "can't build";

/// A longer line of progress is none, in bytes: the daemon clips what steps print.
const LINE: usize = 16 << 20;

/// The answer's lines as they come.
pub(super) fn lines(answer: Answer) -> BoxStream<'static, Result<Vec<u8>>> {
    let Answer { response, connection, .. } = answer;
    let state = (BodyStream::new(response.into_body()), Vec::new(), connection, false);
    futures_util::stream::unfold(state, |(mut body, mut held, connection, mut ended)| async move {
        loop {
            if let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                let rest = held.split_off(end + 1);
                let line = std::mem::replace(&mut held, rest);
                return Some((Ok(line), (body, held, connection, ended)));
            }
            if ended || held.len() > LINE {
                let last = std::mem::take(&mut held);
                return (!last.is_empty()).then_some((Ok(last), (body, held, connection, true)));
            }
            match body.next().await {
                Some(Ok(frame)) => held.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(e)) => {
                    return Some((Err(away(DOING, e)), (body, Vec::new(), connection, true)));
                }
                None => ended = true,
            }
        }
    })
    .boxed()
}
