//! Sets the server up once, and starts it where it doesn't run.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use paas_core::{Clock, Error, Result, SystemClock};
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use super::account::{self, Account};
use super::binaries::Binaries;
use super::{POLL, START_LIMIT, Shared, postmaster, setup, tls};
use crate::postgres::error;

/// How long a server that doesn't listen, because it is just starting or ending, gets to do so.
const EVICT_AFTER: Duration = Duration::from_secs(10);
/// Ports are taken from here: below those that the kernel gives to outgoing connections, which could sit on ours
/// when the server starts again.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

impl Shared {
    /// Sets it up if need be and starts it, unless somebody did meanwhile. Goes on when the caller gives up: a
    /// server that is half set up helps nobody.
    pub(super) async fn start(shared: &Arc<Self>) -> Result<()> {
        let shared = shared.clone();
        let task = tokio::spawn(async move {
            let _turn = shared.turn.lock().await;
            let _lock = shared.folder.lock().await?;
            if shared.is_stopped() || shared.log_in(None).await?.is_some() {
                return Ok(());
            }
            shared.set_up_and_start().await
        });
        task.await.unwrap_or_else(|e| {
            Err(error::unavailable("the start of the database server was cut off").with_source(e))
        })
    }

    async fn set_up_and_start(&self) -> Result<()> {
        let key = self.key()?;
        let binaries = self.binaries().await?;
        let data = self.folder.data();
        let account = account::choose(&data, self.options.run_as.as_deref())?;
        let opened = self.folder.open_server(account)?;
        let server = self.open.get_or_init(|| opened);
        if self.folder.version().map_err(|e| self.folder.io("read", e))?.is_none() {
            setup::init(&self.folder, &binaries, server, account, &key).await?;
        } else if self.settle(server).await? {
            return Ok(());
        }
        if let Some(port) = self.port()? {
            return self.launch(&binaries, server, account, port).await;
        }
        // The first start: no app knows the port yet, so another will do where one is taken.
        let mut tries = 0;
        loop {
            let port = free_port()?;
            match self.launch(&binaries, server, account, port).await {
                Err(_) if tries < 10 && !is_free(port) => tries += 1,
                other => {
                    other?;
                    self.folder.keep_port(port)?;
                    self.port.get_or_init(|| port);
                    return Ok(());
                }
            }
        }
    }

    /// Deals with what an earlier server left. True if it turns out to be starting, and has started.
    async fn settle(&self, server: &fs::File) -> Result<bool> {
        let data = self.folder.data();
        let failed = |e| self.folder.io("clean up after the server of", e);
        let deadline = Instant::now() + EVICT_AFTER;
        loop {
            let residents = postmaster::residents(&data).map_err(failed)?;
            if residents.is_empty() {
                break;
            }
            let main =
                postmaster::pid_file(&data).map_err(failed)?.filter(|(pid, _)| residents.contains(pid));
            if let Some((_, port)) = main {
                // Its engine may have died before it noted the port.
                if self.log_in_at(server, port, None).await?.is_some() {
                    self.folder.keep_port(port)?;
                    return Ok(true);
                }
            }
            if main.is_none() || Instant::now() > deadline {
                postmaster::evict(&data).map_err(failed)?;
            }
            sleep(POLL).await;
        }
        postmaster::clear_pid_file(&data).map_err(failed)?;
        Ok(false)
    }

    async fn launch(
        &self,
        binaries: &Binaries,
        server: &fs::File,
        account: Option<Account>,
        port: u16,
    ) -> Result<()> {
        let failed = |e| self.folder.io("start the server in", e);
        let data = self.folder.data();
        let tls = tls::spoken(binaries, server, account).await.map_err(failed)?;
        if tls {
            tls::ensure(&data, account, SystemClock::new().now()).map_err(failed)?;
        } else {
            tracing::warn!(
                folder = %binaries.folder.display(),
                "this PostgreSQL speaks no TLS: apps that ask for sslmode=require can't use their database"
            );
        }
        setup::configure(&data, Some(port), tls, account).map_err(failed)?;
        let log = self.folder.open_log()?;
        let start = log.metadata().map_err(failed)?.len();
        let program = binaries.folder.join("postgres");
        let mut postgres = setup::command(&program, server, account).map_err(failed)?;
        postgres.arg("-D").arg(format!("{}/data", setup::SERVER));
        // A group of its own: Ctrl-C in the platform's terminal is not for it.
        postgres
            .process_group(0)
            .stdout(Stdio::from(log.try_clone().map_err(failed)?))
            .stderr(Stdio::from(log));
        let mut child = postgres.spawn().map_err(failed)?;
        tracing::info!(pid = child.id(), port, version = binaries.major, "starting a database server");
        self.await_ready(&mut child, server, port, start).await
    }

    async fn await_ready(&self, child: &mut Child, server: &fs::File, port: u16, start: u64) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let ended = child.try_wait().map_err(|e| self.folder.io("start the server in", e))?;
            // Also when this child has ended: it does where somebody else's got there first.
            if self.log_in_at(server, port, None).await?.is_some() {
                return Ok(());
            }
            if ended.is_some() || Instant::now() > deadline {
                return Err(self.not_started(port, start));
            }
            sleep(POLL).await;
        }
    }

    fn not_started(&self, port: u16, start: u64) -> Error {
        let what = if is_free(port) {
            "PostgreSQL did not start".to_owned()
        } else {
            format!(
                "PostgreSQL did not start, because another program took its port {port}, which apps know: end that one (`ss -ltnp sport = :{port}` shows it)"
            )
        };
        setup::failed(&what, &self.folder, &self.folder.last_words(start))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn free_port() -> Result<u16> {
    for _ in 0..100 {
        let random = getrandom::u32()
            .map_err(|e| error::unavailable("the system gives no random numbers").with_source(e))?;
        let port =
            PORTS.start + u16::try_from(random % u32::from(PORTS.end - PORTS.start)).unwrap_or_default();
        if is_free(port) {
            return Ok(port);
        }
    }
    Err(error::unavailable(format!("no free port between {} and {} on 127.0.0.1", PORTS.start, PORTS.end)))
}
