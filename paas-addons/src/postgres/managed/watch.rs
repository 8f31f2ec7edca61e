//! Starts the server again when it died, and keeps its log within bounds.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::Shared;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const LOG_CHECK: Duration = Duration::from_secs(60);

/// Goes on until it is dropped; the server stays.
#[derive(Debug)]
pub(super) struct Watch(JoinHandle<()>);

impl Watch {
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        Self(tokio::spawn(watch(shared)))
    }

    /// Whether it has ended, such as with the runtime that it was on.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        until_it_ends(&shared).await;
        if shared.is_stopped() {
            return;
        }
        pause = if begun.elapsed() > LONGEST_PAUSE { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tracing::warn!(folder = %shared.folder.root().display(), "the database server ended; it is started again");
        while let Err(error) = Shared::start(&shared).await {
            tracing::error!(error = %error, output = ?error.output(), "the database server can't be started");
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if shared.is_stopped() {
                return;
            }
        }
        if begun.elapsed() < pause {
            sleep(pause).await;
        }
    }
}

async fn until_it_ends(shared: &Shared) {
    let found = match shared.postmaster().await {
        Ok(Some(postmaster)) => postmaster,
        Ok(None) => return,
        Err(error) => {
            tracing::error!(error = %error, "the database server can't be watched");
            return sleep(LONGEST_PAUSE).await;
        }
    };
    loop {
        tokio::select! {
            ended = found.ended() => {
                if let Err(error) = ended {
                    tracing::error!(error = %error, "the database server can't be watched");
                }
                return;
            }
            () = sleep(LOG_CHECK) => {
                if let Err(error) = shared.folder.trim_log() {
                    tracing::warn!(error = %error, "the database server's log can't be kept within its bound");
                }
            }
        }
    }
}
