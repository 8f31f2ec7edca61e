//! A certificate with its chain and key, read and checked.

use std::fmt;

use super::super::known::covers;
use chrono::{DateTime, Utc};
use paas_core::{DomainName, Error, ErrorCode, Result};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::parse_x509_certificate;

/// What TLS is spoken with, and between which times.
pub(in super::super) struct Checked {
    pub(in super::super) key: CertifiedKey,
    pub(in super::super) from: DateTime<Utc>,
    pub(in super::super) until: DateTime<Utc>,
}

impl Checked {
    /// Reads a chain, the host's own certificate first, and the key that belongs to it.
    pub(in super::super) fn read(chain: &[u8], key: &[u8]) -> Result<Self> {
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(chain).collect::<std::result::Result<_, _>>().map_err(bad)?;
        let first = certificates.first().ok_or_else(|| bad("there is no certificate in it"))?;
        // Without the cause, which could show the key.
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|_| bad("the key is not a private key in PEM"))?;
        let key = any_supported_type(&key).map_err(|_| bad("the key is of a kind that TLS doesn't use"))?;
        let (_, parsed) = parse_x509_certificate(first).map_err(bad)?;
        let at = |seconds| DateTime::from_timestamp(seconds, 0).ok_or_else(|| bad("its dates"));
        let validity = parsed.validity();
        let (from, until) = (at(validity.not_before.timestamp())?, at(validity.not_after.timestamp())?);
        let key = CertifiedKey::new(certificates, key);
        key.keys_match().map_err(|_| bad("the key belongs to another certificate"))?;
        Ok(Self { key, from, until })
    }

    /// Whether it can be served for this host now.
    pub(in super::super) fn check(&self, domain: &DomainName, now: DateTime<Utc>) -> Result<()> {
        if !covers(&self.key, domain.as_str()) {
            return Err(bad(format_args!("it is not for {domain}")));
        }
        if now >= self.until {
            return Err(bad(format_args!("it has expired on {}", self.until.format("%Y-%m-%d"))));
        }
        if now < self.from {
            return Err(bad(format_args!("it doesn't hold before {}", self.from.format("%Y-%m-%d"))));
        }
        // Clients are sent the chain as it is, and most of them don't look for what is missing.
        for pair in self.key.cert.windows(2) {
            let [(_, below), (_, above)] = [
                parse_x509_certificate(&pair[0]).map_err(bad)?,
                parse_x509_certificate(&pair[1]).map_err(bad)?,
            ];
            if below.issuer() != above.subject() {
                let (issuer, next) = (below.issuer(), above.subject());
                return Err(bad(format_args!(
                    "each certificate of the chain must be followed by that of its issuer: {issuer} is missing before {next}"
                )));
            }
        }
        Ok(())
    }
}

fn bad(what: impl fmt::Display) -> Error {
    Error::new(ErrorCode::InvalidParams, format!("the certificate can't be used: {what}"))
}
