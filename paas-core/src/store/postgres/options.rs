//! How the store uses its database.

use std::time::Duration;

use crate::{Error, ErrorCode, Result};

/// How a [`PostgresStore`](super::PostgresStore) uses its database.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresOptions {
    /// The schema that holds everything of this platform: its name for the engines that share it. Lower-case
    /// letters, digits and `_`, at most 48. It is made where it isn't there.
    pub schema: String,
    /// So many connections are shared by reads, claims and leases; each engine has two more, one that commits and one
    /// that listens.
    ///
    /// Two, since a connection carries any number of calls, one behind the other, and a long list on one must not hold a
    /// renewal up. More cost more than they gain: the engine's benchmark, 300 apps with the server on the same two cores,
    /// did 246 to 294 deploys a second with one, 248 with two, 175 with four and 155 with eight.
    pub connections: usize,
    /// For so long a call tries to reach the server before it answers `unavailable`: a restart or a failover that
    /// is over by then fails nothing.
    pub connect_timeout: Duration,
    /// The server gives a statement up after this time, and the store an answer after twice of it. Keep it well
    /// below the engines' lease.
    pub statement_timeout: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            schema: "paas".to_owned(),
            connections: 2,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
        }
    }
}

impl PostgresOptions {
    /// In this schema.
    #[must_use]
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = name.into();
        self
    }

    /// With so many connections for reads, claims and leases.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Trying so long to reach the server.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Giving a statement so much time.
    #[must_use]
    pub fn statement_timeout(mut self, limit: Duration) -> Self {
        self.statement_timeout = limit;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let name = self.schema.as_bytes();
        let fits = (1..=48).contains(&name.len())
            && !name[0].is_ascii_digit()
            && name.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'_')
            && !self.schema.starts_with("pg_");
        let wrong = if !fits {
            "the store's schema needs a name of at most 48 lower-case letters, digits and `_`, not beginning with a \
             digit or `pg_`"
        } else if self.connections == 0 {
            "the store needs at least one connection"
        } else if self.connect_timeout.is_zero() || self.statement_timeout.as_millis() == 0 {
            "the store's time limits must be longer than nothing"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorCode::InvalidParams, wrong))
    }
}
