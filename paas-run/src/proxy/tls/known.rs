//! Who is to hear of hosts, and which hosts a certificate is for.

use std::sync::{Arc, PoisonError, RwLock};

use paas_core::DomainName;
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::Certificates;

/// The certificates that the listeners of a proxy use.
#[derive(Debug, Default)]
pub(in super::super) struct Known(RwLock<Vec<Arc<dyn Certificates>>>);

impl Known {
    /// These hear of hosts from now on; of those that there are they are told by the caller.
    pub(in super::super) fn add(&self, certificates: &Arc<dyn Certificates>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(certificates));
    }

    /// Hosts have come and gone.
    pub(in super::super) fn routed(&self, hosts: &[(DomainName, bool)]) {
        for certificates in self.all() {
            for (host, is) in hosts {
                certificates.routed(host, *is);
            }
        }
    }

    /// What an authority is to be answered that asks by HTTP for this token.
    pub(in super::super) async fn token(&self, token: &str) -> Option<String> {
        for certificates in self.all() {
            if let Some(answer) = certificates.token(token).await {
                return Some(answer);
            }
        }
        None
    }

    fn all(&self) -> Vec<Arc<dyn Certificates>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether a certificate is for this host, which may be a wildcard.
pub(super) fn covers(key: &CertifiedKey, host: &str) -> bool {
    // Any name right below a wildcard is covered where the wildcard is.
    let name = host.strip_prefix("*.").map(|parent| format!("any-name-right-below-it.{parent}"));
    let (Some(first), Ok(name)) = (key.cert.first(), ServerName::try_from(name.as_deref().unwrap_or(host)))
    else {
        return false;
    };
    ParsedCertificate::try_from(first).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}
