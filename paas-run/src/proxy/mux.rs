//! A connection to a backend that requests share: HTTP/2 without TLS, which gRPC servers speak.

use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use super::ProxyConfig;
use super::backend::Upstream;
use super::body::RequestBody;
use super::deadline::Deadline;
use super::fault::Fault;
use super::pool::{Age, Pool, Pooled};
use super::reach::{Carrier, Way};
use super::upstream::{Failed, dial};

/// For how long one is kept without a request: it says itself when it ends.
const KEEP: Duration = Duration::from_secs(60);
/// How often a backend with requests under way is asked whether it is still there.
const ALIVE: Duration = Duration::from_secs(20);

/// One request's share in a connection, which a task of its own drives.
pub(super) struct Mux {
    sender: http2::SendRequest<RequestBody>,
    deadline: Deadline,
    age: Age,
}

impl Mux {
    /// Another share.
    fn again(&self) -> Self {
        let mut age = Age::new(KEEP);
        age.rest(Instant::now());
        Self { sender: self.sender.clone(), deadline: Deadline::new(Instant::now() + KEEP), age }
    }
}

impl Pooled for Mux {
    fn age(&self) -> &Age {
        &self.age
    }

    fn is_alive(&mut self) -> bool {
        !self.sender.is_closed()
    }
}

impl Way for Mux {
    fn pool(upstream: &Upstream) -> &Pool<Self> {
        &upstream.shared
    }

    async fn open(address: SocketAddr, config: &ProxyConfig) -> Result<Self, Fault> {
        let stream = dial(address, config).await?;
        let mut client = http2::Builder::new(TokioExecutor::new());
        client.timer(TokioTimer::new()).keep_alive_interval(ALIVE).max_send_buf_size(config.buffer());
        let handshake = tokio::time::timeout(config.connect_timeout, client.handshake(TokioIo::new(stream)));
        let handshake = handshake.await.map_err(|_| Fault::ConnectTimeout)?;
        let (sender, driver) = handshake.map_err(|_| Fault::ConnectRefused)?;
        // It ends once nobody has a share in it and it isn't kept any more.
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::trace!(error = %error, "a connection to a backend ended");
            }
        });
        Ok(Self { sender, deadline: Deadline::new(Instant::now() + KEEP), age: Age::new(KEEP) })
    }
}

impl Carrier for Mux {
    fn begin(&self, upstream: &Arc<Upstream>) {
        upstream.keep(self.again());
    }

    fn age(&mut self) -> &mut Age {
        &mut self.age
    }

    fn deadline(&mut self) -> &mut Deadline {
        &mut self.deadline
    }

    fn drive(&mut self, _: &mut Context<'_>) {}

    async fn send(
        &mut self,
        request: Request<RequestBody>,
        mut late: impl FnMut() -> Option<Instant> + Send,
    ) -> Result<Response<Incoming>, Failed> {
        let mut answer = pin!(self.sender.try_send_request(as_http2(request)));
        poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(
                    answer.map_err(|mut error| {
                        Failed::Closed(error.take_message().map(as_http1).map(Box::new))
                    }),
                );
            }
            while self.deadline.poll(cx).is_ready() {
                let Some(later) = late() else { return Poll::Ready(Err(Failed::TimedOut)) };
                self.deadline.set(later);
            }
            Poll::Pending
        })
        .await
    }

    fn end(self, _: &Arc<Upstream>) {}
}

/// The host goes into the target, and what is about one connection goes (RFC 9113 sections 8.2.2 and 8.3.1).
fn as_http2(mut request: Request<RequestBody>) -> Request<RequestBody> {
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.remove(TRANSFER_ENCODING);
    headers.remove(CONNECTION);
    let host = headers.remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(host.unwrap_or(Authority::from_static("localhost")));
    target.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
    request
}

/// As it was, to be sent again.
fn as_http1(mut request: Request<RequestBody>) -> Request<RequestBody> {
    *request.version_mut() = Version::HTTP_11;
    let host = request.uri().authority().and_then(|host| http::HeaderValue::from_str(host.as_str()).ok());
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    let target = request.uri().path_and_query().cloned();
    *request.uri_mut() = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    request
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux").field("age", &self.age).finish_non_exhaustive()
    }
}
