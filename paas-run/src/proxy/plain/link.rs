//! A connection to a backend that speaks for itself.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Waker};

use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::ProxyConfig;
use crate::proxy::backend::Upstream;
use crate::proxy::fault::Fault;
use crate::proxy::pool::{Age, Pool, Pooled};
use crate::proxy::reach::Way;
use crate::proxy::upstream::dial;

/// A connection that carries plain requests, one at a time.
#[derive(Debug)]
pub(in crate::proxy) struct Link {
    pub(super) stream: TcpStream,
    pub(super) age: Age,
}

impl Pooled for Link {
    fn age(&self) -> &Age {
        &self.age
    }

    fn is_alive(&mut self) -> bool {
        // Whatever came, an end or an answer to nothing: it can't be used. That nothing came costs no system call.
        let mut byte = [0];
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

impl Way for Link {
    fn pool(upstream: &Upstream) -> &Pool<Self> {
        &upstream.links
    }

    async fn open(address: SocketAddr, config: &ProxyConfig) -> Result<Self, Fault> {
        Ok(Self { stream: dial(address, config).await?, age: Age::new(config.pool_idle) })
    }
}
