//! How the schema is made and grows.

use super::session::{Connector, Session};
use crate::{Error, ErrorCode, Result};

/// In order; a new one is added at the end, and none is ever changed.
pub(super) const MIGRATIONS: &[&str] =
    &[include_str!("migrations/0001_initial.sql"), include_str!("migrations/0002_ready.sql")];

/// Brings the schema up to date. Any number of engines may do so at the same time: one does, the others wait.
pub(super) async fn migrate(connector: &Connector, session: &Session) -> Result<()> {
    let schema = &connector.options.schema;
    // Most starts find all done, and need no right to make anything.
    if inspect(session, schema).await? == MIGRATIONS.len() {
        return Ok(());
    }
    let lock = format!(
        "BEGIN; SET LOCAL statement_timeout = '60s'; SELECT pg_advisory_xact_lock(hashtext('paas schema'), hashtext('{schema}'))"
    );
    session.client.batch_execute(&lock).await?;
    let result = migrate_alone(session, schema).await;
    let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
    session.client.batch_execute(end).await?;
    result
}

async fn migrate_alone(session: &Session, schema: &str) -> Result<()> {
    let found = inspect(session, schema).await?;
    if found == 0 {
        // Even `IF NOT EXISTS` asks for the right to make one.
        let there = "SELECT 1 FROM pg_namespace WHERE nspname = $1";
        if session.client.query(there, &[&schema]).await?.is_empty() {
            session.client.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
        }
        let version = format!("CREATE TABLE {schema}.paas_version (schema bigint NOT NULL)");
        session.client.batch_execute(&version).await?;
        session.client.execute(&format!("INSERT INTO {schema}.paas_version VALUES (0)"), &[]).await?;
    }
    for migration in &MIGRATIONS[found..] {
        session.client.batch_execute(migration).await?;
    }
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    session.client.execute(&format!("UPDATE {schema}.paas_version SET schema = $1"), &[&known]).await?;
    Ok(())
}

/// Refuses a schema that isn't ours to write, before anything in it is changed, and tells its version.
async fn inspect(session: &Session, schema: &str) -> Result<usize> {
    let encoding: String = session.client.query_one("SHOW server_encoding", &[]).await?.try_get(0)?;
    if encoding != "UTF8" {
        let message = format!(
            "the store's database keeps texts as {encoding}: make one with `CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`"
        );
        return Err(Error::new(ErrorCode::Unsupported, message));
    }
    let tables = "SELECT c.relname::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')";
    let tables = session.client.query(tables, &[&schema]).await?;
    let tables = tables.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    if tables.is_empty() {
        return Ok(0);
    }
    if !tables.iter().any(|table| table == "paas_version") {
        let message =
            format!("the schema {schema} holds another program's tables, not a store; choose another name");
        return Err(Error::new(ErrorCode::Corrupt, message));
    }
    let version = session.client.query_opt(&format!("SELECT schema FROM {schema}.paas_version"), &[]).await?;
    let version: i64 = version.map_or(Ok(-1), |row| row.try_get(0))?;
    let found = usize::try_from(version)
        .map_err(|_| Error::new(ErrorCode::Corrupt, format!("the store's schema {schema} has no version")))?;
    let known = MIGRATIONS.len();
    if found > known {
        let message = format!(
            "the store was written by a newer version (schema {found}, and this one knows {known}): start that \
             version, or put back the backup made before it"
        );
        return Err(Error::new(ErrorCode::Unsupported, message));
    }
    Ok(found)
}
