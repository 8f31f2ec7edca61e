//! Claims work and hands it to tasks: the only way anything is carried out, after a crash too.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Inner;
use super::ledger::{Stored, decode};
use super::run::{Running, run};
use crate::store::{ClaimRequest, Row};
use crate::{CancelReason, Result, Workflow};

/// Claims until the engine shuts down.
pub(crate) async fn dispatch(inner: Arc<Inner>) {
    let slots = Arc::new(Semaphore::new(inner.options.concurrency));
    let mut changes = inner.store.queue_changes();
    let kinds = inner.kinds.keys().cloned().collect();
    let request = ClaimRequest::new(inner.owner, inner.options.lease, kinds);
    loop {
        let slot = tokio::select! {
            biased;
            _ = inner.shutdown.cancelled() => return,
            slot = slots.clone().acquire_owned() => slot,
        };
        let Ok(slot) = slot else { return };
        changes.mark_unchanged();
        // Asked before the claim: what gets due between the two is claimed.
        let pause = pause(&inner).await;
        match inner.store.claim(&request).await {
            Ok(Some(row)) => match begin(&inner, &row) {
                Ok(work) => drop(inner.tasks.spawn(async move {
                    work.await;
                    drop(slot);
                })),
                Err(error) => tracing::error!(error = %error, "a claimed workflow can't be read"),
            },
            Ok(None) => {
                drop(slot);
                tokio::select! {
                    _ = inner.shutdown.cancelled() => return,
                    _ = changes.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
            Err(error) => {
                drop(slot);
                tracing::warn!(error = %error, "can't claim work");
                tokio::select! {
                    _ = inner.shutdown.cancelled() => return,
                    () = tokio::time::sleep(inner.options.poll) => {}
                }
            }
        }
    }
}

fn begin(inner: &Arc<Inner>, row: &Row) -> Result<impl Future<Output = ()> + Send + use<>> {
    let value: Workflow = decode(row, "the workflow")?;
    let queued = row.queue.clone().ok_or_else(|| {
        crate::Error::new(
            crate::ErrorCode::Corrupt,
            format!("the workflow {} has no place in the queue", row.key),
        )
    })?;
    let (inner, id, rev) = (inner.clone(), value.id, row.rev);
    let running = Running::default();
    inner.running().insert(id, running.clone());
    if inner.shutdown.is_cancelled() {
        running.stop.cancel(CancelReason::Shutdown);
    }
    Ok(async move {
        Box::pin(run(inner.clone(), Stored { rev, value }, queued, running)).await;
        inner.running().remove(&id);
    })
}

/// Until something could be due; the poll is the truth, the change notice a hint.
async fn pause(inner: &Inner) -> Duration {
    let now = inner.clock.now();
    match inner.store.next_due().await {
        Ok(Some(at)) => (at - now).to_std().unwrap_or(Duration::from_millis(1)).min(inner.options.poll),
        Ok(None) => inner.options.poll,
        Err(error) => {
            tracing::warn!(error = %error, "can't tell when work is due");
            inner.options.poll
        }
    }
}
