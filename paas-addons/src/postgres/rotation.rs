//! New passwords while the old ones still work.
//!
//! PostgreSQL knows one password a role. So an add-on gets a second login, which acts as the role itself (`SET role`),
//! and the two take turns: instances that run with the one go on while their successors start with the other.
//!
//! ```text
//!  rotation   paas_<id>       paas_<id>_2
//!      0      today's         -
//!      1      old, until      today's
//!      2      today's         old, until …
//! ```

use std::time::Duration;

use paas_core::{AddonId, Error, Result};
use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;

use super::PasswordKey;
use super::database::{Database, Label, State, gone, name};
use super::server::PostgresServer;

/// Ended sessions take a moment to go.
const POLL: Duration = Duration::from_millis(10);

/// As whom an app logs in with the password of this rotation.
pub(super) fn login(addon: AddonId, rotation: u32) -> String {
    let name = name(addon);
    if rotation.is_multiple_of(2) { name } else { format!("{name}_2") }
}

impl Database<'_> {
    /// A new password for the login that no app runs with. The same `call` again changes nothing.
    pub(super) async fn rotate(&self, server: &PostgresServer, key: &PasswordKey, call: &str) -> Result<()> {
        let label = self.ready().await?;
        if label.rotated_by.as_deref() == Some(call) {
            return Ok(());
        }
        // While the one from before the last rotation works, apps may run with it: it is left alone.
        let rotation = label.rotation + if label.old { 2 } else { 1 };
        self.take_back(server).await?;
        let login = escape_identifier(&login(self.addon, rotation));
        let verifier = escape_literal(&scram_sha_256(key.password(self.addon, rotation).as_bytes()));
        let label =
            Label { rotation, old: true, key: key.fingerprint(), rotated_by: Some(call.to_owned()), ..label };
        self.run("change the password of", "BEGIN").await?;
        if rotation % 2 == 1 {
            self.make_second(server, &login).await?;
        }
        let change =
            format!("ALTER ROLE {login} LOGIN PASSWORD {verifier}; {}; COMMIT", self.comment(&label));
        self.run("change the password of", &change).await
    }

    /// Closes the login with the old password, and ends its sessions.
    pub(super) async fn revoke(&self, server: &PostgresServer) -> Result<()> {
        let label = self.ready().await?;
        if !label.old {
            return Ok(());
        }
        let old = login(self.addon, label.rotation + 1);
        let close = format!("ALTER ROLE {} NOLOGIN PASSWORD NULL", escape_identifier(&old));
        self.run("revoke the old password of", &close).await?;
        self.end_sessions(&old).await?;
        self.take_back(server).await?;
        let done = self.comment(&Label { old: false, ..label });
        self.run("revoke the old password of", &done).await
    }

    /// Closes the second login, if there is one, before the database is destroyed.
    pub(super) async fn close_second(&self) -> Result<()> {
        if !self.has_second().await? {
            return Ok(());
        }
        let second = escape_identifier(&login(self.addon, 1));
        self.run("destroy", &format!("ALTER ROLE {second} NOLOGIN")).await
    }

    async fn ready(&self) -> Result<Label> {
        let label = self.label().await?.filter(|label| label.state == State::Ready);
        label.ok_or_else(|| gone(self.addon))
    }

    async fn has_second(&self) -> Result<bool> {
        let query = "SELECT FROM pg_roles WHERE rolname = $1";
        let found = self.client.query_opt(query, &[&login(self.addon, 1)]).await;
        Ok(found.map_err(|e| self.failed("look up the logins of", e))?.is_some())
    }

    async fn make_second(&self, server: &PostgresServer, second: &str) -> Result<()> {
        if self.has_second().await? {
            return Ok(());
        }
        let (role, connections) = (self.quoted(), server.connections());
        let make = format!(
            "CREATE ROLE {second} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS
                 CONNECTION LIMIT {connections} IN ROLE {role};
             ALTER ROLE {second} SET role = {role};
             ALTER ROLE {second} SET idle_in_transaction_session_timeout = '1h'"
        );
        self.run("make the second login of", &make).await?;
        self.join(second).await
    }

    /// What was made by a session that had left the role (`SET ROLE NONE`) belongs to the role all the same: the
    /// other login could not use it.
    async fn take_back(&self, server: &PostgresServer) -> Result<()> {
        if !self.has_second().await? {
            return Ok(());
        }
        let second = escape_identifier(&login(self.addon, 1));
        let inside = server.connect(Some(&self.name)).await?;
        let give = format!("REASSIGN OWNED BY {second} TO {}", self.quoted());
        inside.batch_execute(&give).await.map_err(|e| self.failed("put in order what belongs to", e))
    }

    async fn end_sessions(&self, login: &str) -> Result<()> {
        let query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1";
        let failed = |e| -> Error { self.failed("end the sessions of", e) };
        while self.client.execute(query, &[&login]).await.map_err(failed)? > 0 {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}
