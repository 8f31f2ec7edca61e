//! Certificates from a real ACME server: Let's Encrypt's own for tests.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::fs;
use std::net::{SocketAddr, TcpListener as Port};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use paas_core::store::MemoryStore;
use paas_core::vault::MasterKey;
use paas_core::{
    AppId, AppRoutes, CertificateOrigin, CertificateShelf, Clock, Error, ErrorCode, Router as _, Store,
    SystemClock, Vault,
};
use paas_run::proxy::tls::Certificates as _;
use paas_run::proxy::tls::acme::{Acme, AcmeOptions, DnsProvider, HostStatus, Proof};
use paas_run::proxy::tls::stored::{StoredCertificates, bring};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::support::{World, echo, within};
use crate::tls::{connect, get};

const HOST: &str = "hello.test";

/// An authority, and the name server that leads it to every host at 127.0.0.1.
struct Authority {
    programs: Vec<Child>,
    folder: TempDir,
    directory: String,
    /// Where it expects HTTPS of the hosts, and HTTP.
    https: Port,
    http: Port,
    doors: [SocketAddr; 2],
}

/// Addresses that are free.
fn free<const N: usize>() -> [SocketAddr; N] {
    let ports: [Port; N] = std::array::from_fn(|_| Port::bind("127.0.0.1:0").unwrap());
    ports.map(|port| port.local_addr().unwrap())
}

impl Authority {
    /// None where it isn't installed.
    async fn start() -> Option<Self> {
        if !has("pebble") || !has("pebble-challtestsrv") {
            return None;
        }
        loop {
            // A port that was free may be taken meanwhile: then it ends at once.
            let mut authority = Self::spawn();
            if within(authority.answers()).await {
                return Some(authority);
            }
        }
    }

    fn spawn() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [https, http] = [0; 2].map(|_| Port::bind("127.0.0.1:0").unwrap());
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("own.pem"), own.cert.pem()).unwrap();
        fs::write(file("own.key"), own.signing_key.serialize_pem()).unwrap();
        let [api, management, names, names_management] = free();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": api.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": file("own.pem"), "privateKey": file("own.key"),
            "httpPort": http.local_addr().unwrap().port(), "tlsPort": https.local_addr().unwrap().port(),
        }});
        fs::write(file("config.json"), config.to_string()).unwrap();
        let log = fs::File::create(file("log")).unwrap();
        let start = |command: &mut Command| {
            let (out, err) = (log.try_clone().unwrap(), log.try_clone().unwrap());
            command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap()
        };
        let [names, answers] = [names, names_management].map(|at| at.to_string());
        let mut name_server = Command::new("pebble-challtestsrv");
        name_server.args(["-dns01", &names, "-management", &answers, "-defaultIPv6", ""]);
        name_server.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        let mut authority = Command::new("pebble");
        authority.arg("-config").arg(file("config.json")).args(["-dnsserver", &names]);
        // A twentieth of the requests is refused, as it may happen to anybody.
        authority.envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "5")]);
        let programs = vec![start(&mut name_server), start(&mut authority)];
        let directory = format!("https://localhost:{}/dir", api.port());
        Self { programs, folder, directory, https, http, doors: [api, names_management] }
    }

    /// Both listen; or one has ended.
    async fn answers(&mut self) -> bool {
        for door in self.doors {
            while tokio::net::TcpStream::connect(door).await.is_err() {
                if self.programs.iter_mut().any(|program| program.try_wait().unwrap().is_some()) {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        true
    }

    fn options(&self) -> AcmeOptions {
        AcmeOptions::new().from(&self.directory).trusting(self.folder.path().join("own.pem"))
    }

    fn listener(port: &Port) -> TcpListener {
        let listener = port.try_clone().unwrap();
        listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(listener).unwrap()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        for program in &mut self.programs {
            // It may have ended.
            let _ = program.kill();
            program.wait().unwrap();
        }
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}

/// Whether this machine has a program; in CI it must.
fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    assert!(there || std::env::var_os("CI").is_none(), "{program} is missing");
    if !there {
        eprintln!("SKIPPED, it needs {program}");
    }
    there
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

/// A shelf that proxies can share.
async fn shelf() -> CertificateShelf {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock()));
    let vault = Arc::new(Vault::new(MasterKey::generate().unwrap()));
    vault.unlock(store.as_ref()).await.unwrap();
    CertificateShelf::new(store, vault, clock())
}

/// A world whose HTTPS is where the authority looks for it.
async fn served(authority: &Authority, shelf: &CertificateShelf) -> (World, Acme, SocketAddr) {
    let world = World::serving(&[echo().await], |_| {}).await;
    let acme = Acme::open(authority.options(), shelf.clone()).await.unwrap();
    let at = authority.https.local_addr().unwrap();
    let https = Authority::listener(&authority.https);
    let (proxy, cancel, certificates) = (world.proxy.clone(), world.cancel.clone(), Arc::new(acme.clone()));
    tokio::spawn(async move { proxy.serve_tls(https, certificates, cancel).await });
    (world, acme, at)
}

fn run(acme: &Acme, world: &World) -> tokio::task::JoinHandle<()> {
    let (acme, cancel) = (acme.clone(), world.cancel.clone());
    tokio::spawn(async move { acme.run(cancel).await })
}

async fn status(acme: &Acme, so: impl Fn(&HostStatus) -> bool) -> HostStatus {
    within(async {
        loop {
            if let Some(status) = acme.status().into_iter().find(&so) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// The second certificate of a chain, as a file to trust.
async fn issuer(authority: &Authority, shelf: &CertificateShelf, host: &str) -> std::path::PathBuf {
    let kept = shelf.get(&host.parse().unwrap()).await.unwrap().unwrap();
    let pem = kept.held.unwrap().chain;
    let second = pem.match_indices("-----BEGIN CERTIFICATE").nth(1).expect("a chain").0;
    let file = authority.folder.path().join("issuer.pem");
    fs::write(&file, &pem[second..]).unwrap();
    file
}

#[tokio::test]
async fn a_host_of_a_route_gets_a_certificate_before_anybody_comes_and_every_proxy_of_the_store_serves_it() {
    let Some(authority) = Authority::start().await else { return };
    let shelf = shelf().await;
    let (world, acme, at) = served(&authority, &shelf).await;
    let other = Acme::open(authority.options(), shelf.clone()).await.unwrap();
    let runs = [run(&acme, &world), run(&other, &world)];

    let has = status(&other, |status| status.until.is_some()).await;
    assert_eq!((has.host.as_str(), has.failure), (HOST, None));
    assert!(has.next.unwrap() < has.until.unwrap());
    status(&acme, |status| status.until.is_some()).await;
    assert_eq!(acme.find(HOST).unwrap().cert, other.find(HOST).unwrap().cert);

    // What is served is the authority's.
    let issuer = issuer(&authority, &shelf, HOST).await;
    let answer = get(connect(at, HOST, &issuer).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(acme.challenge(HOST).await.is_none(), "what was shown to the authority is over");
    // A proxy that starts later has it from the store.
    let later = StoredCertificates::open(shelf).await.unwrap();
    assert_eq!(later.find(HOST).unwrap().cert, acme.find(HOST).unwrap().cert);

    world.stop().await;
    for runs in runs {
        within(runs).await.unwrap();
    }
}

#[tokio::test]
async fn a_host_that_is_shown_over_plain_http_gets_its_certificate_too() {
    let Some(authority) = Authority::start().await else { return };
    let shelf = shelf().await;
    let world = World::serving(&[echo().await], |_| {}).await;
    let options = authority.options().by(Proof::Http01);
    let acme = Acme::open(options, shelf).await.unwrap();
    let (http, https) = (Authority::listener(&authority.http), Authority::listener(&authority.https));
    let (proxy, cancel) = (world.proxy.clone(), world.cancel.clone());
    tokio::spawn(async move { proxy.serve(http, cancel).await });
    let (proxy, cancel, certificates) = (world.proxy.clone(), world.cancel.clone(), Arc::new(acme.clone()));
    tokio::spawn(async move { proxy.serve_tls(https, certificates, cancel).await });
    let runs = run(&acme, &world);
    let has = status(&acme, |status| status.until.is_some() || status.failure.is_some()).await;
    assert_eq!((has.host.as_str(), &has.failure), (HOST, &None));
    // Tokens that aren't ours are the app's.
    let passed = world.get("/.well-known/acme-challenge/not-ours").await;
    assert!(passed.text().contains("not-ours"), "{passed:?}");
    world.stop().await;
    within(runs).await.unwrap();
}

/// The name server of the test, as a provider of DNS records.
#[derive(Debug)]
struct TestNames(SocketAddr);

impl TestNames {
    async fn tell(&self, what: &str, body: serde_json::Value) -> paas_core::Result<()> {
        let mut conn = crate::support::Conn::to(self.0).await;
        let body = body.to_string();
        let length = body.len();
        conn.send(format!("POST /{what} HTTP/1.1\r\nHost: names\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await;
        match conn.answer().await {
            Some(answer) if answer.status == 200 => Ok(()),
            other => Err(Error::new(ErrorCode::Unavailable, format!("{other:?}"))),
        }
    }
}

#[async_trait]
impl DnsProvider for TestNames {
    async fn set_txt(&self, name: &str, text: &str) -> paas_core::Result<()> {
        self.tell("set-txt", serde_json::json!({ "host": format!("{name}."), "value": text })).await
    }

    async fn clear_txt(&self, name: &str, _: &str) -> paas_core::Result<()> {
        self.tell("clear-txt", serde_json::json!({ "host": format!("{name}.") })).await
    }
}

#[tokio::test]
async fn a_wildcard_gets_a_certificate_by_dns_and_hosts_below_it_need_none_of_their_own() {
    let Some(authority) = Authority::start().await else { return };
    let (world, shelf) = (World::serving(&[echo().await], |_| {}).await, shelf().await);
    let options = authority.options().with_dns(Arc::new(TestNames(authority.doors[1])));
    let acme = Acme::open(options, shelf).await.unwrap();
    let runs = run(&acme, &world);
    acme.want(&"*.apps.test".parse().unwrap());
    let has = status(&acme, |status| status.until.is_some() || status.failure.is_some()).await;
    assert_eq!((has.host.as_str(), &has.failure), ("*.apps.test", &None));
    assert_eq!(acme.find("one.apps.test").unwrap().cert, acme.find("*.apps.test").unwrap().cert);
    acme.routed(&"one.apps.test".parse().unwrap(), true);
    acme.want(&"two.apps.test".parse().unwrap());
    assert_eq!(acme.status().len(), 1);
    world.stop().await;
    within(runs).await.unwrap();
}

#[tokio::test]
async fn a_host_that_the_authority_does_not_find_here_is_told_why_and_since_when_and_tried_again_later() {
    let Some(mut authority) = Authority::start().await else { return };
    let (world, shelf) = (World::serving(&[echo().await], |_| {}).await, shelf().await);
    let acme = Acme::open(authority.options(), shelf.clone()).await.unwrap();
    let place = shelf.place().await.unwrap();
    let runs = run(&acme, &world);
    // Nobody listens any more where the authority looks.
    authority.https = Port::bind("127.0.0.1:0").unwrap();
    acme.want(&"elsewhere.test".parse().unwrap());
    let failed = status(&acme, |status| status.failure.is_some()).await;
    let failure = failed.failure.unwrap();
    assert!(
        failure.why.starts_with("the authority could not see that elsewhere.test is ours: Failed to connect"),
        "{failure:?}"
    );
    assert!(failure.tries == 1 && failure.since <= clock().now());
    assert!(failed.until.is_none() && failed.next.unwrap() > clock().now());
    assert!(!shelf.changed_after(place).await.unwrap().0.is_empty(), "events tell of it");
    world.stop().await;
    within(runs).await.unwrap();
}

#[tokio::test]
async fn names_that_no_route_has_are_never_ordered_and_a_host_that_loses_its_route_waits_no_longer() {
    let Some(authority) = Authority::start().await else { return };
    let shelf = shelf().await;
    let (world, acme, at) = served(&authority, &shelf).await;
    let own = authority.folder.path().join("own.pem");
    connect(at, "somebody-else.test", &own).await.unwrap_err();
    assert_eq!(acme.status(), []);
    // Nobody orders it: the other test sees to that, this one to what is asked for.
    let mut routes = AppRoutes::new("other".parse().unwrap(), AppId::new(), 1);
    routes.domains = vec!["other.test".parse().unwrap()];
    world.proxy.apply(&world.context(), &routes).await.unwrap();
    (routes.generation, routes.domains) = (2, Vec::new());
    world.proxy.apply(&world.context(), &routes).await.unwrap();
    connect(at, "other.test", &own).await.unwrap_err();
    assert!(acme.status().iter().all(|status| status.host == HOST));
    world.stop().await;
}

/// A chain of one certificate for these names, and its key.
fn own(names: &[&str]) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let all: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = rcgen::CertificateParams::new(all).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, names[0]);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_certificate_of_ones_own_is_checked_kept_sealed_and_served_by_every_proxy() {
    let shelf = shelf().await;
    let proxy = StoredCertificates::open(shelf.clone()).await.unwrap();
    let cancel = paas_core::Cancel::new();
    let follows = tokio::spawn({
        let (proxy, cancel) = (proxy.clone(), cancel.clone());
        async move { proxy.follow(&cancel).await }
    });
    let (host, wild) = ("hello.test".parse().unwrap(), "*.wild.test".parse().unwrap());
    let ((chain, key), (other, other_key)) = (own(&["hello.test"]), own(&["*.wild.test", "wild.test"]));
    for (domain, chain, key, why) in [
        (&host, &chain, &other_key, "the key belongs to another certificate"),
        (&host, &other, &other_key, "it is not for hello.test"),
        (&wild, &chain, &key, "it is not for *.wild.test"),
        (&host, &key, &key, "there is no certificate in it"),
        (&host, &chain, &chain, "the key is not a private key in PEM"),
        (&host, &format!("{chain}{other}"), &key, "must be followed by that of its issuer"),
    ] {
        let refused = bring(&shelf, domain, chain, key).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::InvalidParams);
        assert!(refused.message().contains(why), "{refused}");
        assert!(!format!("{refused:?}").contains("PRIVATE"), "{refused:?}");
    }
    bring(&shelf, &host, &chain, &key).await.unwrap();
    bring(&shelf, &wild, &other, &other_key).await.unwrap();
    let mut changes = proxy.changes();
    within(async {
        while proxy.find("hello.test").is_none() || proxy.find("any.wild.test").is_none() {
            changes.changed().await.unwrap();
        }
    })
    .await;
    assert!(
        proxy
            .status()
            .iter()
            .all(|status| status.origin == CertificateOrigin::Owner && status.next.is_none())
    );
    let first = proxy.find("hello.test").unwrap().cert.clone();
    let (chain, key) = own(&["hello.test"]);
    bring(&shelf, &host, &chain, &key).await.unwrap();
    shelf.remove(&wild).await.unwrap();
    within(async {
        while proxy.find("hello.test").unwrap().cert == first || proxy.find("any.wild.test").is_some() {
            changes.changed().await.unwrap();
        }
    })
    .await;
    cancel.cancel(paas_core::CancelReason::Shutdown);
    within(follows).await.unwrap();
}

#[tokio::test]
async fn an_expired_certificate_of_ones_own_is_refused() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["hello.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let chain = params.self_signed(&key).unwrap().pem();
    let refused = bring(&shelf().await, &"hello.test".parse().unwrap(), &chain, &key.serialize_pem())
        .await
        .unwrap_err();
    assert!(refused.message().contains("it has expired on 2021-01-01"), "{refused}");
}
