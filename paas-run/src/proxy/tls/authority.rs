//! A certificate authority of this machine's own, so that HTTPS works before anybody owns a domain.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Datelike, Days, Utc};
use paas_core::{Clock, Error, ErrorCode, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::sign::CertifiedKey;

use super::{Certificates, cannot_sign, keep, signing};

/// The certificate for people to trust, and the key that only we read.
const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";

const AUTHORITY_DAYS: u64 = 3650;
/// Half of what browsers take at most from an authority that a person installed.
const HOST_DAYS: u64 = 398 / 2;
/// How long before its end a host's certificate is made anew.
const RENEW_DAYS: u64 = 30;

/// Makes certificates for the hosts of one platform, in development.
///
/// Browsers and tools believe them where a person has told them to trust [`Authority::certificate`]. Whoever reads the key
/// beside it can pass for any site to those who do, so it is its owner's alone.
#[derive(Clone)]
pub struct Authority {
    issuer: Arc<Issuer<'static, KeyPair>>,
    certificate: PathBuf,
    clock: Arc<dyn Clock>,
    made: Arc<papaya::HashMap<Box<str>, Made>>,
}

/// A host's certificate, and from when on a new one is made.
#[derive(Clone)]
struct Made {
    key: Arc<CertifiedKey>,
    renew: DateTime<Utc>,
}

impl Authority {
    /// The one of this folder, which is made at first use: `ca.pem`, and `ca.key` with mode 0600.
    ///
    /// # Errors
    /// When the folder can't be read or written; `corrupt` when what is in it is no key.
    pub fn open(folder: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let failed =
            |e| Error::from_io(format!("can't keep the certificate authority in {}", folder.display()), e);
        DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
        let key = match fs::read_to_string(folder.join(KEY)) {
            Ok(text) => KeyPair::from_pem(&text).map_err(|e| {
                let path = folder.join(KEY);
                let what = format!(
                    "{} holds no key: put the right one back, or remove it and trust the new authority that is made then",
                    path.display()
                );
                Error::new(ErrorCode::Corrupt, what).with_source(e)
            })?,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(cannot_sign)?;
                keep(folder, KEY, 0o600, &key.serialize_pem()).map_err(failed)?;
                // It belongs to another key.
                match fs::remove_file(folder.join(CERTIFICATE)) {
                    Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
                    _ => key,
                }
            }
            Err(e) => return Err(failed(e)),
        };
        let (params, certificate) = (of_authority(clock.now()), folder.join(CERTIFICATE));
        if !certificate.try_exists().map_err(failed)? {
            let pem = params.self_signed(&key).map_err(cannot_sign)?.pem();
            keep(folder, CERTIFICATE, 0o644, &pem).map_err(failed)?;
        }
        let issuer = Arc::new(Issuer::new(params, key));
        Ok(Self { issuer, certificate, clock, made: Arc::default() })
    }

    /// The file to trust, in PEM.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    fn make(&self, host: &str, now: DateTime<Utc>) -> Result<CertifiedKey> {
        let key = KeyPair::generate().map_err(cannot_sign)?;
        let mut params = CertificateParams::new([host.to_owned()]).map_err(cannot_sign)?;
        params.distinguished_name.push(DnType::CommonName, host);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        lasts(&mut params, now, HOST_DAYS);
        let certificate = params.signed_by(&key, &self.issuer).map_err(cannot_sign)?;
        Ok(CertifiedKey::new(vec![certificate.der().clone()], signing(&key)?))
    }
}

impl Certificates for Authority {
    fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let (now, made) = (self.clock.now(), self.made.pin());
        if let Some(known) = made.get(host).filter(|known| now < known.renew) {
            return Some(Arc::clone(&known.key));
        }
        match self.make(host, now) {
            Ok(key) => {
                let renew = now + Days::new(HOST_DAYS - RENEW_DAYS);
                let new = Made { key: Arc::new(key), renew };
                made.insert(host.into(), new.clone());
                Some(new.key)
            }
            Err(error) => {
                tracing::error!(error = %error, host, "no certificate can be made for a host");
                None
            }
        }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The same name for ever: certificates of hosts refer to it.
fn of_authority(now: DateTime<Utc>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "paas development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    lasts(&mut params, now, AUTHORITY_DAYS);
    params
}

/// From yesterday on: no time zone makes it one of tomorrow.
fn lasts(params: &mut CertificateParams, now: DateTime<Utc>, days: u64) {
    let at = |time: DateTime<Utc>| {
        let [month, day] = [time.month(), time.day()].map(|n| u8::try_from(n).unwrap_or(1));
        date_time_ymd(time.year(), month, day)
    };
    params.not_before = at(now - Days::new(1));
    params.not_after = at(now + Days::new(days));
}
