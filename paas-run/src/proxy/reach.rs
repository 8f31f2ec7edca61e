//! From an app's route to a connection with one of its backends.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::access::Record;
use super::backend::{Claim, Upstream};
use super::body::RequestBody;
use super::deadline::Deadline;
use super::fault::Fault;
use super::pool::{Age, Pool, Pooled};
use super::route::Refused;
use super::upstream::Failed;
use super::{ProxyConfig, Shared};

/// A kind of connection to backends.
pub(super) trait Way: Pooled + Sized + Send {
    /// Where idle ones are.
    fn pool(upstream: &Upstream) -> &Pool<Self>;

    fn open(address: SocketAddr, config: &ProxyConfig) -> impl Future<Output = Result<Self, Fault>> + Send;
}

/// One that requests of every kind go by.
pub(super) trait Carrier: Way {
    /// A request has it now; others may share it.
    fn begin(&self, _: &Arc<Upstream>) {}

    fn age(&mut self) -> &mut Age;

    /// When the request on it is late.
    fn deadline(&mut self) -> &mut Deadline;

    /// Reads and writes what can be read and written now.
    fn drive(&mut self, cx: &mut Context<'_>);

    /// Sends the request and waits for the head of the answer. `late` is asked when the deadline has passed, and moves
    /// it or gives up.
    fn send(
        &mut self,
        request: Request<RequestBody>,
        late: impl FnMut() -> Option<Instant> + Send,
    ) -> impl Future<Output = Result<Response<Incoming>, Failed>> + Send;

    /// The answer is through.
    fn end(self, upstream: &Arc<Upstream>);
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
            let claim = match record.route.claim(now, record.wants.as_deref(), false) {
                Ok(claim) => Some(claim),
                Err(Refused::Nobody(fault)) => return Err(fault),
                Err(Refused::Full(most)) => self.turn(record, most).await?,
                Err(Refused::NobodyYet) => {
                    let _held = record.route.gate().enter(self.config.held).ok_or(Fault::Backlog)?;
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
            let Some(claim) = claim else { continue };
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
                Err(Fault::Platform) if record.began.elapsed() < self.config.connect_budget => {
                    // The backend isn't to blame. What idles is given up, and what ends makes room, too.
                    self.pools.shed();
                    record.unclaimed();
                    tokio::time::sleep(pause).await;
                    pause = PAUSES.1.min(pause * 2);
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

    /// Waits among at most so many for a backend that takes another request; `None` when it is to be seen anew who is there.
    async fn turn(&self, record: &Record, most: usize) -> Result<Option<Claim>, Fault> {
        let route = &record.route;
        let _place = route.gate().enter(most).ok_or(Fault::Backlog)?;
        let until = record.began + self.config.first_byte;
        loop {
            // Listening before looking: what happens in between isn't missed.
            let mut freed = pin!(route.gate().freed.notified());
            let mut swapped = pin!(route.swapped().notified());
            freed.as_mut().enable();
            swapped.as_mut().enable();
            match route.claim(Instant::now(), record.wants.as_deref(), true) {
                Ok(claim) => return Ok(Some(claim)),
                Err(Refused::Full(_)) => {}
                Err(_) => return Ok(None),
            }
            tokio::select! {
                () = freed => {}
                () = swapped => {}
                () = tokio::time::sleep_until(until) => return Err(Fault::Backlog),
            }
        }
    }
}
