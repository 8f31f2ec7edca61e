//! One add-on on the server: a role, its database, and the role's comment, which is our label.
//!
//! ```text
//!  (nothing) ── role and comment ──> Making ── database, closed to others ──> Ready
//!      ^                                                                       │ drop
//!      └───────────── database dropped, then the role ──────────── Dropping <──┘
//! ```
//!
//! `CREATE DATABASE` can't be part of a transaction, so every step looks first and does what is missing; a
//! crash anywhere leaves a state from which the same call goes on. The comment is written in the transaction
//! that makes the role, and the role goes last: what has no role with our comment is not ours.

use paas_core::{AddonId, Error, ErrorCode, Result, Retry};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::rotation::login;
use super::server::PostgresServer;
use super::{PasswordKey, error};

/// How many connections an add-on's role may have open at once on a shared server (Heroku's smallest plans allow 20).
pub const CONNECTIONS: u32 = 20;

/// What the role's comment says. Everybody on the server can read it, so it tells nothing of the app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Label {
    /// How far it is.
    #[serde(rename = "paas_addon")]
    pub(super) state: State,
    /// Which key its password is derived from.
    pub(super) key: String,
    /// Which password is today's, counted from 0. The even ones are the role's own, the odd ones its second login's.
    pub(super) rotation: u32,
    /// The other login is open too: it has the password from before the last rotation.
    #[serde(default)]
    pub(super) old: bool,
    /// Which call changed it last, so that the same call again doesn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rotated_by: Option<String>,
}

/// How far an add-on is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// Being made.
    Making,
    /// It can be used.
    Ready,
    /// Being destroyed.
    Dropping,
}

/// One add-on, worked on over one session of the platform's own role.
pub(super) struct Database<'a> {
    pub(super) addon: AddonId,
    pub(super) name: String,
    pub(super) client: &'a Client,
}

impl<'a> Database<'a> {
    pub(super) fn new(client: &'a Client, addon: AddonId) -> Self {
        Self { addon, name: name(addon), client }
    }

    /// What the server says of it; `None` if it isn't there.
    pub(super) async fn label(&self) -> Result<Option<Label>> {
        let query = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1";
        let row = self.client.query_opt(query, &[&self.name]).await;
        let Some(row) = row.map_err(|e| self.failed("look up", e))? else { return Ok(None) };
        let comment: Option<String> = row.get(0);
        let label = comment.and_then(|text| serde_json::from_str(&text).ok());
        label.map(Some).ok_or_else(|| {
            let message =
                format!("the role {} on the database server was not made by this platform", self.name);
            Error::new(ErrorCode::Conflict, message)
        })
    }

    /// Waits until nobody else, on whatever engine, works on this add-on. Given back when the session ends.
    pub(super) async fn lock(&self) -> Result<()> {
        let (high, low) = self.addon.uuid().as_u64_pair();
        let key = (high ^ low).cast_signed();
        let locked = self.client.execute("SELECT pg_advisory_lock($1)", &[&key]).await;
        locked.map(drop).map_err(|e| self.failed("lock", e))
    }

    /// Makes it, or what is missing of it.
    pub(super) async fn ensure(&self, server: &PostgresServer, key: &PasswordKey) -> Result<()> {
        let label = match self.label().await? {
            Some(label) if label.state == State::Dropping => {
                self.drop().await?;
                self.make_role(server, key).await?
            }
            Some(label) => label,
            None => self.make_role(server, key).await?,
        };
        if label.state == State::Ready {
            return Ok(());
        }
        self.make_database().await?;
        self.give_schema(server).await?;
        let ready = Label { state: State::Ready, ..label };
        self.run("finish", &self.comment(&ready)).await
    }

    async fn make_role(&self, server: &PostgresServer, key: &PasswordKey) -> Result<Label> {
        let (state, key_name) = (State::Making, key.fingerprint());
        let label = Label { state, key: key_name, rotation: 0, old: false, rotated_by: None };
        let role = self.quoted();
        // Only the verifier travels: a password in a statement would stand in the server's log and views.
        let verifier = escape_literal(&scram_sha_256(key.password(self.addon, 0).as_bytes()));
        let comment = self.comment(&label);
        let connections = server.connections();
        let make = format!(
            "BEGIN;
             CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
                 CONNECTION LIMIT {connections} PASSWORD {verifier};
             ALTER ROLE {role} SET idle_in_transaction_session_timeout = '1h';
             {comment};"
        );
        self.run("make the role of", &make).await?;
        self.join(&role).await?;
        self.run("make the role of", "COMMIT").await?;
        Ok(label)
    }

    /// Without SUPERUSER one makes databases for roles, gives away what is theirs and ends their sessions only
    /// where one is a member of them.
    pub(super) async fn join(&self, role: &str) -> Result<()> {
        let query = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
        let row = self.client.query_one(query, &[]).await.map_err(|e| self.failed("make the role of", e))?;
        if row.get(0) {
            return Ok(());
        }
        self.run("make the role of", &format!("GRANT {role} TO CURRENT_USER")).await
    }

    /// The database is made closed and opened once `PUBLIC` has no privileges on it: a neighbour that tries
    /// all the time must not get a session in between.
    async fn make_database(&self) -> Result<()> {
        let name = self.quoted();
        let query = "SELECT datallowconn FROM pg_database WHERE datname = $1";
        let there = self.client.query_opt(query, &[&self.name]).await;
        if there.map_err(|e| self.failed("look up", e))?.is_none() {
            let make = format!(
                "CREATE DATABASE {name} OWNER {name} TEMPLATE template0 ENCODING 'UTF8' ALLOW_CONNECTIONS false"
            );
            match self.client.batch_execute(&make).await {
                Err(e) if e.code() == Some(&SqlState::DUPLICATE_DATABASE) => {}
                other => other.map_err(|e| self.failed("make", e))?,
            }
        }
        let open = format!(
            "BEGIN; REVOKE ALL ON DATABASE {name} FROM PUBLIC; ALTER DATABASE {name} ALLOW_CONNECTIONS true; COMMIT"
        );
        self.run("close to others", &open).await
    }

    /// From PostgreSQL 15 on the schema `public` belongs to whoever owns the database; before, it is given away.
    async fn give_schema(&self, server: &PostgresServer) -> Result<()> {
        let query = "SELECT current_setting('server_version_num')::int";
        let row = self.client.query_one(query, &[]).await.map_err(|e| self.failed("finish", e))?;
        if row.get::<_, i32>(0) >= 150_000 {
            return Ok(());
        }
        let inside = server.connect(Some(&self.name)).await?;
        let give = format!(
            "ALTER SCHEMA public OWNER TO {}; REVOKE ALL ON SCHEMA public FROM PUBLIC",
            self.quoted()
        );
        inside.batch_execute(&give).await.map_err(|e| self.failed("finish", e))
    }

    /// Destroys it, or what is left of it, also when somebody is connected.
    pub(super) async fn drop(&self) -> Result<()> {
        let Some(label) = self.label().await? else { return Ok(()) };
        let name = self.quoted();
        let dropping = Label { state: State::Dropping, ..label };
        // No new session may slip in behind those that FORCE ends.
        let close = format!("BEGIN; ALTER ROLE {name} NOLOGIN; {}; COMMIT", self.comment(&dropping));
        self.run("destroy", &close).await?;
        self.close_second().await?;
        self.run("destroy", &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        let second = escape_identifier(&login(self.addon, 1));
        self.run("destroy the role of", &format!("DROP ROLE IF EXISTS {second}")).await?;
        self.run("destroy the role of", &format!("DROP ROLE IF EXISTS {name}")).await
    }

    /// Other databases of the server that this add-on's role could connect to, because they let everybody.
    pub(super) async fn open_neighbours(&self) -> Result<Vec<String>> {
        let query = "SELECT datname::text FROM pg_database
                     WHERE datallowconn AND datname::text <> $1::text
                       AND has_database_privilege($1::text::name, oid, 'CONNECT')
                     ORDER BY 1";
        let rows = self.client.query(query, &[&self.name]).await;
        Ok(rows.map_err(|e| self.failed("look around", e))?.iter().map(|row| row.get(0)).collect())
    }

    pub(super) async fn run(&self, doing: &str, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(|e| self.failed(doing, e))
    }

    pub(super) fn comment(&self, label: &Label) -> String {
        let text = serde_json::to_string(label).unwrap_or_else(|_| unreachable!("strings and numbers"));
        format!("COMMENT ON ROLE {} IS {}", self.quoted(), escape_literal(&text))
    }

    pub(super) fn quoted(&self) -> String {
        escape_identifier(&self.name)
    }

    pub(super) fn failed(&self, doing: &str, error: tokio_postgres::Error) -> Error {
        error::sql(&format!("can't {doing} the database {}", self.name), error)
    }
}

/// The name of an add-on's database and role: nothing of it comes from a person.
pub(super) fn name(addon: AddonId) -> String {
    format!("paas_{}", addon.uuid().simple())
}

pub(super) fn gone(addon: AddonId) -> Error {
    Error::new(ErrorCode::NotFound, format!("there is no database of the add-on {addon}"))
}

/// Its password comes from another key than ours.
pub(super) fn wrong_key(addon: AddonId) -> Error {
    let message = format!(
        "the password of the add-on {addon} was made with another key: bring that key back, or rotate the add-on's credentials"
    );
    Error::new(ErrorCode::WrongKey, message).with_retry(Retry::Never)
}
