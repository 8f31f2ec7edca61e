//! A server that somebody else looks after.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use paas_core::{Error, ErrorCode, Result};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};

use super::server::{self, Endpoint};
use super::{PasswordKey, error};

/// How to reach it, and as whom. The config holds the password: it is never shown.
pub(super) struct External {
    config: Config,
    endpoint: Endpoint,
    key: PasswordKey,
}

impl External {
    pub(super) fn new(url: &str, key: PasswordKey) -> Result<Self> {
        let invalid = |why: &str| {
            let form = "write it as postgres://user:password@host:port/database";
            Error::new(ErrorCode::InvalidParams, format!("the database server's URL {why}; {form}"))
        };
        // The parser's own words may quote the URL, which holds the password.
        let mut config = Config::from_str(url).map_err(|_| invalid("can't be read"))?;
        let [Host::Tcp(host)] = config.get_hosts() else {
            return Err(invalid("must name one host, reached over TCP by the platform and by apps"));
        };
        let host = host.clone();
        let port = config.get_ports().first().copied().unwrap_or(5432);
        if matches!(config.get_ssl_mode(), SslMode::Require) {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "TLS to the database server is not supported here: reach it over loopback or a private network, without sslmode=require",
            ));
        }
        if config.get_dbname().is_none() {
            config.dbname("postgres");
        }
        config.application_name("paas").connect_timeout(Duration::from_secs(10));
        Ok(Self { config, endpoint: Endpoint { host, port }, key })
    }

    pub(super) async fn connect(&self, database: Option<&str>) -> Result<Client> {
        let mut config = self.config.clone();
        if let Some(database) = database {
            config.dbname(database);
        }
        let connected = config.connect(NoTls).await;
        let (client, connection) =
            connected.map_err(|e| error::sql("can't log in to the database server", e))?;
        server::admin(client, connection).await
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn key(&self) -> &PasswordKey {
        &self.key
    }
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, port } = &self.endpoint;
        write!(f, "PostgresServer::external({host}:{port})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external(url: &str) -> Result<External> {
        External::new(url, PasswordKey::new([0; 32]))
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_showing_its_password() {
        let bad = [
            ("postgres://ada:CANARY@host:port/db", ErrorCode::InvalidParams),
            ("postgres://ada:CANARY@a:1,b:2/db", ErrorCode::InvalidParams),
            ("postgres://ada:CANARY@%2Frun%2Fpg/db", ErrorCode::InvalidParams),
            ("postgres://ada:CANARY@/db", ErrorCode::InvalidParams),
            ("postgres://ada:CANARY@host/db?sslmode=require", ErrorCode::Unsupported),
            ("CANARY", ErrorCode::InvalidParams),
        ];
        for (url, code) in bad {
            let error = external(url).unwrap_err();
            assert_eq!(error.code(), code, "{url}");
            assert!(!format!("{error} {error:?}").contains("CANARY"), "{error:?}");
        }
    }

    #[test]
    fn debug_says_where_it_is_and_no_more() {
        let server = external("postgres://ada:CANARY@db.example.com:6543/main").unwrap();
        assert_eq!(format!("{server:?}"), "PostgresServer::external(db.example.com:6543)");
    }
}
