//! What reads pushes, without the git that they are for.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Body;
use paas_core::{Credentials, Result};
use tokio::sync::mpsc;
use tower::BoxError;

use super::body::{Decoder, ReceiveBody};
use super::transfer::Program;
use super::updates::plan;
use super::{door, hook, service, transfer};

/// What a request asks for, and what git would get of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Heard {
    /// The app.
    pub app: String,
    /// Whether it is a push.
    pub push: bool,
    /// The value of `GIT_PROTOCOL`.
    pub protocol: Option<String>,
    /// Who asks.
    pub credentials: Option<Credentials>,
    /// Whether the body was gzip.
    pub gzip: bool,
    /// What git's input would be.
    pub input: Vec<u8>,
    /// Why git's input ended early.
    pub ended: Option<String>,
    /// Whether the client is taken for one that shows messages between git's own.
    pub framed: bool,
}

/// Reads a request as [`GitReceive`](crate::GitReceive) does. At most `most` bytes get to git.
///
/// # Errors
/// As it is refused.
pub async fn request<B>(request: Request<B>, most: u64) -> Result<Heard>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let asked = service::asked(&request)?;
    let mut heard = Heard {
        app: asked.app.to_string(),
        push: asked.program == Program::Receive,
        protocol: None,
        credentials: service::credentials(request.headers()),
        gzip: false,
        input: Vec::new(),
        ended: None,
        framed: false,
    };
    if asked.advertise {
        heard.protocol = service::protocol(request.headers())?;
        return Ok(heard);
    }
    let sent = service::sent(request.headers(), asked.program)?;
    (heard.protocol, heard.gzip) = (sent.protocol, sent.gzip);
    if !sent.probe {
        let framed = AtomicBool::new(false);
        let body = request.into_body().map_err(Into::into).boxed_unsync();
        let fed = transfer::feed(body, Decoder::of(sent.gzip), &mut heard.input, most, &framed).await;
        heard.ended = fed.err().map(|error| error.to_string());
        heard.framed = framed.load(Ordering::Acquire);
    }
    Ok(heard)
}

/// The answer to a request: what was heard, or why not.
pub fn answer(heard: &Result<Heard>) -> Response<ReceiveBody> {
    match heard {
        Ok(heard) => service::answer("text/plain", ReceiveBody::whole(heard.app.clone())),
        Err(error) => service::refusal(error),
    }
}

/// What a hook says of a push: its key, its two variables, and what would be deployed and kept of it.
pub type Said = (String, [Vec<u8>; 2], Option<(String, String)>, Vec<String>);

/// Reads what somebody says at the socket of hooks; `None` for what is no hook's.
///
/// # Errors
/// As the push is refused.
pub fn order(said: &[u8], deploying: &[String]) -> Option<Result<Said>> {
    use std::os::unix::ffi::OsStringExt;
    let (key, rest) = door::split(said)?;
    let read = |order: door::Order| {
        let plan = plan(order.updates, deploying)?;
        let variables = order.quarantine.map(|(_, value)| value.into_vec());
        let deploy = plan.deploy.map(|(branch, update)| (branch, update.new.to_string()));
        Ok((key.to_owned(), variables, deploy, plan.kept))
    };
    Some(door::parse(rest).and_then(read))
}

/// What a hook prints, and with which status it ends, when it is told this in pieces.
///
/// # Errors
/// Where no end is told.
pub fn repeat(told: impl Read) -> (Vec<u8>, io::Result<i32>) {
    let mut printed = Vec::new();
    let ended = hook::repeat(told, &mut printed);
    (printed, ended)
}

/// What a client gets of git's output that comes in pieces: what is passed on, and what is held back.
pub async fn relay(pieces: Vec<Vec<u8>>) -> (Vec<u8>, Vec<u8>) {
    let (to_client, mut from_git) = mpsc::channel::<io::Result<Bytes>>(16);
    let output = Pieces(pieces.into());
    let output = tokio_util::io::StreamReader::new(futures_util::stream::iter(output));
    let passing = async {
        let mut passed = Vec::new();
        while let Some(piece) = from_git.recv().await {
            passed.extend_from_slice(&piece.unwrap_or_default());
        }
        passed
    };
    let (held, passed) = tokio::join!(transfer::relay(output, to_client), passing);
    (passed, held.to_vec())
}

/// A message in git's framing.
pub fn band(message: &str) -> Bytes {
    transfer::band(transfer::MESSAGE, message)
}

struct Pieces(VecDeque<Vec<u8>>);

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.pop_front().map(|piece| Ok(piece.into()))
    }
}
