//! Who orders: one proxy at a time, and what it does when.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use paas_core::{
    Cancel, Certificate, CertificateFailure, CertificateOrigin, DomainName, Error, ErrorCode, OwnerId, Result,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::stored::HostStatus;
use super::order::{Issued, Shown};
use super::{Inner, schedule};

/// So long nobody else orders. A proxy that died is followed by another after it.
const LEASE: Duration = Duration::from_secs(60);
/// How long one order may take.
const PATIENCE: Duration = Duration::from_secs(150);
/// How often it is looked what is due, if nothing happens.
const LOOK: Duration = Duration::from_secs(10);
/// How long a certificate is kept after its end that no route needs any more.
const KEEP: TimeDelta = TimeDelta::days(30);
/// How often a result is written down again, if the store is away.
const TRIES: u32 = 8;

/// What is due for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// A certificate.
    Order,
    /// The question when to renew it.
    Ask,
    /// Its end.
    Forget,
}

/// Writes down what is wanted, and orders what is due while it has the right to, until it is cancelled.
pub(super) async fn lead(inner: &Arc<Inner>, cancel: &Cancel) {
    let owner = OwnerId::new().to_string();
    let mut changes = inner.stored.changes();
    let mut leads: Option<Instant> = None;
    let mut asked: Option<Instant> = None;
    let (mut orders, mut under_way) = (JoinSet::new(), BTreeSet::new());
    let mut recent = VecDeque::new();
    loop {
        changes.mark_unchanged();
        inner.write_down().await;
        if asked.is_none_or(|asked| asked.elapsed() > LEASE / 4) {
            let now = Instant::now();
            let led = inner.stored.shelf().lead(&owner, LEASE).await;
            let led =
                led.inspect_err(|error| tracing::warn!(error = %error, "can't tell who orders certificates"));
            (asked, leads) = (Some(now), led.is_ok_and(|leads| leads).then(|| now + LEASE / 2));
        }
        if leads.is_some_and(|until| Instant::now() < until) {
            let now = inner.stored.shelf().clock().now();
            for (host, work) in inner.due(now, &under_way, &mut recent) {
                under_way.insert(host.clone());
                let (inner, owner) = (Arc::clone(inner), owner.clone());
                orders.spawn(async move {
                    inner.carry_out(&host, work, &owner).await;
                    host
                });
            }
        }
        tokio::select! {
            _ = cancel.cancelled() => break,
            Some(done) = orders.join_next() => {
                match done {
                    Ok(host) => drop(under_way.remove(&host)),
                    // Which one it was nobody knows; those that are still under way don't begin twice before they end.
                    Err(error) => tracing::error!(error = %error, "an order of a certificate ended in a panic"),
                }
                if orders.is_empty() {
                    under_way.clear();
                }
            }
            () = inner.news.notified() => {}
            Ok(()) = changes.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    orders.shutdown().await;
    if let Err(error) = inner.stored.shelf().resign(&owner).await {
        tracing::debug!(error = %error, "another proxy orders certificates once our lease has ended");
    }
}

impl Inner {
    /// What was asked for becomes rows.
    async fn write_down(&self) {
        let asked = std::mem::take(&mut *self.asked());
        for (domain, wanted) in asked {
            let shelf = self.stored.shelf();
            let written = async {
                if wanted {
                    let certificate = Certificate::wanted(
                        domain.clone(),
                        CertificateOrigin::Authority,
                        shelf.clock().now(),
                    );
                    shelf.put(&certificate, "wanted", None).await?;
                } else if shelf.get(&domain).await?.is_some_and(|known| known.held.is_none()) {
                    shelf.remove(&domain).await?;
                }
                self.stored.look(&domain).await
            };
            match written.await {
                // Another proxy was faster.
                Err(error) if error.code() == ErrorCode::Conflict => {}
                Err(error) => {
                    tracing::warn!(host = %domain, error = %error, "can't write down that a certificate is wanted; trying again");
                    self.asked().entry(domain).or_insert(wanted);
                }
                Ok(()) => {}
            }
        }
    }

    /// What is due now, as far as the authority may be asked for it.
    fn due(
        &self,
        now: DateTime<Utc>,
        under_way: &BTreeSet<String>,
        recent: &mut VecDeque<DateTime<Utc>>,
    ) -> Vec<(String, Work)> {
        if self.pause.until().is_some_and(|until| now < until) {
            return Vec::new();
        }
        while recent.front().is_some_and(|begun| *begun + TimeDelta::hours(1) <= now) {
            recent.pop_front();
        }
        let room = self.options.at_once.saturating_sub(under_way.len());
        let mut orders = self.options.per_hour.saturating_sub(recent.len());
        let mut due = self.stored.all_of(|status| {
            if under_way.contains(&status.host) {
                return None;
            }
            self.work(status, now)
        });
        // Who has none waits for it.
        due.sort_by_key(|(status, work)| (*work != Work::Order, status.until.is_some(), status.next));
        due.retain(|(_, work)| {
            let goes = *work != Work::Order || orders > 0;
            orders -= usize::from(goes && *work == Work::Order);
            goes
        });
        due.truncate(room);
        for (_, work) in &due {
            if *work == Work::Order {
                recent.push_back(now);
            }
        }
        due.into_iter().map(|(status, work)| (status.host, work)).collect()
    }

    fn work(&self, status: &HostStatus, now: DateTime<Utc>) -> Option<Work> {
        if status.origin != CertificateOrigin::Authority {
            return None;
        }
        if !self.is_ours(&status.host) {
            return status.until.is_some_and(|until| until + KEEP < now).then_some(Work::Forget);
        }
        if status.next.is_some_and(|next| next <= now) {
            return Some(Work::Order);
        }
        status.ask.is_some_and(|ask| ask <= now).then_some(Work::Ask)
    }

    async fn carry_out(&self, host: &str, work: Work, owner: &str) {
        let Ok(domain) = DomainName::new(host) else { return };
        let done = match work {
            Work::Order => self.order(&domain, owner).await,
            Work::Ask => self.ask_when(&domain, owner).await,
            Work::Forget => self.stored.shelf().remove(&domain).await,
        };
        let looked = match done {
            Ok(()) => self.stored.look(&domain).await,
            Err(error) => Err(error),
        };
        if let Err(error) = looked {
            tracing::warn!(host, error = %error, "what became of a certificate can't be written down");
        }
    }

    async fn order(&self, domain: &DomainName, owner: &str) -> Result<()> {
        let Some(before) = self.stored.shelf().get(domain).await? else { return Ok(()) };
        let mut shown = Vec::new();
        let got = tokio::time::timeout(PATIENCE, self.obtain(&before, &mut shown)).await;
        self.hide(shown).await;
        let late = || Error::new(ErrorCode::Timeout, "the authority did not answer in time");
        let got = got.unwrap_or_else(|_elapsed| Err(late()));
        let when = match &got {
            Ok(issued) => self.renewal(domain, issued).await,
            Err(_) => (None, None),
        };
        self.change(domain, owner, |certificate, now| match &got {
            Ok(issued) => {
                let dates = (issued.from, issued.until);
                self.stored.shelf().hold(certificate, issued.chain.clone(), issued.key.as_bytes(), dates)?;
                let own = || schedule::renewal(domain.as_str(), issued.from, issued.until);
                certificate.next = Some(when.0.unwrap_or_else(own));
                certificate.ask = when.1;
                tracing::info!(host = %domain, until = %issued.until, "a host has a new certificate");
                Ok(format!("issued, holds until {}", issued.until.format("%Y-%m-%d")))
            }
            Err(error) => {
                let failure =
                    CertificateFailure::after(certificate.failure.as_ref(), error.message(), now);
                let next = schedule::retry(domain.as_str(), failure.tries, now);
                let next = self.pause.until().map_or(next, |until| next.max(until));
                tracing::warn!(host = %domain, error = %error, next = %next, "a host gets no certificate; it is tried again");
                let what = format!("refused: {}; tried again at {}", failure.why, next.format("%Y-%m-%d %H:%M UTC"));
                certificate.failure = Some(failure);
                certificate.next = Some(next);
                Ok(what)
            }
        })
        .await
    }

    /// Asks the authority when it wants a certificate renewed.
    async fn ask_when(&self, domain: &DomainName, owner: &str) -> Result<()> {
        let Some(before) = self.stored.shelf().get(domain).await? else { return Ok(()) };
        let Some(issued) = before.held.as_ref().map(Issued::from_held) else { return Ok(()) };
        let (next, ask) = self.renewal(domain, &issued).await;
        self.change(domain, owner, |certificate, now| {
            // One that can't say so now is asked again, and what it said last holds.
            certificate.ask = Some(ask.unwrap_or_else(|| schedule::ask(now, LOOK * 360)));
            certificate.next = next.or(certificate.next);
            Ok("its authority was asked when to renew it".to_owned())
        })
        .await
    }

    /// Changes a host's row, as who orders. What the authority gave must not be lost: it counts them.
    async fn change(
        &self,
        domain: &DomainName,
        owner: &str,
        change: impl Fn(&mut Certificate, DateTime<Utc>) -> Result<String>,
    ) -> Result<()> {
        let shelf = self.stored.shelf();
        let mut pause = Duration::from_millis(50);
        for tries in 1.. {
            let changed = async {
                // Its owner may have brought one or taken the host away meanwhile.
                let Some(mut certificate) = shelf.get(domain).await? else { return Ok(()) };
                if certificate.origin != CertificateOrigin::Authority {
                    return Ok(());
                }
                let what = change(&mut certificate, shelf.clock().now())?;
                shelf.put(&certificate, &what, Some(owner)).await
            };
            match changed.await {
                Err(error) if error.code() != ErrorCode::LeaseLost && tries < TRIES => {
                    tracing::debug!(host = %domain, error = %error, "a certificate is written down again");
                }
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Ok(())
    }

    async fn hide(&self, shown: Vec<Shown>) {
        for shown in shown {
            let hidden = match &shown {
                Shown::OnShelf(asked) => self.stored.shelf().hide(asked).await,
                Shown::InDns { provider, name, text } => provider.clear_txt(name, text).await,
            };
            if let Err(error) = hidden {
                tracing::warn!(error = %error, "what was shown to the authority stays visible; it harms nobody");
            }
        }
    }
}
