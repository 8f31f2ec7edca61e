//! Certificates from a real ACME server: Let's Encrypt's own for tests.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::fs;
use std::net::{SocketAddr, TcpListener as Port};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use paas_core::{Clock, RouteState, SystemClock};
use paas_run::proxy::tls::Certificates as _;
use paas_run::proxy::tls::acme::{Acme, AcmeOptions, HostStatus};
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
    /// Where it expects HTTPS of the hosts.
    https: Port,
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
        let https = Port::bind("127.0.0.1:0").unwrap();
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::write(file("own.pem"), own.cert.pem()).unwrap();
        fs::write(file("own.key"), own.signing_key.serialize_pem()).unwrap();
        let [api, management, names, names_management] = free();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": api.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": file("own.pem"), "privateKey": file("own.key"),
            "httpPort": 1, "tlsPort": https.local_addr().unwrap().port(),
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
        Self { programs, folder, directory, https, doors: [api, names_management] }
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
        let folder = self.folder.path();
        AcmeOptions::new(folder.join("kept")).from(&self.directory).trusting(folder.join("own.pem"))
    }

    fn listener(&self) -> TcpListener {
        let listener = self.https.try_clone().unwrap();
        listener.set_nonblocking(true).unwrap();
        TcpListener::from_std(listener).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("kept").join(name)
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

/// A world whose HTTPS is where the authority looks for it.
async fn served(authority: &Authority) -> (World, Acme, SocketAddr) {
    let world = World::serving(&[echo().await], |_| {}).await;
    let acme = Acme::open(authority.options(), clock()).unwrap();
    let (at, https) = (authority.https.local_addr().unwrap(), authority.listener());
    let (proxy, cancel, certificates) = (world.proxy.clone(), world.cancel.clone(), Arc::new(acme.clone()));
    tokio::spawn(async move { proxy.serve_tls(https, certificates, cancel).await });
    (world, acme, at)
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

#[tokio::test]
async fn a_host_of_a_route_gets_a_certificate_of_the_authority_when_somebody_comes_and_keeps_it() {
    let Some(authority) = Authority::start().await else { return };
    let (world, acme, at) = served(&authority).await;
    let (runs, cancel) = (acme.clone(), world.cancel.clone());
    let runs = tokio::spawn(async move { runs.run(cancel).await });

    let trusts_nobody = authority.folder.path().join("own.pem");
    connect(at, HOST, &trusts_nobody).await.unwrap_err();
    let has = status(&acme, |status| status.until.is_some()).await;
    assert_eq!((has.host.as_str(), has.failure), (HOST, None));
    assert!(has.next < has.until.unwrap());

    // What is served is the authority's.
    let served = acme.find(HOST).unwrap().cert.clone();
    let issuer = authority.folder.path().join("issuer.pem");
    let pem = fs::read_to_string(authority.file("hello.test.pem")).unwrap();
    let second = pem.match_indices("-----BEGIN CERTIFICATE").nth(1).expect("a chain").0;
    fs::write(&issuer, &pem[second..]).unwrap();
    let answer = get(connect(at, HOST, &issuer).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let mode = |name| fs::metadata(authority.file(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("account.json"), mode("hello.test.pem")), (0o600, 0o600));
    let again = Acme::open(authority.options(), clock()).unwrap();
    assert_eq!(again.find(HOST).unwrap().cert, served);
    assert!(acme.challenge(HOST).is_none(), "what was shown to the authority is over");

    world.route(2, RouteState::Serving, &[]).await;
    world.stop().await;
    within(runs).await.unwrap();
}

#[tokio::test]
async fn a_host_that_the_authority_does_not_find_here_is_told_why_and_tried_again_later() {
    let Some(mut authority) = Authority::start().await else { return };
    let world = World::serving(&[echo().await], |_| {}).await;
    let acme = Acme::open(authority.options(), clock()).unwrap();
    let (runs, cancel) = (acme.clone(), world.cancel.clone());
    tokio::spawn(async move { runs.run(cancel).await });
    // Nobody listens any more where the authority looks.
    authority.https = Port::bind("127.0.0.1:0").unwrap();
    acme.want(&"elsewhere.test".parse().unwrap());
    let failed = status(&acme, |status| status.failure.is_some()).await;
    let why = failed.failure.unwrap();
    assert!(
        why.starts_with("the authority could not see that elsewhere.test is ours: Failed to connect"),
        "{why}"
    );
    assert!(failed.until.is_none() && failed.next > clock().now());
    world.stop().await;
}

#[tokio::test]
async fn names_that_no_route_has_are_never_ordered() {
    let Some(authority) = Authority::start().await else { return };
    let (world, acme, at) = served(&authority).await;
    let own = authority.folder.path().join("own.pem");
    connect(at, "somebody-else.test", &own).await.unwrap_err();
    assert_eq!(acme.status(), []);
    connect(at, HOST, &own).await.unwrap_err();
    assert_eq!(acme.status().len(), 1);
    world.stop().await;
}

#[test]
fn a_certificate_that_cannot_be_read_is_no_reason_not_to_start() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hello.test.pem"), "garbage").unwrap();
    let acme = Acme::open(AcmeOptions::new(folder.path()), clock()).unwrap();
    assert!(acme.find(HOST).is_none() && acme.status().is_empty());
}
