//! HTTPS: the certificate of the host that a client names, and the handshake.
//!
//! TLS 1.2 and 1.3, on rustls and ring. A host without a route gets no certificate, so that nobody can have us make
//! certificates for names of their own choice.

#[cfg(feature = "acme")]
pub mod acme;
mod authority;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
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
    /// The certificate chain and key for this host, which is in lower case and has a route; `*.example.com` where a wildcard
    /// leads to the host and no route names it.
    ///
    /// # Behavior
    /// It is asked in the middle of a handshake, on a thread that serves others: it answers from memory or computes for
    /// less than a millisecond, and waits for nothing. A host that it has nothing for is refused.
    fn find(&self, host: &str) -> Option<Arc<CertifiedKey>>;

    /// A client came for this host, there is a route of just this name, and [`Certificates::find`] had nothing for it. What
    /// takes its time to get begins here; the client is refused.
    fn missing(&self, host: &str) {
        let _ = host;
    }

    /// The answer to an authority that asks by TLS-ALPN-01 (RFC 8737) whether the host is ours.
    fn challenge(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let _ = host;
        None
    }
}

/// What an authority asks for by TLS-ALPN-01 (RFC 8737 section 6.2); no application speaks it.
const CHALLENGE: &[u8] = b"acme-tls/1";

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
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), CHALLENGE.to_vec()];
        config.ticketer = ring::Ticketer::new().map_err(failed)?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// None where the client doesn't go on to speak TLS with us.
    pub(super) async fn shake(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        match timeout(HANDSHAKE, self.0.accept(stream)).await {
            // With the handshake the authority has seen all that it wants to.
            Ok(Ok(stream)) => (stream.get_ref().1.alpn_protocol() != Some(CHALLENGE)).then_some(stream),
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
        if hello.alpn().is_some_and(|mut offered| offered.all(|protocol| protocol == CHALLENGE)) {
            return self.certificates.challenge(&host);
        }
        self.shared.table.find(&host)?;
        if !self.shared.table.names(&host) {
            // One for all below the wildcard: there is no end to their names.
            let (_, parent) = host.split_once('.')?;
            return self.certificates.find(&format!("*.{parent}"));
        }
        let found = self.certificates.find(&host);
        if found.is_none() {
            self.certificates.missing(&host);
        }
        found
    }
}

impl fmt::Debug for ByHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByHost").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

fn cannot_sign(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorCode::Internal, "can't make a certificate").with_source(error)
}

/// Replaces a file in one step, safe on disk.
fn keep(folder: &Path, name: &str, mode: u32, text: &str) -> io::Result<()> {
    let aside = folder.join(format!(".{name}.new"));
    let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(aside, folder.join(name))?;
    File::open(folder)?.sync_all()
}
