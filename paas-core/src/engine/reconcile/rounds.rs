//! Looks at everything from time to time: the hint is quick, the round is the truth.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::looks::Pass;
use super::{Alone, spawn_pass};
use crate::Result;
use crate::engine::Inner;

/// So many times as long as a round took, the engine rests until the next one: with very many apps rounds get rarer,
/// and never take more than a fifth of what the engine can do.
const REST: u32 = 4;

/// Looks at everything at once, and then from time to time until the engine shuts down.
pub(super) async fn rounds(inner: &Arc<Inner>, slots: &Arc<Semaphore>) {
    let lease = lease(inner);
    let every = inner.options.poll * 30;
    // Whatever ran here when the last engine ended is looked after at once, whoever makes the rounds.
    let mut must = true;
    while !inner.shutdown.is_cancelled() {
        let began = Instant::now();
        let held = hold(inner, &lease, every * 2).await;
        let (pass, alone) = match held {
            true => (Pass::Whole, Alone::ByRound),
            false if must => (Pass::Whole, Alone::ByLease),
            // Its own router it fills itself.
            false => (Pass::Routes, Alone::ByLease),
        };
        everything(inner, slots, pass, alone).await;
        // Who has trouble leaves the rounds to an engine that may have none, and goes on trying all the same.
        must = inner.looks.is_any_neglected();
        let rest = every.max(began.elapsed() * REST);
        if must {
            leave(inner, &lease).await;
        } else if held {
            hold(inner, &lease, rest * 2).await;
        }
        tokio::select! {
            _ = inner.shutdown.cancelled() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
    leave(inner, &lease).await;
}

/// One for those engines that reach the same processes.
fn lease(inner: &Inner) -> String {
    match inner.runtime.node() {
        Some(node) => format!("round/{node}"),
        None => "round".to_owned(),
    }
}

/// Whether this engine makes the rounds, for this time at least.
async fn hold(inner: &Inner, lease: &str, time: Duration) -> bool {
    let held = inner.store.lease(lease, &inner.owner.to_string(), time).await;
    held.unwrap_or_else(|error| {
        tracing::warn!(error = %error, "can't tell whether another engine looks at all apps");
        false
    })
}

async fn leave(inner: &Inner, lease: &str) {
    if let Err(error) = inner.store.unlease(lease, &inner.owner.to_string()).await {
        tracing::debug!(error = %error, "the other engines learn by our lease that this one looks at apps no longer");
    }
}

async fn everything(inner: &Arc<Inner>, slots: &Arc<Semaphore>, pass: Pass, alone: Alone) {
    let names = async {
        let routed = inner.ledger.all_routes().await?;
        let running = inner.look("the look for apps that run", inner.runtime.apps()).await?;
        Ok(routed.into_iter().map(|routes| routes.app).chain(running).collect::<BTreeSet<_>>())
    };
    let names: Result<_> = names.await;
    let names = match names {
        Ok(names) => names,
        Err(error) => return tracing::warn!(error = %error, "can't look at all apps; trying again"),
    };
    inner.looks.keep_only(&names);
    for name in names {
        if inner.shutdown.is_cancelled() {
            return;
        }
        spawn_pass(inner, slots, name, pass, alone).await;
    }
}
