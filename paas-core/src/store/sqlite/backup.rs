//! A copy of the store as it was at one moment, made while it works.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::SqliteStore;
use crate::store::Table;
use crate::{Error, ErrorCode, Result, blocking};

/// What is in a copy of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreBackup {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// How many rows of each table.
    pub rows: BTreeMap<&'static str, u64>,
    /// The place of the newest event: everything up to it is in the copy, and nothing after it.
    pub newest_event: u64,
}

impl SqliteStore {
    /// Copies the store as it is at one moment into a new file of mode 0600, safe on disk, while others read and write. The
    /// copy is read through once before it gets its name, so a file that is there is whole.
    ///
    /// To go on from the copy, open it as a store.
    ///
    /// # Errors
    /// `exists` when there is a file of that name; `disk_full`; `corrupt` when the store is damaged; when the file can't be
    /// written.
    pub async fn backup(&self, to: impl Into<PathBuf>) -> Result<StoreBackup> {
        let (from, to) = (self.path.clone(), to.into());
        blocking(move || backup(&from, &to)).await
    }
}

fn backup(from: &Path, to: &Path) -> Result<StoreBackup> {
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::AlreadyExists => Error::new(
            ErrorCode::Exists,
            format!(
                "{} is there already: a backup overwrites nothing, give it another name or move that away",
                to.display()
            ),
        ),
        _ => Error::from_io(format!("can't back up the store to {}", to.display()), e),
    };
    if to.try_exists().map_err(failed)? {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let mut aside = to.as_os_str().to_owned();
    aside.push(format!(".part-{}", uuid::Uuid::new_v4().simple()));
    let aside = PathBuf::from(aside);
    // SQLite fills an empty file, and keeps its mode.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).map_err(failed)?;
    let made = copy(from, &aside).and_then(|()| look(&aside, to)).and_then(|found| {
        File::open(&aside).and_then(|file| file.sync_all()).map_err(failed)?;
        // Unlike a rename this replaces nothing.
        fs::hard_link(&aside, to).map_err(failed)?;
        Ok(found)
    });
    let removed = fs::remove_file(&aside).map_err(failed);
    let found = made?;
    removed?;
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(found)
}

/// In one read transaction, which sees one moment and holds up no writer.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let name = to.to_str().ok_or_else(|| {
        Error::new(ErrorCode::InvalidParams, format!("the name {} is not text", to.display()))
    })?;
    super::schema::open(from)?.execute("VACUUM INTO ?1", [name])?;
    Ok(())
}

/// Reads all of it.
fn look(copy: &Path, to: &Path) -> Result<StoreBackup> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(copy, flags)?;
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        return Err(Error::new(ErrorCode::Corrupt, format!("the copy of the store is damaged: {said}")));
    }
    let count = |table: &str| {
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))
    };
    let mut rows = BTreeMap::new();
    for table in Table::ALL {
        rows.insert(table.as_str(), count(table.as_str())?.unsigned_abs());
    }
    let newest: Option<i64> = connection.query_row("SELECT max(seq) FROM events", [], |row| row.get(0))?;
    let bytes = fs::metadata(copy).map_err(|e| Error::from_io("can't look at a backup", e))?.len();
    let newest_event = newest.unwrap_or_default().unsigned_abs();
    Ok(StoreBackup { path: to.to_owned(), bytes, rows, newest_event })
}
