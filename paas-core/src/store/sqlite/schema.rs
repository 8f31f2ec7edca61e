//! How a connection is opened, and how the file's schema grows.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use crate::{Error, ErrorCode, Result};

/// In order; a new one is added at the end, and none is ever changed.
pub(super) const MIGRATIONS: &[&str] =
    &[include_str!("migrations/0001_initial.sql"), include_str!("migrations/0002_ready.sql")];

/// Tells our files from other programs' databases: "paas" in ASCII.
const APPLICATION_ID: i32 = 0x7061_6173;

/// How long a writer waits for writers of other processes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens the file, makes it with mode 0600 if it isn't there, and brings its schema up to date.
pub(super) fn open_and_migrate(path: &Path) -> Result<Connection> {
    let failed = |e| Error::from_io(format!("can't open the store {}", path.display()), e);
    if !path.try_exists().map_err(failed)? {
        make(path).map_err(failed)?;
    }
    let mut connection = connect(path)?;
    // Within one transaction, since another process may be making the store between two looks.
    inspect(&*connection.transaction()?)?;
    if fs::metadata(path).map_err(failed)?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    }
    configure(&connection, path)?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Makes an empty file for its owner only; SQLite gives its log and index the same mode.
///
/// It is made under another name: whoever closes a file of their own on the store's takes away all locks that
/// SQLite has on it in this process ("How To Corrupt An SQLite Database File", section 2.2).
fn make(path: &Path) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".new-{}", uuid::Uuid::new_v4().simple()));
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let made = fs::hard_link(&new, path);
    fs::remove_file(&new)?;
    match made {
        // Another process was faster.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
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
    let mode = write_ahead(connection)?;
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

/// Asks for a write-ahead log, and tells which mode the file has got.
///
/// A file that is just made changes its mode under a lock for which SQLite doesn't wait, whatever its timeout says.
fn write_ahead(connection: &Connection) -> Result<String> {
    const PAUSE: Duration = Duration::from_millis(5);
    let mut pauses = BUSY_TIMEOUT.as_millis() / PAUSE.as_millis();
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)) {
            Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) && pauses > 0 => {
                pauses -= 1;
                std::thread::sleep(PAUSE);
            }
            mode => return Ok(mode?),
        }
    }
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
    if inspect(&*connection.transaction()?)? == MIGRATIONS.len() {
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
