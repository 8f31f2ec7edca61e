//! Certificates of a public authority, by ACME (RFC 8555).
//!
//! ```text
//! a handshake for a host of a route ─ has none ──> asked ──> order ──> shelf (a file) ──> the next handshake
//!                                                   ^  renewed at two thirds of its life
//! ```
//!
//! That a host is ours is shown by TLS-ALPN-01 (RFC 8737): the authority connects to port 443 of the host and is answered
//! by the same listener that users reach, so nothing else has to be set up.

mod beside;
mod order;
mod schedule;
mod shelf;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use instant_acme::{Account, LetsEncrypt};
use paas_core::{Cancel, Clock, DomainName, Error, Result};
use rustls::sign::CertifiedKey;
use tokio::sync::{Notify, OnceCell};
use tokio::task::JoinSet;

use self::schedule::Standing;
use self::shelf::{Kept, Shelf};
use super::Certificates;

/// How many orders are under way at most.
const AT_ONCE: usize = 4;
/// How long one order may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked what is due, if nobody asks.
const LOOK: Duration = Duration::from_secs(60);
/// How many hosts may wait for their first certificate.
const WAITING: usize = 1000;

/// Where certificates come from, and where they are kept.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AcmeOptions {
    /// The authority's directory. Whoever uses it agrees to its terms.
    pub directory: String,
    /// Whom the authority may write to: `mailto:me@example.com`.
    pub contact: Option<String>,
    /// Holds the account and a file for each host, with mode 0600.
    pub folder: PathBuf,
    /// The certificate that the directory's own HTTPS is believed by, in PEM, for an authority of your own.
    pub trusted: Option<PathBuf>,
}

impl AcmeOptions {
    /// Let's Encrypt, and this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let directory = LetsEncrypt::Production.url().to_owned();
        Self { directory, contact: None, folder: folder.into(), trusted: None }
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
}

/// How it stands with a host's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostStatus {
    /// The host.
    pub host: String,
    /// Until when the certificate that is served holds.
    pub until: Option<DateTime<Utc>>,
    /// When the next one is ordered.
    pub next: DateTime<Utc>,
    /// Why the last order failed.
    pub failure: Option<String>,
}

/// Certificates of a public authority. Clones are the same.
///
/// A host of a route gets its certificate when the first client asks for it: that handshake fails, and seconds later one
/// succeeds; [`Acme::want`] orders it before anybody comes. What failed is tried again after a minute and then ever more
/// rarely, up to a day. Wildcards can't be had this way.
#[derive(Clone)]
pub struct Acme(Arc<Inner>);

struct Inner {
    options: AcmeOptions,
    clock: Arc<dyn Clock>,
    shelf: Shelf,
    account: OnceCell<Account>,
    served: papaya::HashMap<Box<str>, Arc<CertifiedKey>>,
    /// What shows that a host is ours, while its order is under way.
    challenges: papaya::HashMap<Box<str>, Arc<CertifiedKey>>,
    hosts: Mutex<BTreeMap<String, Standing>>,
    asked: Notify,
}

impl Acme {
    /// Opens the folder, with the certificates that are there. Nothing is asked of the authority yet.
    ///
    /// # Errors
    /// When the folder can't be read or written. A certificate that can't be read is ordered anew.
    pub fn open(options: AcmeOptions, clock: Arc<dyn Clock>) -> Result<Self> {
        let shelf = Shelf::open(&options.folder)?;
        let inner = Inner {
            options,
            clock,
            shelf,
            account: OnceCell::new(),
            served: papaya::HashMap::new(),
            challenges: papaya::HashMap::new(),
            hosts: Mutex::default(),
            asked: Notify::new(),
        };
        for (host, kept) in inner.shelf.all()? {
            inner.take(&host, kept);
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Orders a certificate for this host, unless there is one, and keeps it renewed.
    pub fn want(&self, host: &DomainName) {
        self.0.want(host.as_str());
    }

    /// These for public names, and those of `others` for names that no public authority knows.
    pub fn beside(self, others: Arc<dyn Certificates>) -> impl Certificates {
        beside::Beside { acme: self, others }
    }

    /// How it stands with each host.
    pub fn status(&self) -> Vec<HostStatus> {
        let status = |(host, standing): (&String, &Standing)| HostStatus {
            host: host.clone(),
            until: standing.until,
            next: standing.next,
            failure: standing.failure.clone(),
        };
        self.0.hosts().iter().map(status).collect()
    }

    /// Orders and renews until it is cancelled.
    pub async fn run(&self, cancel: Cancel) {
        let mut orders = JoinSet::new();
        loop {
            let now = self.0.clock.now();
            for host in self.0.begin(now, AT_ONCE.saturating_sub(orders.len())) {
                let inner = Arc::clone(&self.0);
                orders.spawn(async move { inner.order(&host).await });
            }
            let next = self.0.next(now);
            tokio::select! {
                _ = cancel.cancelled() => return,
                Some(_) = orders.join_next() => {}
                () = self.0.asked.notified() => {}
                () = tokio::time::sleep(next) => {}
            }
        }
    }
}

impl Certificates for Acme {
    fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.0.served.pin().get(host).map(Arc::clone)
    }

    fn missing(&self, host: &str) {
        self.0.want(host);
    }

    fn challenge(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.0.challenges.pin().get(host).map(Arc::clone)
    }
}

impl Inner {
    fn hosts(&self) -> MutexGuard<'_, BTreeMap<String, Standing>> {
        // Each change is one step: a panic elsewhere leaves the map whole.
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(&self, host: &str) {
        let mut hosts = self.hosts();
        let have_none = |standing: &&Standing| standing.until.is_none();
        if hosts.contains_key(host) || hosts.values().filter(have_none).count() >= WAITING {
            return;
        }
        hosts.insert(host.to_owned(), Standing::wanted(self.clock.now()));
        self.asked.notify_one();
    }

    /// What is due, and now under way.
    fn begin(&self, now: DateTime<Utc>, most: usize) -> Vec<String> {
        let mut hosts = self.hosts();
        let due = hosts.iter_mut().filter(|(_, standing)| !standing.under_way && standing.next <= now);
        due.take(most)
            .map(|(host, standing)| {
                standing.under_way = true;
                host.clone()
            })
            .collect()
    }

    /// How long to rest.
    fn next(&self, now: DateTime<Utc>) -> Duration {
        let hosts = self.hosts();
        let waiting = hosts.values().filter(|standing| !standing.under_way && standing.next > now);
        let next = waiting.filter_map(|standing| (standing.next - now).to_std().ok()).min();
        next.unwrap_or(LOOK).min(LOOK)
    }

    /// Serves what is kept.
    fn take(&self, host: &str, kept: Kept) {
        let standing = Standing::has(host, kept.from, kept.until);
        self.served.pin().insert(host.into(), Arc::new(kept.key));
        self.hosts().insert(host.to_owned(), standing);
    }

    async fn order(&self, host: &str) {
        let got = tokio::time::timeout(PATIENCE, self.obtain(host)).await;
        self.challenges.pin().remove(host);
        let late = || Error::new(paas_core::ErrorCode::Timeout, "the authority did not answer in time");
        match got.unwrap_or_else(|_elapsed| Err(late())) {
            Ok(kept) => {
                tracing::info!(host, until = %kept.until, "a host has a new certificate");
                self.take(host, kept);
            }
            Err(error) => {
                tracing::warn!(host, error = %error, "a host gets no certificate; it is tried again");
                let now = self.clock.now();
                if let Some(standing) = self.hosts().get_mut(host) {
                    standing.failed(now, host, error.to_string());
                }
            }
        }
    }

    /// The account, which is made at first use.
    async fn account(&self) -> Result<&Account> {
        self.account.get_or_try_init(|| order::account(&self.options, &self.shelf)).await
    }
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("options", &self.0.options).finish_non_exhaustive()
    }
}
