//! What several examples need and none is about: a platform that ends with them, a small app, a request.

#![allow(dead_code, reason = "each example uses a part of it")]

use std::future::Future;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use paas::build::DirectorySource;
use paas::{Engine, Error, ErrorCode, Local, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A web server in one file. Perl, because where there is git there is Perl.
pub(crate) const SERVER: &str = r#"
use strict;
use warnings;
use IO::Socket::INET;

$SIG{PIPE} = 'IGNORE';
my $server = IO::Socket::INET->new(LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1) or die "listen: $!\n";
while (my $client = $server->accept) {
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
    my $body = ($ENV{GREETING} // 'Hello') . " from TEXT\n";
    print $client "HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
    close $client;
}
"#;

/// Runs an example to its end, on a runtime that begins after `paas::init()`.
pub(crate) fn run(example: impl Future<Output = Result<()>>) -> ExitCode {
    let done = tokio::runtime::Runtime::new()
        .map_err(|e| Error::from_io("can't start", e))
        .and_then(|runtime| runtime.block_on(example));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(" !     {error}");
            ExitCode::FAILURE
        }
    }
}

/// Lets `show` use the platform that `build` makes, in a folder that is handed to it; all of it is gone afterwards, whatever came of it.
pub(crate) async fn on_a_platform(
    build: impl AsyncFnOnce(&Local) -> Result<Engine>,
    show: impl AsyncFnOnce(&Engine, &Path) -> Result<()>,
) -> Result<()> {
    let scratch = scratch()?;
    let local = Local::open(scratch.path().join("data"), "127.0.0.1:0").await?;
    let engine = build(&local).await?;
    engine.start().await?;
    let shown = show(&engine, scratch.path()).await;
    engine.shutdown().await;
    local.stop().await?;
    shown
}

/// The engine of `embed.rs`: folders, built by buildpacks.
pub(crate) async fn of_folders(local: &Local) -> Result<Engine> {
    let packs = Arc::new(local.buildpacks().await?);
    local.engine()?.with_source(Arc::new(DirectorySource::new())).with_builder(packs).build()
}

/// A folder that is gone with the value; apps, which have users of their own, may pass through it.
pub(crate) fn scratch() -> Result<tempfile::TempDir> {
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    let made = tempfile::Builder::new().prefix("paas-example-").permissions(open).tempdir();
    made.map_err(|e| Error::from_io("can't make a folder", e))
}

/// Writes the server, with this text, and a Procfile.
pub(crate) fn write_app(folder: &Path, text: &str) -> Result<()> {
    write(folder, "Procfile", "web: perl server.pl\n")?;
    write(folder, "server.pl", &SERVER.replace("TEXT", text))
}

/// Writes a file, and its folder where it is missing.
pub(crate) fn write(folder: &Path, file: &str, content: &str) -> Result<()> {
    let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(folder.join(file), content));
    written.map_err(|e| Error::from_io(format!("can't write {file}"), e))
}

/// What a browser would get from this URL. Names under `localhost` are this machine, whether or not its resolver knows.
pub(crate) async fn get(url: &str) -> Result<String> {
    let failed = |e| Error::from_io(format!("can't get {url}"), e);
    let odd = || Error::new(ErrorCode::InvalidParams, format!("{url} has no host with a port"));
    let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).ok_or_else(odd)?;
    let (_, port) = host.split_once(':').ok_or_else(odd)?;
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.map_err(failed)?;
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(odd)?;
    if !head.starts_with("HTTP/1.1 200 ") {
        let status = head.lines().next().unwrap_or_default();
        return Err(Error::new(ErrorCode::Unavailable, format!("{url} answers {status}")));
    }
    Ok(body.trim_end().to_owned())
}
