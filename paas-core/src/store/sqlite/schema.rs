//! How a connection is opened, and how the file's schema grows.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use crate::{Error, ErrorCode, Result};

/// In order; a new one is added at the end, and none is ever changed.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_initial.sql")];

/// Tells our files from other programs' databases: "paas" in ASCII.
const APPLICATION_ID: i32 = 0x7061_6173;

/// How long a writer waits for writers of other processes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the file, makes it with mode 0600 if it isn't there, and brings its schema up to date.
pub(super) fn open_and_migrate(path: &Path) -> Result<Connection> {
    let failed = |e| Error::from_io(format!("can't open the store {}", path.display()), e);
    let mut options = fs::OpenOptions::new();
    // SQLite gives its log and index the mode of the file.
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(failed)?;
    let mut connection = connect(path)?;
    inspect(&connection)?;
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed)?;
    }
    configure(&connection, path)?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Opens a file that is there and up to date.
pub(super) fn open(path: &Path) -> Result<Connection> {
    let connection = connect(path)?;
    configure(&connection, path)?;
    Ok(connection)
}

fn connect(path: &Path) -> Result<Connection> {
    use rusqlite::OpenFlags as Flags;
    let flags = Flags::SQLITE_OPEN_READ_WRITE | Flags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn configure(connection: &Connection, path: &Path) -> Result<()> {
    connection.set_prepared_statement_cache_capacity(128);
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        let message = format!(
            "the store {} can't keep a write-ahead log (mode {mode}): put it on a disk of this machine",
            path.display()
        );
        return Err(Error::new(ErrorCode::Unsupported, message));
    }
    // With less, the last commits may be lost when the power goes.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(())
}

/// Refuses a file that isn't ours to write, before anything in it is changed, and tells its version.
fn inspect(connection: &Connection) -> Result<usize> {
    let (known, found) = (MIGRATIONS.len(), version(connection)?);
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let empty = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)";
    let empty: bool = connection.query_row(empty, [], |row| row.get(0))?;
    if id != APPLICATION_ID && !empty {
        let message = "this file is another program's database, not a store; choose another path";
        return Err(Error::new(ErrorCode::Corrupt, message));
    }
    if found > known {
        let message = format!(
            "the store was written by a newer version (schema {found}, and this one knows {known}): start that \
             version, or put back the backup made before it"
        );
        return Err(Error::new(ErrorCode::Unsupported, message));
    }
    Ok(found)
}

fn migrate(connection: &mut Connection) -> Result<()> {
    if inspect(connection)? == MIGRATIONS.len() {
        return Ok(());
    }
    // Another process may do the same at the same time: look again once we may write.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in &MIGRATIONS[inspect(&transaction)?..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))?;
    transaction.commit()?;
    Ok(())
}

fn version(connection: &Connection) -> Result<usize> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    usize::try_from(version).map_err(|_| Error::new(ErrorCode::Corrupt, "the store's schema has no version"))
}
