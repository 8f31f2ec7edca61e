//! Public names, and others.

use std::sync::Arc;

use async_trait::async_trait;
use paas_core::DomainName;
use rustls::sign::CertifiedKey;

use super::super::Certificates;
use super::Acme;

/// Names that are nobody's in the public (RFC 6761, 6762, 7686, 8375, 9476; ICANN's `internal`).
const SPECIAL: &[&str] =
    &["localhost", "test", "invalid", "example", "local", "onion", "alt", "internal", "home.arpa"];

/// Asks the one or the other by the name.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) acme: Acme,
    pub(super) others: Arc<dyn Certificates>,
}

#[async_trait]
impl Certificates for Beside {
    fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        if is_public(host) { self.acme.find(host) } else { self.others.find(host) }
    }

    fn missing(&self, host: &str) {
        if is_public(host) { self.acme.missing(host) } else { self.others.missing(host) }
    }

    fn routed(&self, host: &DomainName, is: bool) {
        if is_public(host.as_str()) { self.acme.routed(host, is) } else { self.others.routed(host, is) }
    }

    async fn challenge(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.acme.challenge(host).await
    }

    async fn token(&self, token: &str) -> Option<String> {
        self.acme.token(token).await
    }
}

fn is_public(host: &str) -> bool {
    let is_below =
        |name: &&str| host.strip_suffix(*name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    host.contains('.') && !SPECIAL.iter().any(is_below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_may_be_somebodys_are_public() {
        for host in ["example.com", "hello.example.com", "mylocalhost.com", "xn--bcher-kva.ch"] {
            assert!(is_public(host), "{host}");
        }
        for host in ["localhost", "hello.localhost", "hello.test", "a.b.internal", "nas", "nas.home.arpa"] {
            assert!(!is_public(host), "{host}");
        }
    }
}
