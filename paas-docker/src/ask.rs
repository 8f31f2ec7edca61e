//! Requests that the client can't make, each on a connection of its own: a build's with BuildKit's progress, the
//! connection on which the daemon asks us, a terminal.

use std::io;

use bollard::errors::Error as Refusal;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use paas_core::{Error, ErrorCode, Result, Retry};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use crate::{Docker, failed};

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A longer answer about an error is none, in bytes.
const ERROR: usize = 64 * 1024;

/// The daemon's answer. Its connection ends when this is dropped: so the daemon knows that nobody waits any more.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    /// What it says.
    pub response: Response<Incoming>,
    /// On which it says it.
    pub connection: AbortOnDropHandle<()>,
}

impl Docker {
    /// Posts a request, with a path such as `/build?q=1` within the version of the API that was agreed on; `doing` says in
    /// errors what can't be done: `can't build`.
    ///
    /// # Errors
    /// What the daemon refuses, as [`failed`] tells it; `unavailable` when it doesn't answer.
    pub async fn ask(
        &self,
        doing: &'static str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Answer> {
        let version = self.client().client_version();
        let uri = format!("/v{}.{}{path}", version.major_version, version.minor_version);
        let mut request = Request::post(uri).header("host", "docker");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.body(body).map_err(|e| Error::new(ErrorCode::Internal, "no request").with_source(e))?;
        let stream = UnixStream::connect(self.socket()).await.map_err(|e| away(doing, e))?;
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|e| away(doing, e))?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever reads the answer learns it too: the connection ends.
            drop(connection.with_upgrades().await);
        }));
        let response = sender.send_request(request).await.map_err(|e| away(doing, e))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Answer { response, connection });
        }
        let body = Limited::new(response.into_body(), ERROR).collect().await;
        let text = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let said: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let message = said["message"]
            .as_str()
            .map_or_else(|| String::from_utf8_lossy(&text).into_owned(), str::to_owned);
        let refusal = Refusal::DockerResponseServerError { status_code: status.as_u16(), message };
        Err(failed(doing, refusal))
    }
}

impl Answer {
    /// The connection itself, after the daemon agreed to speak something else on it.
    ///
    /// # Errors
    /// `unavailable` when it ended.
    pub async fn upgraded(self, doing: &'static str) -> Result<(TokioIo<Upgraded>, AbortOnDropHandle<()>)> {
        let io = hyper::upgrade::on(self.response).await.map_err(|e| away(doing, e))?;
        Ok((TokioIo::new(io), self.connection))
    }
}

/// No body.
pub fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Docker went away while it was asked.
pub fn away(doing: &str, e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let text = format!("{doing}: Docker went away meanwhile; is it running? It is tried again");
    Error::new(ErrorCode::Unavailable, text).with_retry(Retry::Backoff).with_source(e)
}
