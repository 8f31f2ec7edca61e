//! By HTTP, or by HTTPS with certificates of an authority of this machine's own.

#[cfg(feature = "tls")]
use std::sync::Arc;

#[cfg(feature = "tls")]
use paas::SystemClock;
use paas::run::proxy::Proxy;
#[cfg(feature = "tls")]
use paas::run::proxy::tls::Authority;
use paas::{Cancel, Result};
use tokio::net::TcpListener;

use crate::options::Options;

/// How clients come.
pub(crate) struct Way {
    #[cfg(feature = "tls")]
    authority: Option<Arc<Authority>>,
}

impl Way {
    #[cfg(feature = "tls")]
    pub(crate) fn open(options: &Options) -> Result<Self> {
        let Some(folder) = &options.tls else { return Ok(Self { authority: None }) };
        let authority = Authority::open(folder, Arc::new(SystemClock::new()))?;
        println!("ca {}", authority.certificate().display());
        Ok(Self { authority: Some(Arc::new(authority)) })
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
    pub(crate) fn open(_: &Options) -> Result<Self> {
        Ok(Self {})
    }

    pub(crate) async fn serve(&self, proxy: &Proxy, listener: TcpListener, cancel: Cancel) -> Result<()> {
        #[cfg(feature = "tls")]
        if let Some(authority) = &self.authority {
            return proxy.serve_tls(listener, authority.clone(), cancel).await;
        }
        proxy.serve(listener, cancel).await
    }
}
