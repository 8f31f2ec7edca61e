//! A whole platform on this machine: git push in, URLs out.
//!
//! Run: `cargo run --release --example platform [-- OPTIONS]`
//!
//! You see a sample app being pushed, built and released, and then where it is and how to push your own. It stays up
//! until Ctrl-C. Options: `--data DIR`, `--http ADDR`, `--git ADDR`, `--domain NAME`, `--no-demo`, `--keep-apps`.

mod demo;
mod folder;
mod options;
mod platform;

use std::process::ExitCode;

use options::Options;
use paas::Result;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    paas::init();
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!(" !     can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(" !     {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<()> {
    let told = |e| paas::Error::from_io("can't listen for signals", e);
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt()).map_err(told)?, signal(SignalKind::terminate()).map_err(told)?);
    let platform = platform::Platform::start(&options).await?;
    println!("ready {}", platform.ready());
    let demo = async {
        if options.demo
            && let Err(error) = demo::deploy(&platform).await
        {
            eprintln!(" !     The sample app could not be deployed: {error}");
        }
        platform.explain().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = demo => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    eprintln!(
        "\n-----> Stopping{}",
        if options.keep_apps { "; apps keep running" } else { " apps and databases" }
    );
    platform.stop(options.keep_apps).await
}
