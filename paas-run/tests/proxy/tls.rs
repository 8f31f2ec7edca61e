//! HTTPS, with a client that trusts only the platform's authority.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use paas_core::testkit::ManualClock;
use paas_core::{AppId, AppRoutes, Clock, ErrorCode, RouteState, Router as _};
use paas_run::proxy::tls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use paas_run::proxy::tls::rustls::{ClientConfig, RootCertStore, crypto::ring};
use paas_run::proxy::tls::{Authority, Certificates as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{World, echo, within};
use crate::tunnel::echoing_tunnel;

/// A world with HTTPS beside HTTP.
pub(crate) struct Secure {
    pub(crate) world: World,
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
}

impl Secure {
    pub(crate) async fn serving(origins: &[SocketAddr]) -> Self {
        let (world, folder) = (World::serving(origins, |_| {}).await, tempfile::tempdir().unwrap());
        let authority = Arc::new(Authority::open(folder.path(), clock()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (proxy, cancel) = (world.proxy.clone(), world.cancel.clone());
        tokio::spawn(async move { proxy.serve_tls(listener, authority, cancel).await });
        Self { world, address, folder }
    }

    async fn connect(&self, host: &'static str) -> io::Result<TlsStream<TcpStream>> {
        connect(self.address, host, &self.folder.path().join("ca.pem")).await
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(paas_core::SystemClock::new())
}

pub(crate) async fn connect(
    at: SocketAddr,
    host: &'static str,
    trusted: &Path,
) -> io::Result<TlsStream<TcpStream>> {
    connect_for(at, host, trusted, &[]).await
}

/// Connects to speak one of these.
async fn connect_for(
    at: SocketAddr,
    host: &'static str,
    trusted: &Path,
    protocols: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(at).await?;
    within(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(host).unwrap(), stream)).await
}

pub(crate) async fn get(mut stream: TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: hello.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn a_host_with_a_route_is_served_over_https_and_its_app_is_told_so() {
    let secure = Secure::serving(&[echo().await]).await;
    let answer = get(secure.connect("hello.test").await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let answer = answer.to_ascii_lowercase();
    assert!(answer.contains("x-forwarded-proto: https\r\n"), "{answer}");
    assert!(answer.contains(&format!("x-forwarded-port: {}\r\n", secure.address.port())), "{answer}");
    assert!(secure.world.logged("at=info").await.contains("protocol=https"));
}

#[tokio::test]
async fn a_client_that_offers_http2_gets_it() {
    let secure = Secure::serving(&[echo().await]).await;
    let trusted = secure.folder.path().join("ca.pem");
    let stream = connect_for(secure.address, "hello.test", &trusted, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) =
        within(http2::handshake(TokioExecutor::new(), TokioIo::new(stream))).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("https://hello.test/").body(Empty::<Bytes>::new()).unwrap();
    let answer = within(client.send_request(request)).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
}

#[tokio::test]
async fn a_host_without_a_route_gets_no_certificate() {
    let secure = Secure::serving(&[echo().await]).await;
    let refused = secure.connect("nobody.test").await.unwrap_err();
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");
}

#[tokio::test]
async fn hosts_below_a_wildcard_share_one_certificate() {
    let secure = Secure::serving(&[echo().await]).await;
    let mut routes = AppRoutes::new("wild".parse().unwrap(), AppId::new(), 1);
    routes.domains = vec!["*.wild.test".parse().unwrap()];
    secure.world.proxy.apply(&secure.world.context(), &routes).await.unwrap();
    let mut seen = BTreeSet::new();
    for host in ["one.wild.test", "two.wild.test"] {
        let stream = secure.connect(host).await.unwrap();
        seen.insert(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec());
    }
    assert_eq!(seen.len(), 1);
}

#[tokio::test]
async fn a_request_without_tls_is_not_answered_on_the_port_for_https() {
    let secure = Secure::serving(&[echo().await]).await;
    let mut plain = TcpStream::connect(secure.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    within(plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    assert!(get(secure.connect("hello.test").await.unwrap()).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_tunnel_passes_through_tls() {
    let secure = Secure::serving(&[echoing_tunnel().await]).await;
    let mut stream = secure.connect("hello.test").await.unwrap();
    let ask = "GET /live HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\
               Chat-Key: abc\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"welcome") {
        assert!(within(stream.read_buf(&mut said)).await.unwrap() > 0, "{}", String::from_utf8_lossy(&said));
    }
    for word in [b"ping", b"pong"] {
        stream.write_all(word).await.unwrap();
        let mut back = [0; 4];
        within(stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, word);
    }
}

#[tokio::test]
async fn a_client_in_mid_handshake_holds_no_stop_up() {
    let secure = Secure::serving(&[echo().await]).await;
    let _silent = TcpStream::connect(secure.address).await.unwrap();
    get(secure.connect("hello.test").await.unwrap()).await;
    secure.world.stop().await;
}

#[tokio::test]
async fn a_new_release_is_served_on_the_same_https_connection() {
    let secure = Secure::serving(&[echo().await]).await;
    let stream = secure.connect("hello.test").await.unwrap();
    secure.world.route(2, RouteState::Serving, &[echo().await]).await;
    assert!(get(stream).await.starts_with("HTTP/1.1 200"));
}

#[test]
fn an_authority_stays_the_one_that_people_trust_and_its_key_is_its_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
    let first = Authority::open(folder.path(), clock()).unwrap();
    let (certificate, key) = (read("ca.pem"), read("ca.key"));
    let mode = fs::metadata(folder.path().join("ca.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!format!("{first:?}").contains(key.lines().nth(1).unwrap()));
    Authority::open(folder.path(), clock()).unwrap();
    assert_eq!((read("ca.pem"), read("ca.key")), (certificate, key));
}

#[test]
fn a_key_that_cannot_be_read_is_said_and_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    Authority::open(folder.path(), clock()).unwrap();
    fs::write(folder.path().join("ca.key"), "garbage").unwrap();
    let refused = Authority::open(folder.path(), clock()).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Corrupt);
    assert!(refused.to_string().contains("ca.key holds no key"), "{refused}");
    assert_eq!(fs::read_to_string(folder.path().join("ca.key")).unwrap(), "garbage");
}

#[test]
fn a_hosts_certificate_is_kept_until_it_nears_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(clock().now()));
    let authority = Authority::open(folder.path(), clock.clone()).unwrap();
    let found = || authority.find("hello.test").unwrap().cert.clone();
    let first = found();
    clock.advance(std::time::Duration::from_secs(160 * 86400));
    assert_eq!(found(), first);
    clock.advance(std::time::Duration::from_secs(20 * 86400));
    assert_ne!(found(), first);
}
