//! Certificates that live in the store, so that any number of proxies serve them.
//!
//! ```text
//! bring (its owner) ─┐
//! order (one proxy) ─┴─> CertificateShelf ──event──> StoredCertificates of every proxy ──> the next handshake
//! ```

mod pem;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use paas_core::{
    Cancel, Certificate, CertificateFailure, CertificateOrigin, CertificateShelf, DomainName, Error,
    ErrorCode, Result,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::sign::CertifiedKey;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

pub(super) use self::pem::Checked;
use super::{Certificates, cannot_sign, signing};

/// How often the store is asked for changes, if it tells of none.
const LOOK: Duration = Duration::from_secs(2);
/// How often all are compared with the store: what was missed is found then.
const COMPARE: Duration = Duration::from_secs(10 * 60);
/// How many of an authority's questions are looked up at once; anybody may ask.
const QUESTIONS: usize = 16;
/// No token of an authority is longer.
const TOKEN: usize = 200;

/// How it stands with a host's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostStatus {
    /// The host.
    pub host: String,
    /// Where its certificates come from.
    pub origin: CertificateOrigin,
    /// Until when the certificate that is served holds.
    pub until: Option<DateTime<Utc>>,
    /// When the next one is ordered.
    pub next: Option<DateTime<Utc>>,
    /// What went wrong since then, and since when.
    pub failure: Option<CertificateFailure>,
    pub(super) ask: Option<DateTime<Utc>>,
    rev: u64,
}

/// The certificates of a [`CertificateShelf`], as one proxy serves them. Clones are the same.
#[derive(Clone)]
pub struct StoredCertificates(Arc<Inner>);

struct Inner {
    shelf: CertificateShelf,
    served: papaya::HashMap<Box<str>, Arc<CertifiedKey>>,
    known: Mutex<BTreeMap<String, HostStatus>>,
    /// The place in the store's events up to which this is so.
    place: Mutex<u64>,
    changed: watch::Sender<u64>,
    questions: Semaphore,
}

impl StoredCertificates {
    /// What is on the shelf now; [`StoredCertificates::follow`] keeps up with it.
    ///
    /// # Errors
    /// When the store can't be read. A certificate that can't be used is told in the log, and left out.
    pub async fn open(shelf: CertificateShelf) -> Result<Self> {
        let inner = Inner {
            shelf,
            served: papaya::HashMap::new(),
            known: Mutex::default(),
            place: Mutex::default(),
            changed: watch::Sender::new(0),
            questions: Semaphore::new(QUESTIONS),
        };
        inner.compare().await?;
        Ok(Self(Arc::new(inner)))
    }

    /// Keeps up with the shelf until it is cancelled.
    pub async fn follow(&self, cancel: &Cancel) {
        let mut hints = self.0.shelf.changes();
        let mut compared = Instant::now();
        loop {
            hints.mark_unchanged();
            let due = compared.elapsed() >= COMPARE;
            let looked = async { if due { self.0.compare().await } else { self.0.catch_up().await } };
            match cancel.guard(looked).await {
                Err(_) => return,
                Ok(Err(error)) => {
                    tracing::warn!(error = %error, "can't follow the certificates of the store; trying again");
                }
                Ok(Ok(())) if due => compared = Instant::now(),
                Ok(Ok(())) => {}
            }
            tokio::select! {
                _ = cancel.cancelled() => return,
                Ok(()) = hints.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// How it stands with each host.
    pub fn status(&self) -> Vec<HostStatus> {
        self.0.known().values().cloned().collect()
    }

    /// Wakes up when it stands otherwise with a host.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// The shelf.
    pub fn shelf(&self) -> &CertificateShelf {
        &self.0.shelf
    }

    /// How it stands with those hosts for which there is something to say.
    pub(super) fn all_of<T>(&self, what: impl Fn(&HostStatus) -> Option<T>) -> Vec<(HostStatus, T)> {
        self.0.known().values().filter_map(|status| Some((status.clone(), what(status)?))).collect()
    }

    /// How it stands with this very host.
    pub(super) fn of(&self, host: &str) -> Option<HostStatus> {
        self.0.known().get(host).cloned()
    }

    /// Looks at a host again now.
    pub(super) async fn look(&self, domain: &DomainName) -> Result<()> {
        self.0.look(domain).await
    }
}

/// Serves a certificate of the owner's own for this host from now on, on every proxy of the store.
///
/// # Errors
/// `invalid_params` when it isn't for the host, has expired, isn't the key's, or its chain has holes; `conflict` when
/// somebody else changed the host's meanwhile.
pub async fn bring(shelf: &CertificateShelf, domain: &DomainName, chain: &str, key: &str) -> Result<()> {
    let now = shelf.clock().now();
    let checked = Checked::read(chain.as_bytes(), key.as_bytes())?;
    checked.check(domain, now)?;
    let mut certificate = Certificate::wanted(domain.clone(), CertificateOrigin::Owner, now);
    certificate.rev = shelf.get(domain).await?.map_or(0, |before| before.rev);
    shelf.hold(&mut certificate, chain.to_owned(), key.as_bytes(), (checked.from, checked.until))?;
    let what = format!("brought by its owner, holds until {}", checked.until.format("%Y-%m-%d"));
    shelf.put(&certificate, &what, None).await
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, HostStatus>> {
        // Each change is one step: a panic elsewhere leaves the map whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> MutexGuard<'_, u64> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn compare(&self) -> Result<()> {
        // Read before the rows, so they are at least as new.
        let place = self.shelf.place().await?;
        let all = self.shelf.all().await?;
        let gone: Vec<String> = {
            let known = self.known();
            known.keys().filter(|host| !all.iter().any(|one| one.domain.as_str() == *host)).cloned().collect()
        };
        for host in gone {
            self.forget(&host);
        }
        for certificate in &all {
            self.take(certificate);
            // Keys are checked, which takes a while for thousands.
            tokio::task::yield_now().await;
        }
        *self.place() = place;
        Ok(())
    }

    async fn catch_up(&self) -> Result<()> {
        let place = *self.place();
        let (changed, place) = self.shelf.changed_after(place).await?;
        for domain in &changed {
            self.look(domain).await?;
        }
        *self.place() = place;
        Ok(())
    }

    async fn look(&self, domain: &DomainName) -> Result<()> {
        match self.shelf.get(domain).await? {
            Some(certificate) => self.take(&certificate),
            None => self.forget(domain.as_str()),
        }
        Ok(())
    }

    fn take(&self, certificate: &Certificate) {
        let host = certificate.domain.as_str();
        if self.known().get(host).is_some_and(|known| known.rev == certificate.rev) {
            return;
        }
        let until = match self.serve(certificate) {
            Ok(until) => until,
            Err(error) => {
                tracing::error!(host, error = %error, "a stored certificate can't be served");
                None
            }
        };
        let status = HostStatus {
            host: host.to_owned(),
            origin: certificate.origin,
            until,
            next: certificate.next,
            failure: certificate.failure.clone(),
            ask: certificate.ask,
            rev: certificate.rev,
        };
        self.known().insert(host.to_owned(), status);
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn serve(&self, certificate: &Certificate) -> Result<Option<DateTime<Utc>>> {
        let Some(held) = &certificate.held else { return Ok(None) };
        let checked = Checked::read(held.chain.as_bytes(), &self.shelf.key(certificate)?)?;
        self.served.pin().insert(certificate.domain.as_str().into(), Arc::new(checked.key));
        Ok(Some(checked.until))
    }

    fn forget(&self, host: &str) {
        self.served.pin().remove(host);
        self.known().remove(host);
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// What an authority is to be answered that asks for this.
    async fn shown(&self, asked: &str) -> Option<String> {
        // Where too many ask at once, authorities ask again.
        let _one = self.questions.try_acquire().ok()?;
        match self.shelf.shown(asked).await {
            Ok(shown) => shown,
            Err(error) => {
                tracing::warn!(error = %error, "can't look up what an authority is to be shown");
                None
            }
        }
    }
}

/// What the shelf calls the question for a host over TLS, and for a token over HTTP.
pub(super) fn by_tls(host: &str) -> String {
    format!("tls-alpn-01/{host}")
}

pub(super) fn by_http(token: &str) -> String {
    format!("http-01/{token}")
}

#[async_trait]
impl Certificates for StoredCertificates {
    fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let served = self.0.served.pin();
        if let Some(key) = served.get(host) {
            return Some(Arc::clone(key));
        }
        let (_, parent) = host.split_once('.')?;
        served.get(format!("*.{parent}").as_str()).map(Arc::clone)
    }

    async fn challenge(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let digest = self.0.shown(&by_tls(host)).await?;
        match answer(host, &digest) {
            Ok(answer) => Some(Arc::new(answer)),
            Err(error) => {
                tracing::error!(host, error = %error, "can't answer an authority");
                None
            }
        }
    }

    async fn token(&self, token: &str) -> Option<String> {
        let is_one = token.len() <= TOKEN
            && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if is_one { self.0.shown(&by_http(token)).await } else { None }
    }
}

/// What the authority gets to see: a certificate that holds the digest (RFC 8737 section 3).
fn answer(host: &str, digest: &str) -> Result<CertifiedKey> {
    let bytes: Option<Vec<u8>> =
        (0..digest.len()).step_by(2).map(|at| u8::from_str_radix(digest.get(at..at + 2)?, 16).ok()).collect();
    let digest = bytes.ok_or_else(|| Error::new(ErrorCode::Corrupt, "a stored challenge can't be read"))?;
    let key = KeyPair::generate().map_err(cannot_sign)?;
    let mut params = CertificateParams::new([host.to_owned()]).map_err(cannot_sign)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
    let certificate = params.self_signed(&key).map_err(cannot_sign)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signing(&key)?))
}

impl fmt::Debug for StoredCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredCertificates").field("shelf", &self.0.shelf).finish_non_exhaustive()
    }
}
