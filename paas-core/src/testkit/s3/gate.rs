//! What stands before the server.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How a request fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum S3Fault {
    /// The server says that it is overloaded, `503 SlowDown`.
    Overloaded,
    /// The connection is cut before the server sees the request.
    CutBefore,
    /// The server does what was asked, and the connection is cut before it can say so.
    CutAfter,
    /// The answer's body is cut in the middle.
    CutBody,
    /// A conditional write is answered as if it were done, whatever its condition says.
    NoConditions,
}

type Decide = Box<dyn FnMut(&str, &str) -> Option<S3Fault> + Send>;

/// Which requests fail.
#[derive(Clone)]
pub(super) struct Faults(Arc<Mutex<Decide>>);

impl Default for Faults {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Box::new(|_, _| None))))
    }
}

impl Faults {
    pub(super) fn set(&self, decide: impl FnMut(&str, &str) -> Option<S3Fault> + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(decide);
    }

    fn next(&self, method: &Method, path: &str) -> Option<S3Fault> {
        (self.0.lock().unwrap_or_else(PoisonError::into_inner))(method.as_str(), path)
    }
}

#[derive(Clone)]
struct Gate {
    server: SocketAddr,
    client: Client<HttpConnector, Incoming>,
    writes: Arc<tokio::sync::Mutex<()>>,
    faults: Faults,
}

/// A cut: hyper closes the connection when the service fails.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the gate cut the connection")
    }
}

impl std::error::Error for Cut {}

/// Passes requests on until it is stopped.
pub(super) async fn keep(listener: TcpListener, server: SocketAddr, faults: Faults, stop: CancellationToken) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let gate = Gate { server, client, writes: Arc::default(), faults };
    let connections = tokio_util::task::TaskTracker::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // A client that went away before it was accepted.
                Err(_) => continue,
            },
        };
        let (gate, stop) = (gate.clone(), stop.clone());
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let gate = gate.clone();
                async move { gate.pass(request).await }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = stop.cancelled() => {}
                // A cut is what was asked for; other errors are the client's to see.
                ended = connection => drop(ended),
            }
        });
    }
}

type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

impl Gate {
    async fn pass(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let fault = self.faults.next(request.method(), request.uri().path());
        match fault {
            Some(S3Fault::CutBefore) => return Err(Cut),
            Some(S3Fault::Overloaded) => {
                let body = full("<Error><Code>SlowDown</Code></Error>");
                let answer = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
                return Ok(answer.body(body).expect("constants"));
            }
            Some(S3Fault::NoConditions) if conditional(&request) => {
                return Ok(Response::builder().header(ETAG, "\"any\"").body(full("")).expect("constants"));
            }
            _ => {}
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("http://{}{path}", self.server).parse().map_err(|_| Cut)?;
        let writes = !matches!(*request.method(), Method::GET | Method::HEAD);
        let turn = if writes { Some(self.writes.lock().await) } else { None };
        let answer = self.client.request(request).await.map_err(|_| Cut)?;
        drop(turn);
        match fault {
            Some(S3Fault::CutAfter) => Err(Cut),
            Some(S3Fault::CutBody) => {
                let (parts, body) = answer.into_parts();
                let whole = body.collect().await.map_err(|_| Cut)?.to_bytes();
                let half = whole.slice(..whole.len() / 2);
                let frames = [Ok(hyper::body::Frame::data(half)), Err(Cut.into())];
                let cut = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
                Ok(Response::from_parts(parts, BodyExt::boxed(cut)))
            }
            _ => Ok(answer.map(|body| body.map_err(Into::into).boxed())),
        }
    }
}

fn conditional(request: &Request<Incoming>) -> bool {
    [IF_MATCH, IF_NONE_MATCH].iter().any(|name| request.headers().contains_key(name))
}

fn full(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never: Infallible| match never {}).boxed()
}
