//! One server, and a session of the platform's own on it.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use paas_core::{AddonId, Error, ErrorCode, Result, Retry};
use tokio::time::{Instant, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::super::server::{self, Endpoint};
use super::super::{PasswordKey, database, error};
use super::container::ADMIN;
use super::servers::Shared;

/// Recovery after a crash reads what was written since the last checkpoint: at most `max_wal_size`.
const START_LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);

/// One server, while somebody works with it.
pub(in super::super) struct OneServer {
    pub(super) shared: Arc<Shared>,
    pub(super) addon: AddonId,
}

impl OneServer {
    pub(in super::super) fn key(&self) -> &PasswordKey {
        &self.shared.key
    }

    pub(in super::super) fn exists(&self) -> bool {
        // What can't be read is there: whoever uses it next is told.
        self.shared.records.read(self.addon).map_or(true, |record| record.is_some())
    }

    pub(in super::super) async fn stop(&self) -> Result<()> {
        self.shared.container(self.addon).stop().await
    }

    /// How many connections an app's role may have open.
    pub(in super::super) fn connections(&self) -> u32 {
        let record = self.shared.records.read(self.addon).ok().flatten();
        record.map_or(database::CONNECTIONS, |record| self.shared.plan(&record).connections)
    }

    pub(in super::super) fn endpoint(&self) -> Result<Endpoint> {
        let record = self.shared.records.read(self.addon)?.ok_or_else(|| database::gone(self.addon))?;
        Ok(match record.port {
            Some(port) => Endpoint { host: Ipv4Addr::LOCALHOST.to_string(), port },
            None => Endpoint { host: self.shared.container(self.addon).alias(), port: 5432 },
        })
    }

    /// A session of the platform's own role. Starts the server where it doesn't run, and waits until it answers.
    pub(in super::super) async fn connect(&self, database: Option<&str>) -> Result<Client> {
        let (shared, addon) = (&self.shared, self.addon);
        let mut config = Config::new();
        config.user(ADMIN).password(shared.key.dedicated_password(addon).as_bytes());
        config.dbname(database.unwrap_or("postgres")).application_name("paas");
        config.connect_timeout(Duration::from_secs(5));
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let address = shared.up(addon).await?;
            let mut config = config.clone();
            config.host(address.ip().to_string()).port(address.port());
            match config.connect(NoTls).await {
                Ok((client, connection)) => return server::admin(client, connection).await,
                Err(e) if e.code() == Some(&SqlState::INVALID_PASSWORD) => {
                    let what = format!(
                        "the database server of the add-on {addon} was made with another key than {}: bring that back",
                        shared.records.key().display()
                    );
                    return Err(Error::new(ErrorCode::WrongKey, what).with_retry(Retry::Never));
                }
                Err(e)
                    if Instant::now() < deadline
                        && e.code().is_none_or(|code| *code == SqlState::CANNOT_CONNECT_NOW) =>
                {
                    sleep(POLL).await;
                }
                Err(e) => {
                    let said = shared.container(addon).last_words().await;
                    return Err(error::sql(&format!("can't log in to the database server ({said})"), e));
                }
            }
        }
    }
}

impl fmt::Debug for OneServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresServer::dedicated({})", self.addon)
    }
}
