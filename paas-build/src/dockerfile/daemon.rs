//! Requests that the client can't make: a build's with BuildKit's progress, and the connection on which the daemon asks
//! us.

use std::io;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use paas_core::{Error, ErrorCode, Result, Retry};
use paas_docker::bollard::errors::Error as Refusal;
use paas_docker::{Docker, failed};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

/// A request's body.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A longer answer about an error is none, in bytes.
const ERROR: usize = 64 * 1024;
/// A longer line of progress is none, in bytes: the daemon clips what steps print.
const LINE: usize = 16 << 20;

/// A connection of its own, which ends when this is dropped: so the daemon knows that nobody waits any more.
#[derive(Debug)]
pub(super) struct Answer {
    response: Response<Incoming>,
    connection: AbortOnDropHandle<()>,
}

/// Asks, with a path as `/build?q=1`, within the version of the API that was agreed on.
pub(super) async fn ask(docker: &Docker, path: &str, headers: &[(&str, &str)], body: Body) -> Result<Answer> {
    let version = docker.client().client_version();
    let uri = format!("/v{}.{}{path}", version.major_version, version.minor_version);
    let mut request = Request::post(uri).header("host", "docker");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request =
        request.body(body).map_err(|e| Error::new(ErrorCode::Internal, "no request").with_source(e))?;
    let stream = UnixStream::connect(docker.socket()).await.map_err(away)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(away)?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // Whoever reads the answer learns it too.
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!(error = %e, "a connection to Docker ended");
        }
    }));
    let response = sender.send_request(request).await.map_err(away)?;
    let status = response.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answer { response, connection });
    }
    let body = Limited::new(response.into_body(), ERROR).collect().await;
    let text = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let said: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let message =
        said["message"].as_str().map_or_else(|| String::from_utf8_lossy(&text).into_owned(), str::to_owned);
    let refusal = Refusal::DockerResponseServerError { status_code: status.as_u16(), message };
    Err(failed("can't build", refusal))
}

impl Answer {
    /// The connection itself, after the daemon agreed to speak something else on it.
    pub(super) async fn upgraded(self) -> Result<(TokioIo<hyper::upgrade::Upgraded>, AbortOnDropHandle<()>)> {
        let io = hyper::upgrade::on(self.response).await.map_err(away)?;
        Ok((TokioIo::new(io), self.connection))
    }

    /// The answer's lines as they come.
    pub(super) fn lines(self) -> BoxStream<'static, Result<Vec<u8>>> {
        let Self { response, connection } = self;
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
                    Some(Err(e)) => return Some((Err(away(e)), (body, Vec::new(), connection, true))),
                    None => ended = true,
                }
            }
        })
        .boxed()
    }
}

fn away(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let text = "Docker went away during the build; is it running? The build is tried again";
    Error::new(ErrorCode::Unavailable, text).with_retry(Retry::Backoff).with_source(e)
}
