//! What is kept: the account, and a file for each host with its certificates and key.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use instant_acme::AccountCredentials;
use paas_core::{DomainName, Error, ErrorCode, Result};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::parse_x509_certificate;

use super::super::keep;

const ACCOUNT: &str = "account.json";
const ENDING: &str = ".pem";

/// A certificate with its chain and key.
pub(super) struct Kept {
    pub(super) key: CertifiedKey,
    pub(super) from: DateTime<Utc>,
    pub(super) until: DateTime<Utc>,
}

impl Kept {
    /// Reads what is in a host's file.
    pub(super) fn read(pem: &str) -> Result<Self> {
        let bad = |what: &str| Error::new(ErrorCode::Corrupt, format!("a certificate can't be read: {what}"));
        let chain =
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<std::result::Result<Vec<_>, _>>();
        let chain = chain.map_err(|e| bad(&e.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| bad(&e.to_string()))?;
        let key = any_supported_type(&key).map_err(|e| bad(&e.to_string()))?;
        let first = chain.first().ok_or_else(|| bad("it is empty"))?;
        let (_, parsed) = parse_x509_certificate(first).map_err(|e| bad(&e.to_string()))?;
        let at = |seconds| DateTime::from_timestamp(seconds, 0).ok_or_else(|| bad("its dates"));
        let validity = parsed.validity();
        let (from, until) = (at(validity.not_before.timestamp())?, at(validity.not_after.timestamp())?);
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|e| bad(&e.to_string()))?;
        Ok(Self { key, from, until })
    }
}

/// The folder.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|e| Error::from_io(format!("can't keep certificates in {}", folder.display()), e))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The certificates of all hosts that have one which can be read.
    pub(super) fn all(&self) -> Result<Vec<(String, Kept)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|e| self.failed(e))? {
            let name = entry.map_err(|e| self.failed(e))?.file_name().to_string_lossy().into_owned();
            let Some(host) = name.strip_suffix(ENDING).filter(|host| DomainName::new(*host).is_ok()) else {
                continue;
            };
            let text = fs::read_to_string(self.folder.join(&name)).map_err(|e| self.failed(e))?;
            match Kept::read(&text) {
                Ok(kept) => all.push((host.to_owned(), kept)),
                Err(error) => tracing::warn!(host, error = %error, "a host's certificate is ordered anew"),
            }
        }
        Ok(all)
    }

    pub(super) fn put(&self, host: &DomainName, pem: &str) -> Result<()> {
        keep(&self.folder, &format!("{host}{ENDING}"), 0o600, pem).map_err(|e| self.failed(e))
    }

    pub(super) fn account(&self) -> Result<Option<AccountCredentials>> {
        let path = self.folder.join(ACCOUNT);
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| self.failed(e))?,
        };
        let read = serde_json::from_str(&text).map_err(|e| {
            let what = format!("{} holds no account: put the right one back, or remove it", path.display());
            Error::new(ErrorCode::Corrupt, what).with_source(e)
        });
        read.map(Some)
    }

    pub(super) fn put_account(&self, account: &AccountCredentials) -> Result<()> {
        let text = serde_json::to_string(account)
            .map_err(|e| Error::new(ErrorCode::Internal, "an account can't be written").with_source(e))?;
        keep(&self.folder, ACCOUNT, 0o600, &text).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::from_io(format!("can't keep certificates in {}", self.folder.display()), error)
    }
}
