//! From the command line to the end.

use std::process::ExitCode;
use std::time::Duration;

use paas::{Engine, Error, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::demo;
use crate::options::Options;
use crate::platform::{Platform, Site};
use crate::replace::Outcome;

/// Runs until somebody ends it.
pub(crate) fn main() -> ExitCode {
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

/// How long to wait before what could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(1);

async fn run(options: Options) -> Result<()> {
    let mut signals = Signals::new()?;
    let mut platform = if options.replace {
        // The platform that runs may take its time.
        tokio::select! {
            started = Platform::start(&options) => started?,
            () = signals.stop() => return Ok(()),
        }
    } else {
        Platform::start(&options).await?
    };
    println!("ready {}", platform.ready());
    let greeting = tokio::spawn(greet(platform.site.clone(), platform.engine(), options.demo));
    loop {
        tokio::select! {
            successor = platform.door.asked() => {
                // It holds an engine, and that ends.
                greeting.abort();
                match platform.hand_over(successor).await {
                    Outcome::Replaced(replaced) => return replaced.linger(signals.stop()).await,
                    Outcome::Kept(kept) => platform = *kept,
                }
            }
            () = tokio::time::sleep(AGAIN), if platform.works.is_none() => platform.try_reopen().await,
            () = signals.stop() => break,
        }
    }
    greeting.abort();
    eprintln!(
        "\n-----> Stopping{}",
        if options.keep_apps { "; apps keep running" } else { " apps and databases" }
    );
    platform.stop(options.keep_apps).await
}

async fn greet(site: Site, engine: Option<Engine>, demo: bool) {
    let Some(engine) = engine else { return };
    if demo && let Err(error) = demo::deploy(&site, &engine).await {
        eprintln!(" !     The sample app could not be deployed: {error}");
    }
    site.explain(&engine).await;
}

/// What ends the program.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let failed = |e| Error::from_io("can't listen for signals", e);
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate()).map_err(failed)? })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
