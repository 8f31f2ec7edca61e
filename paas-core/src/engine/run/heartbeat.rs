//! Keeps the lease of a workflow that is carried out here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Running;
use crate::engine::Inner;
use crate::store::Fence;
use crate::{CancelReason, ErrorCode};

/// Prolongs the lease, and learns of a cancel that another engine wrote.
pub(super) async fn heartbeat(inner: Arc<Inner>, fence: Fence, rev: Arc<AtomicU64>, running: Running) {
    let ttl = inner.options.lease;
    let mut good_until = tokio::time::Instant::now() + ttl;
    loop {
        tokio::time::sleep(ttl / 3).await;
        // The lease counts from when the renewal was sent: it may have been written long before it is answered.
        let sent = tokio::time::Instant::now();
        match inner.store.renew(&fence, ttl).await {
            Ok(seen) => {
                good_until = sent + ttl;
                if seen > rev.load(Ordering::Acquire) {
                    look_for_cancel(&inner, fence, &running).await;
                }
            }
            Err(error) if error.code() == ErrorCode::LeaseLost => {
                return running.stop.cancel(CancelReason::LeaseLost);
            }
            Err(error) => {
                tracing::warn!(error = %error, "the lease can't be renewed");
                if tokio::time::Instant::now() >= good_until {
                    return running.stop.cancel(CancelReason::LeaseLost);
                }
            }
        }
    }
}

async fn look_for_cancel(inner: &Inner, fence: Fence, running: &Running) {
    match inner.ledger.find_workflow(fence.workflow).await {
        Ok(Some((stored, _))) => running.heed(&stored.value),
        Ok(None) => {}
        Err(error) => tracing::warn!(error = %error, "can't look whether the workflow was cancelled"),
    }
}
