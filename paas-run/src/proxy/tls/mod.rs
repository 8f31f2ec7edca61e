//! HTTPS: the certificate of the host that a client names, and the handshake.
//!
//! TLS 1.2 and 1.3, on rustls and ring. A host without a route gets no certificate, so that nobody can have us make
//! certificates for names of their own choice.

#[cfg(feature = "acme")]
pub mod acme;
mod authority;
mod known;
#[cfg(feature = "acme")]
pub mod stored;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use paas_core::{DomainName, Error, ErrorCode, Result};
use rcgen::KeyPair;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

pub use self::authority::Authority;
pub(super) use self::known::Known;
pub use rustls;

use super::Shared;

/// How long a client may take to agree on a key.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where the certificates of hosts come from.
#[async_trait]
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

    /// A route names this host from now on, or no longer. Told of all hosts when a listener begins to use these certificates.
    fn routed(&self, host: &DomainName, is: bool) {
        let _ = (host, is);
    }

    /// The answer to an authority that asks by TLS-ALPN-01 (RFC 8737) whether the host is ours.
    async fn challenge(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let _ = host;
        None
    }

    /// The answer to an authority that asks by HTTP-01 (RFC 8555 section 8.3) for this token, whatever the host. Requests for
    /// tokens without one go on to the app.
    async fn token(&self, token: &str) -> Option<String> {
        let _ = token;
        None
    }
}

/// What an authority asks for by TLS-ALPN-01 (RFC 8737 section 6.2); no application speaks it.
const CHALLENGE: &[u8] = b"acme-tls/1";

/// Makes TLS streams of accepted connections.
#[derive(Clone)]
pub(super) struct Handshakes {
    config: Arc<ServerConfig>,
    by_host: Arc<ByHost>,
}

impl Handshakes {
    pub(super) fn new(shared: Arc<Shared>, certificates: Arc<dyn Certificates>) -> Result<Self> {
        let by_host = Arc::new(ByHost { shared, certificates });
        let mut config = configured(Arc::clone(&by_host) as Arc<dyn ResolvesServerCert>)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = ring::Ticketer::new().map_err(failed)?;
        Ok(Self { config: Arc::new(config), by_host })
    }

    /// None where the client doesn't go on to speak TLS with us.
    pub(super) async fn shake(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        match timeout(HANDSHAKE, self.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                // Clients that don't trust the certificate, name no host of ours, or speak no TLS.
                tracing::debug!(error = %error, "a TLS handshake failed");
                None
            }
            Err(_elapsed) => None,
        }
    }

    async fn accept(&self, stream: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
        let began = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let hello = began.client_hello();
        let asks = hello.alpn().is_some_and(|mut offered| offered.all(|protocol| protocol == CHALLENGE));
        if !asks {
            return began.into_stream(Arc::clone(&self.config)).await.map(Some);
        }
        let host = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        let answer = match self.by_host.shared.table.find(&host) {
            Some(_) => self.by_host.certificates.challenge(&host).await,
            None => None,
        };
        let Some(answer) = answer else { return Ok(None) };
        let answer = Arc::new(SingleCertAndKey::from(answer));
        let mut config = configured(answer).map_err(io::Error::other)?;
        config.alpn_protocols = vec![CHALLENGE.to_vec()];
        // With the handshake the authority has seen all that it wants to.
        began.into_stream(Arc::new(config)).await.map(|_| None)
    }

    /// Whether requests for this host may come by a connection that was made for that one: its certificate is for both.
    pub(super) fn cover(&self, made_for: &str, host: &str) -> bool {
        made_for == host
            || self.by_host.find(made_for).is_some_and(|certificate| known::covers(&certificate, host))
    }
}

fn configured(certificates: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig> {
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    Ok(config.with_no_client_auth().with_cert_resolver(certificates))
}

fn failed(error: rustls::Error) -> Error {
    Error::new(ErrorCode::Internal, "can't set TLS up").with_source(error)
}

/// Finds the certificate of a host that has a route.
struct ByHost {
    shared: Arc<Shared>,
    certificates: Arc<dyn Certificates>,
}

impl ByHost {
    fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.shared.table.find(host)?;
        if !self.shared.table.names(host) {
            // One for all below the wildcard: there is no end to their names.
            let (_, parent) = host.split_once('.')?;
            return self.certificates.find(&format!("*.{parent}"));
        }
        let found = self.certificates.find(host);
        if found.is_none() {
            self.certificates.missing(host);
        }
        found
    }
}

impl ResolvesServerCert for ByHost {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(&hello.server_name()?.to_ascii_lowercase())
    }
}

impl fmt::Debug for Handshakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshakes").field("by_host", &self.by_host).finish_non_exhaustive()
    }
}

impl fmt::Debug for ByHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByHost").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

/// What TLS signs with.
fn signing(key: &KeyPair) -> Result<Arc<dyn SigningKey>> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    any_supported_type(&key).map_err(cannot_sign)
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
