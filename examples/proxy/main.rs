//! The router alone, with routes from its command line.
//!
//! Run: `cargo run --release --example proxy -- --route hello.localhost=127.0.0.1:5000`
//!
//! It prints `ready ADDR` and serves until Ctrl-C; requests in flight are finished then.

mod access_log;
mod options;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use access_log::AccessLog;
use options::Options;
use paas::run::proxy::{Proxy, ProxyConfig};
use paas::{Cancel, CancelReason, Error, Result, SystemClock};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

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
    let cancel = Cancel::new();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads)
            .map(|number| {
                let (logs, cancel) = (Arc::clone(&logs), cancel.clone());
                scope.spawn(move || {
                    let runtime = Builder::new_current_thread().enable_all().build();
                    let runtime = runtime.map_err(|e| Error::from_io("can't start", e))?;
                    let served = runtime.block_on(serve(options, number, logs, &cancel));
                    // One that failed takes the others along.
                    cancel.cancel(CancelReason::Shutdown);
                    served
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })
}

async fn serve(options: &Options, number: usize, logs: Arc<AccessLog>, cancel: &Cancel) -> Result<()> {
    let proxy = Proxy::new(ProxyConfig::default(), logs, Arc::new(SystemClock::new()));
    proxy.adopt(&options.routes)?;
    let failed = |error| Error::from_io(format!("can't listen on {}", options.listen), error);
    let listener = listen(options.listen).map_err(failed)?;
    if number == 0 {
        println!("ready {}", listener.local_addr().map_err(failed)?);
    }
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|e| Error::from_io("can't listen for signals", e))?;
    let serving = proxy.serve(listener, cancel.clone());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => return served,
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    cancel.cancel(CancelReason::Shutdown);
    serving.await
}

/// One of several listeners of the same address.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}
