//! Certificates of a public authority, by ACME (RFC 8555).
//!
//! ```text
//! a route names a host ─┐                 ┌─ one proxy of all that share the store (lead) ─┐
//! a handshake finds none┴─> wanted (row) ─┤ order: show that the host is ours ──> issued ──┼─> shelf ──> every proxy
//!                                         └─ failed: why, since when, next try ────────────┘
//!                             ^  renewed when the authority says so (RFC 9773), else at two thirds of its life
//! ```
//!
//! That a host is ours is shown by TLS-ALPN-01 (RFC 8737), where the authority connects to port 443 of the host and is
//! answered by the same listener that users reach; where that fails by HTTP-01, on port 80; for wildcards by DNS-01, which
//! takes a [`DnsProvider`]. Whichever proxy the authority reaches answers.

mod beside;
mod client;
mod dns;
mod lead;
mod order;
mod schedule;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use instant_acme::{Account, LetsEncrypt};
use paas_core::{Cancel, CertificateShelf, DomainName, Result};
use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, OnceCell};

use self::client::Pause;
pub use self::dns::DnsProvider;
use super::Certificates;
pub use super::stored::HostStatus;
use super::stored::StoredCertificates;

/// How many hosts may wait to be written down.
const WAITING: usize = 10_000;

/// Where certificates come from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AcmeOptions {
    /// The authority's directory. Whoever uses it agrees to its terms.
    pub directory: String,
    /// Whom the authority may write to: `mailto:me@example.com`.
    pub contact: Option<String>,
    /// The certificate that the directory's own HTTPS is believed by, in PEM, for an authority of your own.
    pub trusted: Option<PathBuf>,
    /// How a host is shown to be ours: the first at the first try, the next one after a failure, and so on.
    pub proofs: Vec<Proof>,
    /// Who keeps the DNS records; without, no wildcard gets a certificate.
    pub dns: Option<Arc<dyn DnsProvider>>,
    /// How many orders are under way at a time, at most: 4.
    pub at_once: usize,
    /// How many are begun in an hour, at most: 90, since Let's Encrypt takes 300 in three hours of one account.
    pub per_hour: usize,
}

/// How a host is shown to be ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Proof {
    /// On port 443, in the handshake (RFC 8737).
    TlsAlpn01,
    /// On port 80, by a path of its own, which is answered before any redirect and for apps that aren't up (RFC 8555
    /// section 8.3).
    Http01,
}

impl AcmeOptions {
    /// Let's Encrypt.
    pub fn new() -> Self {
        Self {
            directory: LetsEncrypt::Production.url().to_owned(),
            contact: None,
            trusted: None,
            proofs: vec![Proof::TlsAlpn01, Proof::Http01],
            dns: None,
            at_once: 4,
            per_hour: 90,
        }
    }

    /// Another authority, such as `https://acme-staging-v02.api.letsencrypt.org/directory`, whose certificates nobody
    /// trusts and which has no limits to speak of.
    #[must_use]
    pub fn from(mut self, directory: impl Into<String>) -> Self {
        self.directory = directory.into();
        self
    }

    /// Whom the authority may write to when something is wrong: `me@example.com`.
    #[must_use]
    pub fn contact(mut self, address: &str) -> Self {
        self.contact = Some(format!("mailto:{address}"));
        self
    }

    /// The certificate that the directory's own HTTPS is believed by, in PEM.
    #[must_use]
    pub fn trusting(mut self, certificate: impl Into<PathBuf>) -> Self {
        self.trusted = Some(certificate.into());
        self
    }

    /// In this way alone.
    #[must_use]
    pub fn by(mut self, proof: Proof) -> Self {
        self.proofs = vec![proof];
        self
    }

    /// Wildcards, too, with records kept by this provider.
    #[must_use]
    pub fn with_dns(mut self, provider: Arc<dyn DnsProvider>) -> Self {
        self.dns = Some(provider);
        self
    }
}

impl Default for AcmeOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Certificates of a public authority, for any number of proxies on one store. Clones are the same.
///
/// A host gets its certificate once a route names it, or at the first handshake for it; [`Acme::want`] orders it before
/// that. A host that a stored wildcard covers needs none of its own. What failed is tried again after a minute and then ever
/// more rarely, up to a day; [`Acme::status`] says why.
#[derive(Clone)]
pub struct Acme(Arc<Inner>);

struct Inner {
    options: AcmeOptions,
    stored: StoredCertificates,
    account: OnceCell<Account>,
    pause: Pause,
    /// The hosts that this proxy has routes for, and those that somebody wants.
    ours: papaya::HashMap<Box<str>, ()>,
    /// What is to be written down: wanted, or no longer.
    asked: Mutex<BTreeMap<DomainName, bool>>,
    news: Notify,
}

impl Acme {
    /// Serves what is on the shelf, and orders what is missing once it [runs](Acme::run). Nothing is asked of the authority
    /// yet.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn open(options: AcmeOptions, shelf: CertificateShelf) -> Result<Self> {
        let stored = StoredCertificates::open(shelf).await?;
        let (account, pause) = (OnceCell::new(), Pause::default());
        let (ours, asked, news) = (papaya::HashMap::new(), Mutex::default(), Notify::new());
        Ok(Self(Arc::new(Inner { options, stored, account, pause, ours, asked, news })))
    }

    /// Orders a certificate for this host, unless there is one, and keeps it renewed, also where no route names it.
    pub fn want(&self, host: &DomainName) {
        self.0.ours.pin().insert(host.as_str().into(), ());
        self.0.want(host.as_str());
    }

    /// These for public names, and those of `others` for names that no public authority knows.
    pub fn beside(self, others: Arc<dyn Certificates>) -> impl Certificates {
        beside::Beside { acme: self, others }
    }

    /// How it stands with each host.
    pub fn status(&self) -> Vec<HostStatus> {
        self.0.stored.status()
    }

    /// What it serves from.
    pub fn stored(&self) -> &StoredCertificates {
        &self.0.stored
    }

    /// Follows the store, orders and renews until it is cancelled. Of all proxies on the store one orders at a time.
    pub async fn run(&self, cancel: Cancel) {
        tokio::join!(self.0.stored.follow(&cancel), lead::lead(&self.0, &cancel));
    }
}

impl Inner {
    fn asked(&self) -> MutexGuard<'_, BTreeMap<DomainName, bool>> {
        // Each change is one step: a panic elsewhere leaves the map whole.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, host: &str) {
        let is_orderable = !host.starts_with("*.") || self.options.dns.is_some();
        if is_orderable && self.stored.find(host).is_none() && self.stored.of(host).is_none() {
            self.ask(host, true);
        }
    }

    fn ask(&self, host: &str, wanted: bool) {
        // Whatever a client named has a route, so it is a name.
        let Ok(domain) = DomainName::new(host) else { return };
        let mut asked = self.asked();
        if asked.len() < WAITING {
            asked.insert(domain, wanted);
            self.news.notify_one();
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        self.ours.pin().contains_key(host)
    }
}

#[async_trait]
impl Certificates for Acme {
    fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.0.stored.find(host)
    }

    fn missing(&self, host: &str) {
        self.0.ours.pin().insert(host.into(), ());
        self.0.want(host);
    }

    fn routed(&self, host: &DomainName, is: bool) {
        if is {
            return self.want(host);
        }
        self.0.ours.pin().remove(host.as_str());
        if self.0.stored.of(host.as_str()).is_some_and(|status| status.until.is_none()) {
            self.0.ask(host.as_str(), false);
        }
    }

    async fn challenge(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.0.stored.challenge(host).await
    }

    async fn token(&self, token: &str) -> Option<String> {
        self.0.stored.token(token).await
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("options", &self.0.options).finish_non_exhaustive()
    }
}
