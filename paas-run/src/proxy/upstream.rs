//! A connection to a backend, driven by the request that uses it.
//!
//! No task of its own: the request polls the connection together with the answer, which saves two wake-ups and a channel
//! between tasks for every request. While it is idle nobody polls it, so it is looked at once when it is taken again.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::{fmt, io};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::ProxyConfig;
use super::backend::Upstream;
use super::body::RequestBody;
use super::deadline::Deadline;
use super::fault::Fault;
use super::pool::{Age, Pool, Pooled};
use super::reach::{Carrier, Way};

/// A hyper connection that can be upgraded, whose type has no name.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// One connection to a backend.
pub(super) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    /// Gone once the backend has closed it or it has failed.
    driver: Option<Driver>,
    deadline: Deadline,
    age: Age,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// The connection ended before an answer began. The request, where nothing of it was sent.
    Closed(Option<Box<Request<RequestBody>>>),
    /// Nothing came in time.
    TimedOut,
    /// What came is no HTTP.
    Bad(Fault),
}

/// A socket that is connected to this address.
pub(super) async fn dial(address: SocketAddr, config: &ProxyConfig) -> Result<TcpStream, Fault> {
    match tokio::time::timeout(config.connect_timeout, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(error = %error, "a connection to a backend keeps Nagle's algorithm");
            }
            Ok(stream)
        }
        Ok(Err(error)) if is_own_lack(&error) => {
            tracing::warn!(error = %error, "the router can't open a connection; idle ones are closed for it");
            Err(Fault::Platform)
        }
        Ok(Err(_)) => Err(Fault::ConnectRefused),
        Err(_) => Err(Fault::ConnectTimeout),
    }
}

/// Whether it was this machine that had nothing left for it: files, ports, memory.
fn is_own_lack(error: &io::Error) -> bool {
    let lacks = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|error| lacks.contains(&error))
}

impl Connection {
    /// Connects.
    pub(super) async fn open(address: SocketAddr, config: &ProxyConfig) -> Result<Self, Fault> {
        let stream = dial(address, config).await?;
        let mut client = http1::Builder::new();
        client.max_buf_size(config.buffer());
        let handshake = client.handshake(TokioIo::new(stream)).await;
        let (sender, driver) = handshake.map_err(|_| Fault::ConnectRefused)?;
        Ok(Self {
            sender,
            driver: Some(Box::pin(driver.with_upgrades())),
            deadline: Deadline::new(Instant::now() + config.first_byte),
            age: Age::new(config.pool_idle),
        })
    }
}

impl Pooled for Connection {
    fn age(&self) -> &Age {
        &self.age
    }

    fn is_alive(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready()
    }
}

impl Way for Connection {
    fn pool(upstream: &Upstream) -> &Pool<Self> {
        &upstream.connections
    }

    async fn open(address: SocketAddr, config: &ProxyConfig) -> Result<Self, Fault> {
        Self::open(address, config).await
    }
}

impl Carrier for Connection {
    fn age(&mut self) -> &mut Age {
        &mut self.age
    }

    fn deadline(&mut self) -> &mut Deadline {
        &mut self.deadline
    }

    async fn send(
        &mut self,
        request: Request<RequestBody>,
        mut late: impl FnMut() -> Option<Instant> + Send,
    ) -> Result<Response<Incoming>, Failed> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            // In this order: the request is queued above, driving writes it, and only then can an answer be there.
            self.drive(cx);
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(|mut error| {
                    let unsent = error.take_message().map(Box::new);
                    failed(&error.into_error(), unsent)
                }));
            }
            while self.deadline.poll(cx).is_ready() {
                let Some(later) = late() else { return Poll::Ready(Err(Failed::TimedOut)) };
                self.deadline.set(later);
            }
            Poll::Pending
        })
        .await
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && let Poll::Ready(ended) = driver.as_mut().poll(cx)
        {
            if let Err(error) = ended {
                tracing::trace!(error = %error, "a connection to a backend ended");
            }
            self.driver = None;
        }
    }

    fn end(mut self, upstream: &Arc<Upstream>) {
        if self.is_alive() {
            self.age.rest(Instant::now());
            upstream.keep(self);
        }
    }
}

fn failed(error: &hyper::Error, unsent: Option<Box<Request<RequestBody>>>) -> Failed {
    if error.is_parse_too_large() {
        Failed::Bad(Fault::ResponseTooLarge)
    } else if error.is_parse() {
        Failed::Bad(Fault::MalformedResponse)
    } else {
        Failed::Closed(unsent)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("age", &self.age).finish_non_exhaustive()
    }
}
