//! The router alone, with routes from its command line.
//!
//! Run: `cargo run --release --example proxy -- --route hello.localhost=127.0.0.1:5000`
//!
//! It prints `ready ADDR` and serves until Ctrl-C; requests in flight are finished then. Before that line, `ca FILE` tells what
//! to trust where it speaks HTTPS (`--tls`), and `metrics URL` what Prometheus reads (`--metrics ADDR`).

mod access_log;
mod options;
mod way;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use access_log::AccessLog;
use options::Options;
use paas::run::proxy::{Metrics, Proxy, ProxyConfig};
use paas::{Cancel, CancelReason, Error, Result, SystemClock};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use way::Way;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(" !     {error}");
            ExitCode::FAILURE
        }
    }
}

/// Each thread is a proxy of its own: it shares no connection and no lock with the others, and the kernel spreads clients.
fn run(options: &Options) -> Result<()> {
    let logs = Arc::new(AccessLog::open(options.access_log.as_deref())?);
    let proxies = (0..options.threads).map(|_| {
        let proxy = Proxy::new(ProxyConfig::default(), logs.clone(), Arc::new(SystemClock::new()));
        proxy.adopt(&options.routes).map(|()| proxy)
    });
    let proxies = proxies.collect::<Result<Vec<_>>>()?;
    let way = Way::open(options)?;
    let page = options.metrics.map(bound).transpose()?;
    if let Some(listener) = &page {
        let at = listener.local_addr().map_err(|e| Error::from_io("a listener has no address", e))?;
        println!("metrics http://{at}/metrics");
    }
    let cancel = Cancel::new();
    let metrics = Metrics::of(proxies.clone());
    thread::scope(|scope| {
        let serving = proxies.into_iter().enumerate().map(|(number, proxy)| {
            let (way, cancel) = (&way, &cancel);
            scope.spawn(move || alone(cancel, serve(options, number == 0, proxy, way, cancel)))
        });
        let mut threads: Vec<_> = serving.collect();
        // On a thread of its own: requests don't wait for it.
        threads.extend(page.map(|listener| {
            let cancel = &cancel;
            scope.spawn(move || alone(cancel, tell(metrics, listener, cancel)))
        }));
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })
}

/// Does this on one thread. Where it fails, it takes the others along.
fn alone(cancel: &Cancel, work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let done =
        runtime.map_err(|e| Error::from_io("can't start", e)).and_then(|runtime| runtime.block_on(work));
    cancel.cancel(CancelReason::Shutdown);
    done
}

async fn serve(options: &Options, first: bool, proxy: Proxy, way: &Way, cancel: &Cancel) -> Result<()> {
    let failed = |error| Error::from_io(format!("can't listen on {}", options.listen), error);
    let listener = listen(options.listen).map_err(failed)?;
    if first {
        println!("ready {}", listener.local_addr().map_err(failed)?);
    }
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|e| Error::from_io("can't listen for signals", e))?;
    let serving = way.serve(&proxy, listener, cancel.clone());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => return served,
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    cancel.cancel(CancelReason::Shutdown);
    serving.await
}

async fn tell(metrics: Metrics, listener: std::net::TcpListener, cancel: &Cancel) -> Result<()> {
    let listener = TcpListener::from_std(listener).map_err(|e| Error::from_io("can't tell metrics", e))?;
    metrics.serve(listener, cancel.clone()).await;
    Ok(())
}

fn bound(address: SocketAddr) -> Result<std::net::TcpListener> {
    let failed = |error| Error::from_io(format!("can't listen on {address}"), error);
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// One of several listeners of the same address.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}
