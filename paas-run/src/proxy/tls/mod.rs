//! HTTPS: the certificate of the host that a client names, and the handshake.
//!
//! TLS 1.2 and 1.3, on rustls and ring. A host without a route gets no certificate, so that nobody can have us make
//! certificates for names of their own choice.

mod authority;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use paas_core::{Error, ErrorCode, Result};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use self::authority::Authority;
pub use rustls;

use super::Shared;

/// How long a client may take to agree on a key.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where the certificates of hosts come from.
pub trait Certificates: fmt::Debug + Send + Sync + 'static {
    /// The certificate chain and key for this host, which is in lower case and has a route.
    ///
    /// # Behavior
    /// It is asked in the middle of a handshake, on a thread that serves others: it answers from memory or computes for
    /// less than a millisecond, and waits for nothing. A host that it has nothing for is refused.
    fn find(&self, host: &str) -> Option<Arc<CertifiedKey>>;
}

/// Makes TLS streams of accepted connections.
#[derive(Clone)]
pub(super) struct Handshakes(TlsAcceptor);

impl Handshakes {
    pub(super) fn new(shared: Arc<Shared>, certificates: Arc<dyn Certificates>) -> Result<Self> {
        let failed = |error| Error::new(ErrorCode::Internal, "can't set TLS up").with_source(error);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ByHost { shared, certificates }));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = ring::Ticketer::new().map_err(failed)?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// None where the client doesn't go on to speak TLS with us.
    pub(super) async fn shake(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        match timeout(HANDSHAKE, self.0.accept(stream)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                // Clients that don't trust the certificate, name no host of ours, or speak no TLS.
                tracing::debug!(error = %error, "a TLS handshake failed");
                None
            }
            Err(_elapsed) => None,
        }
    }
}

/// Finds the certificate of a host that has a route.
struct ByHost {
    shared: Arc<Shared>,
    certificates: Arc<dyn Certificates>,
}

impl ResolvesServerCert for ByHost {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello.server_name()?.to_ascii_lowercase();
        self.shared.table.find(&host)?;
        self.certificates.find(&host)
    }
}

impl fmt::Debug for ByHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByHost").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}
