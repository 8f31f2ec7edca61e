//! From an app's route to a connection with one of its backends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::access::Record;
use super::backend::Upstream;
use super::fault::Fault;
use super::pool::{Pool, Pooled};
use super::route::Refused;
use super::{ProxyConfig, Shared};

/// A kind of connection to backends.
pub(super) trait Way: Pooled + Sized + Send {
    /// Where idle ones are.
    fn pool(upstream: &Upstream) -> &Pool<Self>;

    fn open(address: SocketAddr, config: &ProxyConfig) -> impl Future<Output = Result<Self, Fault>> + Send;
}

/// The first and the longest pause between two looks at backends that all refuse connections.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(250));

impl Shared {
    /// Claims a backend and gets a connection to it.
    pub(super) async fn reach<W: Way>(&self, record: &mut Record, pooled: bool) -> Result<W, Fault> {
        let mut attempts = 0;
        let mut last = None;
        let mut pause = PAUSES.0;
        loop {
            let now = Instant::now();
            if !self.trust.holds(now) {
                let left = self.config.trust_timeout.saturating_sub(record.began.elapsed());
                if !self.trust.regained(left).await {
                    return Err(Fault::Platform);
                }
                continue;
            }
            let claim = match record.route.claim(now) {
                Ok(claim) => claim,
                Err(Refused::Nobody(fault)) => return Err(fault),
                Err(Refused::NobodyYet) => {
                    let left = self.config.boot_timeout.saturating_sub(record.began.elapsed());
                    let served = tokio::time::timeout(left, record.route.served()).await;
                    served.map_err(|_| Fault::BootTimeout)?;
                    continue;
                }
                Err(Refused::AllQuarantined(left)) => {
                    if let Some(fault) = last {
                        return Err(fault);
                    }
                    if record.began.elapsed() >= self.config.connect_budget {
                        return Err(Fault::Platform);
                    }
                    // Others saw that nobody listens. New routes may come any moment: look often.
                    tokio::time::sleep(left.min(pause)).await;
                    pause = PAUSES.1.min(pause * 2);
                    continue;
                }
            };
            let upstream = Arc::clone(&claim.upstream);
            record.claimed(claim);
            if pooled && let Some(connection) = W::pool(&upstream).take(now) {
                record.connected(Duration::ZERO, now);
                return Ok(connection);
            }
            match W::open(upstream.backend.address, &self.config).await {
                Ok(connection) => {
                    upstream.trust();
                    let connected = Instant::now();
                    record.connected(connected - now, connected);
                    return Ok(connection);
                }
                Err(fault) => {
                    let failed = Instant::now();
                    record.unconnected(failed - now);
                    upstream.quarantine(failed, self.config.quarantine);
                    // One that was removed meanwhile says nothing about those that are there now.
                    attempts += usize::from(!upstream.is_retired());
                    if attempts >= self.config.connect_attempts.min(record.route.backends()).max(1) {
                        return Err(fault);
                    }
                    last = Some(fault).filter(|_| attempts > 0);
                }
            }
        }
    }
}
