//! What a new server is told once it answers.

use chrono::{Days, NaiveDate};
use paas_core::{Error, ErrorCode, Result, Retry};
use postgres_protocol::escape::escape_literal;
use tokio_postgres::Client;

use super::record::Record;
use crate::postgres::error;
use crate::postgres::managed::tls;

/// Refuses an image of another version than was asked for: what it made would be read by no other.
pub(super) async fn check_version(client: &Client, record: &Record) -> Result<()> {
    let query = "SELECT current_setting('server_version_num')::int / 10000";
    let row = client.query_one(query, &[]).await;
    let found: i32 = row.map_err(|e| error::sql("can't ask the database server what it is", e))?.get(0);
    if found == i32::from(record.version) {
        return Ok(());
    }
    let what = format!(
        "the image that is set up for PostgreSQL {} is one of PostgreSQL {found}: name another one",
        record.version
    );
    Err(Error::new(ErrorCode::InvalidParams, what).with_retry(Retry::Never))
}

/// Nobody but the platform connects to the databases of PostgreSQL itself.
pub(super) async fn close(client: &Client) -> Result<()> {
    let close = "REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC";
    client.batch_execute(close).await.map_err(|e| error::sql("can't close the server's own databases", e))
}

/// Gives the server a certificate, so that it speaks TLS to apps that ask for it, as Heroku's guides tell them to; and
/// another one before it ends. Says when that is; `None` where the server was built without TLS.
///
/// The key goes into the server's own folder by the server's own hand: nobody here knows whose user it is.
pub(super) async fn certify(
    client: &Client,
    today: NaiveDate,
    until: Option<NaiveDate>,
) -> Result<Option<NaiveDate>> {
    let failed = |e| error::sql("can't give the database server a certificate", e);
    if until.is_some_and(|until| today <= until) {
        return Ok(until);
    }
    let library = client.query_one("SELECT current_setting('ssl_library', true)", &[]).await;
    if library.map_err(failed)?.get::<_, Option<String>>(0).is_none_or(|library| library.is_empty()) {
        return Ok(None);
    }
    let both = tls::make(today).map_err(|e| Error::from_io("can't make a certificate", e))?;
    let lines = escape_literal(&both);
    let put = format!(
        "COPY (SELECT unnest(string_to_array({lines}, E'\\n')))
         TO PROGRAM 'umask 077; cat > tls.pem.new && mv tls.pem.new tls.pem'"
    );
    for statement in [
        // A key is nothing for a log, also where it can't be written.
        "SET log_statement = 'none'",
        "SET log_min_error_statement = 'panic'",
        &put,
        "ALTER SYSTEM SET ssl_cert_file = 'tls.pem'",
        "ALTER SYSTEM SET ssl_key_file = 'tls.pem'",
        "ALTER SYSTEM SET ssl_min_protocol_version = 'TLSv1.2'",
        "ALTER SYSTEM SET ssl = on",
        "SELECT pg_reload_conf()",
    ] {
        client.batch_execute(statement).await.map_err(failed)?;
    }
    Ok(Some(today + Days::new(tls::VALID_DAYS - tls::RENEW_DAYS)))
}
