//! The certificate that apps meet when they ask for TLS, as Heroku's guides tell them to (`sslmode=require`).
//!
//! It is self-signed, so it proves nothing to an app: on loopback there is nobody in between.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

use super::account::Account;
use super::binaries::Binaries;
use super::{folder, setup};

/// Certificate and key in one file: a start that is cut off can't leave one without the other.
const FILE: &str = "tls.pem";

/// What the server is told where it can speak TLS: TLS 1.0 and 1.1 are deprecated (RFC 8996).
pub(super) const SETTINGS: &str = "
ssl = on
ssl_cert_file = 'tls.pem'
ssl_key_file = 'tls.pem'
ssl_min_protocol_version = 'TLSv1.2'
";

/// Ten years; a server is started again long before the last two of them.
pub(in crate::postgres) const VALID_DAYS: u64 = 3650;
pub(in crate::postgres) const RENEW_DAYS: u64 = 730;

/// Stands before the certificate, where readers of PEM skip it: saves a parser of certificates.
const RENEW: &str = "Made by paas, which replaces it at a start after ";

/// Whether this PostgreSQL was built with TLS: with `ssl = on` one without doesn't start.
pub(super) async fn spoken(
    binaries: &Binaries,
    server: &fs::File,
    account: Option<Account>,
) -> io::Result<bool> {
    let mut ask = setup::command(&binaries.folder.join("postgres"), server, account)?;
    ask.args(["-C", "ssl_library", "-D"]).arg(format!("{}/data", setup::SERVER)).stderr(Stdio::null());
    let said = ask.stdout(Stdio::piped()).output().await?;
    // It also fails on settings that keep the server from starting: the start will say what they are.
    Ok(said.status.success() && !said.stdout.trim_ascii().is_empty())
}

/// Makes the certificate, unless there is one that lasts and that only the server's user can read.
pub(super) fn ensure(data: &Path, account: Option<Account>, now: DateTime<Utc>) -> io::Result<()> {
    let file = data.join(FILE);
    let today = now.date_naive();
    if keeps(&file, today)? {
        return Ok(());
    }
    folder::write(&file, make(today)?.as_bytes(), account)
}

fn keeps(file: &Path, today: NaiveDate) -> io::Result<bool> {
    let mut open = match fs::File::open(file) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    if open.metadata()?.permissions().mode() & 0o077 != 0 {
        return Ok(false);
    }
    let mut text = Vec::new();
    open.read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let until = text.lines().next().and_then(|line| line.strip_prefix(RENEW)?.parse::<NaiveDate>().ok());
    Ok(until.is_some_and(|until| today <= until))
}

/// Certificate and key, as PEM.
pub(in crate::postgres) fn make(today: NaiveDate) -> io::Result<String> {
    let failed = |e: rcgen::Error| io::Error::other(e);
    let at = |date: NaiveDate| {
        let [month, day] = [date.month(), date.day()].map(|n| u8::try_from(n).unwrap_or(1));
        date_time_ymd(date.year(), month, day)
    };
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    // From yesterday on: no time zone makes it one of tomorrow.
    params.not_before = at(today - Days::new(1));
    params.not_after = at(today + Days::new(VALID_DAYS));
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?.pem();
    let until = today + Days::new(VALID_DAYS - RENEW_DAYS);
    Ok(format!("{RENEW}{until}\n{certificate}{}", key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(days: u64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + Days::new(20_000 + days)
    }

    #[test]
    fn a_certificate_is_kept_until_it_nears_its_end_and_then_replaced() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join(FILE);
        let at = |day| {
            ensure(data.path(), None, days(day)).unwrap();
            fs::read_to_string(&file).unwrap()
        };
        let first = at(0);
        assert_eq!(at(VALID_DAYS - RENEW_DAYS), first);
        let second = at(VALID_DAYS - RENEW_DAYS + 1);
        assert_ne!(second, first);
        assert_eq!(at(VALID_DAYS), second);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn one_that_is_damaged_or_that_others_could_read_is_replaced() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join(FILE);
        fs::write(&file, b"\xff").unwrap();
        ensure(data.path(), None, days(0)).unwrap();
        let first = fs::read_to_string(&file).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        ensure(data.path(), None, days(0)).unwrap();
        assert_ne!(fs::read_to_string(&file).unwrap(), first);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
