//! Which store this is.
//!
//! A store has an id of its own, made once. Places that belong to one store, such as its content, are labelled with it, so
//! that an engine that was set up with the wrong one notices before it removes what is another's.

use crate::store::{Expect, Store, Table, Transaction, Write};
use crate::{Error, ErrorCode, Result};

/// The row of [`Table::Platform`] that holds it.
const ROW: &str = "store";

/// The store's id, which the first engine gives it.
///
/// # Errors
/// What the store says; `corrupt`.
pub(crate) async fn store_id(store: &dyn Store) -> Result<String> {
    loop {
        if let Some(row) = store.get(Table::Platform, ROW).await? {
            return serde_json::from_str(&row.body).map_err(|e| {
                Error::new(ErrorCode::Corrupt, "the store's own id can't be read").with_source(e)
            });
        }
        let body = serde_json::Value::from(uuid::Uuid::new_v4().to_string()).to_string();
        let write = Write::put(Table::Platform, ROW, "", Expect::Absent, body);
        match store.commit(Transaction::new().write(write)).await {
            // Another engine was faster: its id counts.
            Err(e) if e.code() != ErrorCode::Conflict => return Err(e),
            _ => {}
        }
    }
}
