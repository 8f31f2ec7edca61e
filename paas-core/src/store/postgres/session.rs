//! Connections: how they are opened and set up, and the statements that each has prepared.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_postgres::config::SslMode;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Connection, NoTls, Row, Socket, Statement, tls::NoTlsStream};

use super::PostgresOptions;
use super::error::lost;
use crate::{Error, ErrorCode, Result};

/// What is set up in each connection. Every statement of ours has an index that fits, so the planner is kept from a
/// plan which was right while a table was small. Nothing is acknowledged before it is on disk.
const SETUP: &str = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off;
    SET enable_mergejoin = off; SET jit = off; SET default_transaction_isolation = 'read committed';
    SET idle_in_transaction_session_timeout = '5s'; SET client_min_messages = warning;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// Where the database is and how to use it. The config holds the password: it is never shown.
pub(super) struct Connector {
    config: Config,
    pub(super) options: PostgresOptions,
    /// Where connections are driven, whoever opens them.
    runtime: Handle,
}

impl Connector {
    pub(super) fn new(url: &str, options: PostgresOptions) -> Result<Self> {
        options.check()?;
        let form = "write it as postgres://user:password@host:port/database";
        // The parser's own words may quote the URL, which holds the password.
        let unreadable = |_| {
            Error::new(
                ErrorCode::InvalidParams,
                format!("the URL of the store's database can't be read; {form}"),
            )
        };
        if url.contains("sslmode=verify-") {
            return Err(no_tls());
        }
        let mut config = Config::from_str(url).map_err(unreadable)?;
        if matches!(config.get_ssl_mode(), SslMode::Require) {
            return Err(no_tls());
        }
        if config.get_application_name().is_none() {
            config.application_name("paas");
        }
        // A host that is gone without a word is noticed within half a minute.
        let beat = Duration::from_secs(10);
        config.keepalives_idle(beat).keepalives_interval(beat).keepalives_retries(2);
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(beat * 3);
        }
        Ok(Self { config, options, runtime: Handle::current() })
    }

    /// Server and database, for people.
    pub(super) fn place(&self) -> String {
        use tokio_postgres::config::Host;
        let hosts = self.config.get_hosts().iter().enumerate().map(|(n, host)| {
            let ports = self.config.get_ports();
            let port = ports.get(n).or_else(|| ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(folder) => format!("{}:{port}", folder.display()),
            }
        });
        let hosts: Vec<_> = hosts.collect();
        let database = self.config.get_dbname().or_else(|| self.config.get_user()).unwrap_or_default();
        format!("{}/{database}", hosts.join(","))
    }

    /// Tries to connect until the time for it is over, with growing pauses.
    pub(super) async fn open(&self) -> Result<Session> {
        let until = Instant::now() + self.options.connect_timeout;
        let mut pause = Duration::from_millis(20);
        loop {
            match self.try_open(until).await {
                Err(e) if e.code() == ErrorCode::Unavailable && Instant::now() + pause < until => {
                    tracing::debug!(error = %e, "can't connect to the store's database yet");
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                other => return other,
            }
        }
    }

    async fn try_open(&self, until: Instant) -> Result<Session> {
        let late = |_| lost("the store's database can't be reached in time");
        timeout_at(until, async {
            let (client, connection) = self.raw().await?;
            let session = Session {
                client,
                statements: Mutex::default(),
                limit: self.options.statement_timeout * 2,
                driver: Driver(self.runtime.spawn(async move {
                    if let Err(e) = connection.await {
                        // Whoever waits for an answer is told by their own call.
                        tracing::debug!(error = %e, "a connection to the store's database ended");
                    }
                })),
            };
            let setup = format!(
                "{SETUP}; SET statement_timeout = {}; SET search_path = {}",
                self.options.statement_timeout.as_millis(),
                self.options.schema,
            );
            session.client.batch_execute(&setup).await?;
            Ok(session)
        })
        .await
        .unwrap_or_else(|e| Err(late(e)))
    }

    /// A connection that somebody else drives and sets up.
    pub(super) async fn raw(&self) -> Result<(Client, Connection<Socket, NoTlsStream>)> {
        Ok(self.config.connect(NoTls).await?)
    }

    /// Runs something as long as the answer isn't dropped.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> Driver {
        Driver(self.runtime.spawn(work))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

fn no_tls() -> Error {
    let message = "TLS to the store's database is not supported by this build: reach it over a private network or a \
                   tunnel, with sslmode=disable or sslmode=prefer";
    Error::new(ErrorCode::Unsupported, message)
}

/// A task that ends with this.
pub(super) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection that is set up. Calls on it are sent at once and answered in their order.
pub(super) struct Session {
    pub(super) client: Client,
    statements: Mutex<HashMap<String, Statement>>,
    limit: Duration,
    driver: Driver,
}

impl Session {
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The statement of this text, prepared once.
    pub(super) async fn statement(&self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        let known = || self.statements.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = known().get(sql).cloned() {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        known().insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Carries one statement out.
    pub(super) async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.within(async {
            let statement = self.statement(sql).await?;
            Ok(self.client.query(&statement, values).await?)
        })
        .await
    }

    /// Gives up what takes too long, and with it this connection: its answer would still come.
    pub(super) async fn within<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = timeout(self.limit, work).await;
        answer.unwrap_or_else(|_| {
            self.driver.0.abort();
            Err(lost("the store's database doesn't answer in time"))
        })
    }
}
