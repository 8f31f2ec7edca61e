//! The examples run, end by themselves, and show what their first lines promise.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// Beside the test's own executable: `target/PROFILE/examples`.
fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has an executable");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    profile.join("examples").join(name)
}

/// Runs an example without arguments; what it printed.
fn run(name: &str) -> String {
    let path = binary(name);
    let hint = "it is built by `cargo test` as a whole, or by `cargo build --examples`";
    let output = Command::new(&path).output().unwrap_or_else(|e| panic!("{}: {e}; {hint}", path.display()));
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{told}\n{errors}", output.status);
    told
}

/// Says that these stand in the text, in this order.
#[track_caller]
fn shows(text: &str, expected: &[&str]) {
    let mut rest = text;
    for line in expected {
        let Some(at) = rest.find(line) else { panic!("{line:?} is missing, or not in its place:\n{text}") };
        rest = &rest[at + line.len()..];
    }
}

#[test]
fn embed_makes_a_folder_an_app_with_a_url() {
    let text = run("embed");
    shows(&text, &["hello is live: http://hello.localhost:", "Hello from a folder that became an app"]);
}

#[test]
fn a_custom_builder_builds_what_it_knows_and_refuses_the_rest() {
    let text = run("custom_builder");
    let served = "Hello from what ServeScript built";
    shows(&text, &["Packing the folder around serve.sh", served, "looked for serve.sh", served]);
}

#[test]
fn a_custom_step_holds_a_deploy_until_somebody_answers() {
    let text = run("custom_step");
    let live = "Hello from the approved deploy";
    shows(&text, &["The step approve waits for an approval", "switch_route", "Approved and live", live]);
    shows(&text, &[live, "waits for an approval", "Refused: ", "was not approved", "Still live", live]);
}

#[test]
fn a_custom_workflow_goes_through_or_is_undone() {
    let text = run("custom_workflow");
    shows(&text, &["made hobby-customer", "the letter is out", "Signed up", "1 customer(s)"]);
    shows(
        &text,
        &["made galactic-customer", "removed galactic-customer", "no plan galactic", "1 customer(s)"],
    );
}

#[test]
fn a_rollback_brings_code_and_config_back_as_a_new_release() {
    let text = run("rollback");
    let said = [
        "Hello from the old shop",
        "Salut from the old shop",
        "Salut from the new shop",
        "Hello from the old shop",
    ];
    shows(&text, &said);
    let list = ["v4   Rollback to v1", "v3   Paint it", "v2   Set GREETING config var", "v1   Open the shop"];
    shows(&text, &list);
}

#[test]
fn a_platform_is_backed_up_while_it_works_and_comes_to_life_on_another_machine() {
    let text = run("backup");
    shows(&text, &["Before: Salut from the shop", "Backed up 1 app(s)", "After:  Salut from the"]);
    shows(&text, &["releases or more: true", "Back at v1: Hello from the shop"]);
}

#[test]
fn watched_events_come_in_order_and_are_the_same_when_read_again() {
    let text = run("watch_events");
    let told = ["me asked for deploy", "fetch began", "build is done", "v1 is live", "succeeded"];
    shows(&text, &told);
    shows(&text, &["Read again from the start: the same "]);
}

/// The router alone, in a process of its own.
struct Router {
    process: Child,
    address: String,
    /// What it said before it was ready.
    said: Vec<String>,
}

impl Router {
    fn start(command: &mut Command) -> Self {
        let started = command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn();
        let mut process = started.expect("`cargo build --examples` has built it");
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let mut line = || lines.next().expect("a line").expect("text");
        let (mut said, mut last) = (Vec::new(), line());
        while !last.starts_with("ready ") {
            said.push(std::mem::replace(&mut last, line()));
        }
        let address = last["ready ".len()..].to_owned();
        Self { process, address, said }
    }

    fn ask(&self, host: &str) -> String {
        let mut client = TcpStream::connect(&self.address).expect("it listens");
        write!(client, "GET /a?b HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is told to end");
        assert!(self.process.wait().expect("it ends").success());
    }
}

/// An app that answers one request, and what came.
fn app() -> (SocketAddr, JoinHandle<String>) {
    let app = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = app.local_addr().expect("its address");
    let serving = std::thread::spawn(move || {
        let (stream, _) = app.accept().expect("the router connects");
        let mut stream = BufReader::new(stream);
        let head = head(&mut stream);
        stream
            .get_mut()
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            .expect("it is taken");
        head
    });
    (address, serving)
}

#[test]
fn the_router_alone_brings_requests_to_the_addresses_it_was_given() {
    let (address, serving) = app();
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("access.log");
    let router = Router::start(
        Command::new(binary("proxy"))
            .args(["--route", &format!("hello.test={address}"), "--access-log"])
            .arg(&log),
    );
    let (known, unknown) = (router.ask("hello.test"), router.ask("other.test"));
    router.stop();

    assert!(known.starts_with("HTTP/1.1 200 OK\r\n") && known.ends_with("ok"), "{known}");
    assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}");
    let seen = serving.join().expect("one request came").to_ascii_lowercase();
    shows(&seen, &["get /a?b http/1.1", "x-forwarded-for: 127.0.0.1"]);
    let log = std::fs::read_to_string(&log).expect("the access log");
    shows(&log, &["at=info method=GET path=\"/a?b\" host=hello.test", "dyno=web.1", "status=200 bytes=2"]);
}

#[test]
fn a_router_that_runs_out_of_files_gives_up_idle_connections_and_loses_no_request() {
    let app = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = app.local_addr().expect("its address");
    // It keeps every connection, as apps do; the threads end with the test.
    std::thread::spawn(move || {
        for stream in app.incoming() {
            let mut stream = BufReader::new(stream.expect("the router connects"));
            std::thread::spawn(move || {
                while !head(&mut stream).is_empty()
                    && stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
                {
                }
            });
        }
    });
    // Each of so many apps would leave an idle connection behind.
    let hosts: Vec<_> = (0..150).map(|number| format!("app-{number}.test")).collect();
    let mut command = Command::new("prlimit");
    command.arg("--nofile=64").arg(binary("proxy"));
    command.args(hosts.iter().flat_map(|host| ["--route".to_owned(), format!("{host}={address}")]));
    let router = Router::start(&mut command);
    for host in &hosts {
        let answer = router.ask(host);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok"), "{host}: {answer}");
    }
    router.stop();
}

/// A request's head; empty at the connection's end.
fn head(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).is_ok_and(|read| read > 0) {}
    head
}

#[test]
fn the_router_alone_speaks_https_by_its_own_authority_and_tells_prometheus() {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "curl is missing");
        return eprintln!("SKIPPED, it needs curl");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (address, serving) = app();
    let router = Router::start(
        Command::new(binary("proxy"))
            .args(["--route", &format!("hello.test={address}"), "--metrics", "127.0.0.1:0", "--tls", "--ca"])
            .arg(folder.path()),
    );
    let [ca, metrics] = router.said.as_slice() else { panic!("{:?}", router.said) };
    let ca = ca.strip_prefix("ca ").expect("what to trust");
    let metrics = metrics.strip_prefix("metrics ").expect("where to read");
    let port = router.address.rsplit_once(':').expect("an address").1;
    let curl = |arguments: &[&str]| {
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--include"])
            .args(arguments)
            .output()
            .expect("curl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (url, resolve) = (format!("https://hello.test:{port}/"), format!("hello.test:{port}:127.0.0.1"));
    let answer = curl(&["--cacert", ca, "--resolve", &resolve, &url]);
    let told = curl(&[metrics]);
    router.stop();

    assert!(answer.starts_with("HTTP/2 200") && answer.ends_with("ok"), "{answer}");
    shows(&serving.join().expect("one request came").to_ascii_lowercase(), &["x-forwarded-proto: https"]);
    shows(
        &told,
        &["HTTP/1.1 200 OK", "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"],
    );
    shows(&told, &["paas_router_requests_total{app=\"route-1\",class=\"2xx\"} 1\n", "# EOF\n"]);
}

#[test]
fn the_readme_s_twenty_lines_are_those_of_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).expect("a file of this repository");
    let (readme, example) = (read("README.md"), read("examples/embed.rs"));
    let platform = |text: &str| {
        let begin = text.find("/// Starts a platform that").expect("the function's first line");
        let end = text[begin..].find("\n}\n").expect("the function's last line");
        text[begin..begin + end].to_owned()
    };
    assert_eq!(platform(&readme), platform(&example));
}
