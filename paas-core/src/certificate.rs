//! Certificates of hosts, as all proxies on one store share them.
//!
//! ```text
//! CertificateShelf: a row for each host (chain, sealed key, when the next one is ordered, why the last order failed)
//!     put: row + event, one transaction ──> every proxy reads the event and takes the certificate over
//! ```
//!
//! What is on the shelf is checked by whoever puts it there; the shelf keeps it, and keeps keys secret.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::engine::{Ledger, decode, encode};
use crate::store::{Expect, ListQuery, Row, Store, Table, Transaction, Write};
use crate::vault::Sealed;
use crate::{Clock, DomainName, Error, ErrorCode, EventKind, Result, Vault};

/// Rows of [`Table::Platform`] below these parents.
const PARENT: &str = "certificate";
const CHALLENGE: &str = "certificate-challenge";
const ACCOUNT: &str = "certificate-account";

/// Whoever holds this lease orders certificates.
const LEASE: &str = "certificates";

/// How many events are read at once.
const PAGE: usize = 500;

/// How it stands with a host's certificate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Certificate {
    /// The host; `*.example.com` is for all names directly below it.
    pub domain: DomainName,
    /// Where it comes from.
    pub origin: CertificateOrigin,
    /// Since when somebody wants one.
    pub since: DateTime<Utc>,
    /// What is served.
    pub held: Option<HeldCertificate>,
    /// When one is ordered; `None` where nobody but its owner brings one.
    pub next: Option<DateTime<Utc>>,
    /// When the authority is asked again when it wants this one renewed (RFC 9773).
    #[serde(default)]
    pub ask: Option<DateTime<Utc>>,
    /// What went wrong since the last one was issued.
    pub failure: Option<CertificateFailure>,
    /// The row's revision; 0 where there is none yet.
    #[serde(skip)]
    pub rev: u64,
}

impl Certificate {
    /// None yet, and wanted.
    pub fn wanted(domain: DomainName, origin: CertificateOrigin, now: DateTime<Utc>) -> Self {
        let next = (origin == CertificateOrigin::Authority).then_some(now);
        Self { domain, origin, since: now, held: None, next, ask: None, failure: None, rev: 0 }
    }
}

/// Where a certificate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CertificateOrigin {
    /// Ordered from an authority, and renewed.
    Authority,
    /// Brought by its owner, who brings the next one too.
    Owner,
}

/// A certificate with its chain. The key is sealed: [`CertificateShelf::key`] opens it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HeldCertificate {
    /// In PEM, the host's own first.
    pub chain: String,
    /// From when on it holds.
    pub from: DateTime<Utc>,
    /// Until when.
    pub until: DateTime<Utc>,
    key: Sealed,
}

/// Why a host gets no certificate, or none after the one it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CertificateFailure {
    /// What went wrong the last time, and what to do about it.
    pub why: String,
    /// Since when it fails.
    pub since: DateTime<Utc>,
    /// How often it was tried since then.
    pub tries: u32,
}

impl CertificateFailure {
    /// It failed once more, after these.
    pub fn after(before: Option<&Self>, why: impl Into<String>, now: DateTime<Utc>) -> Self {
        let (since, tries) = before.map_or((now, 0), |before| (before.since, before.tries));
        Self { why: why.into(), since, tries: tries.saturating_add(1) }
    }
}

/// Keeps certificates in a store. Clones are the same.
#[derive(Clone)]
pub struct CertificateShelf {
    ledger: Ledger,
    vault: Arc<Vault>,
}

impl CertificateShelf {
    /// The shelf of this store, whose secrets this vault opens; [`Vault::unlock`] it before, unless an engine did.
    pub fn new(store: Arc<dyn Store>, vault: Arc<Vault>, clock: Arc<dyn Clock>) -> Self {
        Self { ledger: Ledger { store, clock }, vault }
    }

    /// The time by which it goes.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.ledger.clock
    }

    /// A host's.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn get(&self, domain: &DomainName) -> Result<Option<Certificate>> {
        let row = self.ledger.store.get(Table::Platform, &key(PARENT, domain.as_str())).await?;
        row.map(|row| read(&row)).transpose()
    }

    /// Those of all hosts, by name.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn all(&self) -> Result<Vec<Certificate>> {
        let rows = self.ledger.store.list(Table::Platform, &ListQuery::of(PARENT)).await?;
        rows.iter().map(read).collect()
    }

    /// Makes a certificate what is served for the host from now on.
    ///
    /// # Errors
    /// When the vault is locked.
    pub fn hold(
        &self,
        certificate: &mut Certificate,
        chain: String,
        key: &[u8],
        (from, until): (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<()> {
        let key = self.vault.platform()?.seal(&sealed_as(&certificate.domain), key)?;
        certificate.held = Some(HeldCertificate { chain, from, until, key });
        certificate.failure = None;
        Ok(())
    }

    /// The key of what is held, as it was given.
    ///
    /// # Errors
    /// `not_found` where nothing is held; `wrong_key` when another platform's vault sealed it.
    pub fn key(&self, certificate: &Certificate) -> Result<Zeroizing<Vec<u8>>> {
        let domain = &certificate.domain;
        let none = || Error::new(ErrorCode::NotFound, format!("{domain} has no certificate yet"));
        let held = certificate.held.as_ref().ok_or_else(none)?;
        self.vault.platform()?.open(&sealed_as(domain), &held.key)
    }

    /// Writes a host's row, unless it was changed since it was read, and tells every proxy; `what` tells people.
    ///
    /// # Errors
    /// `conflict` when it was changed meanwhile; `lease_lost` when it is written as `leader` who is none any more.
    pub async fn put(&self, certificate: &Certificate, what: &str, leader: Option<&str>) -> Result<()> {
        let expect = if certificate.rev == 0 { Expect::Absent } else { Expect::Rev(certificate.rev) };
        let name = key(PARENT, certificate.domain.as_str());
        let write = Write::put(Table::Platform, name, PARENT, expect, encode(certificate)?);
        self.commit(&certificate.domain, write, what, leader).await
    }

    /// Forgets a host's, and tells every proxy.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn remove(&self, domain: &DomainName) -> Result<()> {
        let write = Write::delete(Table::Platform, key(PARENT, domain.as_str()), Expect::Any);
        self.commit(domain, write, "removed", None).await
    }

    async fn commit(
        &self,
        domain: &DomainName,
        write: Write,
        what: &str,
        leader: Option<&str>,
    ) -> Result<()> {
        let owner = self.ledger.domain(domain).await?.map(|owner| owner.value.app);
        let changed = EventKind::CertificateChanged { domain: domain.clone(), what: what.to_owned() };
        let mut tx = Transaction::new().write(write);
        tx.lease = leader.map(|leader| (LEASE.to_owned(), leader.to_owned()));
        Ledger::note(&mut tx, &self.ledger.event(owner.as_ref(), None, changed))?;
        self.ledger.store.commit(tx).await.map(drop)
    }

    /// The place of the newest event, to read on from.
    ///
    /// # Errors
    /// When the store can't be reached.
    pub async fn place(&self) -> Result<u64> {
        self.ledger.store.commit(Transaction::new()).await
    }

    /// Whose certificates changed after this place, and the place to go on from.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn changed_after(&self, mut place: u64) -> Result<(BTreeSet<DomainName>, u64)> {
        let mut changed = BTreeSet::new();
        loop {
            let events = self.ledger.events(place, None, PAGE).await?;
            place = events.last().map_or(place, |event| event.seq);
            let more = events.len() == PAGE;
            changed.extend(events.into_iter().filter_map(|event| match event.kind {
                EventKind::CertificateChanged { domain, .. } => Some(domain),
                _ => None,
            }));
            if !more {
                return Ok((changed, place));
            }
        }
    }

    /// Wakes up after changes of anything in the store: a hint to ask [`CertificateShelf::changed_after`].
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.ledger.store.changes()
    }

    /// Takes or keeps the right to order certificates for this long; false while somebody else has it.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn lead(&self, owner: &str, ttl: Duration) -> Result<bool> {
        self.ledger.store.lease(LEASE, owner, ttl).await
    }

    /// Gives that right back.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn resign(&self, owner: &str) -> Result<()> {
        self.ledger.store.unlease(LEASE, owner).await
    }

    /// Writes down what an authority that asks for this is to be answered, by whichever proxy it reaches.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn show(&self, asked: &str, answer: &str) -> Result<()> {
        let write =
            Write::put(Table::Platform, key(CHALLENGE, asked), CHALLENGE, Expect::Any, encode(&answer)?);
        self.ledger.store.commit(Transaction::new().write(write)).await.map(drop)
    }

    /// What an authority is to be answered.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn shown(&self, asked: &str) -> Result<Option<String>> {
        let row = self.ledger.store.get(Table::Platform, &key(CHALLENGE, asked)).await?;
        row.map(|row| decode(&row, "the challenge")).transpose()
    }

    /// The authority has seen it.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn hide(&self, asked: &str) -> Result<()> {
        let write = Write::delete(Table::Platform, key(CHALLENGE, asked), Expect::Any);
        self.ledger.store.commit(Transaction::new().write(write)).await.map(drop)
    }

    /// The account at this authority, where there is one.
    ///
    /// # Errors
    /// When the store can't be read; `corrupt`, `wrong_key`.
    pub async fn account<T: DeserializeOwned>(&self, authority: &str) -> Result<Option<T>> {
        let name = key(ACCOUNT, authority);
        let Some(row) = self.ledger.store.get(Table::Platform, &name).await? else { return Ok(None) };
        let sealed: Sealed = decode(&row, "the account")?;
        let opened = self.vault.platform()?.open(&name, &sealed)?;
        serde_json::from_slice(&opened).map(Some).map_err(|_| {
            // Without the cause, which could show the key.
            Error::new(ErrorCode::Corrupt, format!("the stored account at {authority} can't be read"))
        })
    }

    /// Keeps the account at this authority, sealed.
    ///
    /// # Errors
    /// `exists` when somebody else has kept one meanwhile: that one counts.
    pub async fn put_account<T: Serialize + Sync>(&self, authority: &str, account: &T) -> Result<()> {
        let name = key(ACCOUNT, authority);
        let text = Zeroizing::new(encode(account)?);
        let sealed = self.vault.platform()?.seal(&name, text.as_bytes())?;
        let write = Write::put(Table::Platform, name, ACCOUNT, Expect::Absent, encode(&sealed)?);
        match self.ledger.store.commit(Transaction::new().write(write)).await {
            Err(error) if error.code() == ErrorCode::Conflict => {
                Err(Error::new(ErrorCode::Exists, format!("there is an account at {authority} already")))
            }
            done => done.map(drop),
        }
    }
}

impl fmt::Debug for CertificateShelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateShelf").field("store", &self.ledger.store).finish_non_exhaustive()
    }
}

fn key(parent: &str, name: &str) -> String {
    format!("{parent}/{name}")
}

fn sealed_as(domain: &DomainName) -> String {
    key(PARENT, domain.as_str())
}

fn read(row: &Row) -> Result<Certificate> {
    Ok(Certificate { rev: row.rev, ..decode(row, "the certificate")? })
}

#[cfg(test)]
mod tests;
