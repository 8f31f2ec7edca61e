//! Logs for a short time in memory: for tests and for platforms that keep them elsewhere.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use crate::{AppName, LogLine, LogQuery, LogSource, Logs, Result};

/// The newest lines of each app, in memory.
#[derive(Debug, Clone)]
pub struct MemoryLogs {
    lines: Arc<Mutex<HashMap<AppName, Kept>>>,
    changed: watch::Sender<()>,
    bound: usize,
}

#[derive(Debug, Default)]
struct Kept {
    /// How many were dropped from the front.
    dropped: u64,
    lines: VecDeque<LogLine>,
}

impl Default for MemoryLogs {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryLogs {
    /// The newest 10,000 lines of each app.
    pub fn new() -> Self {
        Self::bounded(10_000)
    }

    /// The newest `bound` lines of each app.
    pub fn bounded(bound: usize) -> Self {
        Self { lines: Arc::default(), changed: watch::Sender::new(()), bound: bound.max(1) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AppName, Kept>> {
        // Lines are pushed whole, so a panic elsewhere leaves nothing half-done.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lines from this place on, and the place after them.
    fn from(&self, app: &AppName, place: u64, query: &LogQuery) -> (Vec<LogLine>, u64) {
        let all = self.lock();
        let Some(kept) = all.get(app) else { return (Vec::new(), place) };
        let mut lines = Vec::new();
        if place < kept.dropped
            && place > 0
            && let Some(first) = kept.lines.front()
        {
            let text = format!("{} lines are missing here: the reader was too slow", kept.dropped - place);
            lines.push(LogLine::new(first.at, LogSource::Platform, "logs", text));
        }
        let skip = usize::try_from(place.saturating_sub(kept.dropped)).unwrap_or(usize::MAX);
        lines.extend(kept.lines.iter().skip(skip).filter(|line| query.wants(line)).cloned());
        (lines, kept.dropped + kept.lines.len() as u64)
    }
}

#[async_trait]
impl Logs for MemoryLogs {
    fn append(&self, app: &AppName, line: LogLine) {
        {
            let mut all = self.lock();
            let kept = all.entry(app.clone()).or_default();
            kept.lines.push_back(line);
            if kept.lines.len() > self.bound {
                kept.lines.pop_front();
                kept.dropped += 1;
            }
        }
        self.changed.send_replace(());
    }

    async fn read(&self, app: &AppName, query: LogQuery) -> Result<BoxStream<'static, LogLine>> {
        let mut changed = self.changed.subscribe();
        changed.mark_unchanged();
        let (mut lines, place) = self.from(app, 0, &query);
        if let Some(last) = query.last {
            lines.drain(..lines.len().saturating_sub(last));
        }
        let there = stream::iter(lines);
        if !query.follow {
            return Ok(there.boxed());
        }
        let start = (self.clone(), app.clone(), query, place, changed);
        let coming = stream::unfold(start, |(logs, app, query, place, mut changed)| async move {
            let (lines, place) = loop {
                // The sender lives as long as `logs`, so this ends only with a change.
                changed.changed().await.ok()?;
                let (lines, next) = logs.from(&app, place, &query);
                if next != place {
                    break (lines, next);
                }
            };
            Some((stream::iter(lines), (logs, app, query, place, changed)))
        });
        Ok(there.chain(coming.flatten()).boxed())
    }

    async fn forget(&self, app: &AppName) -> Result<()> {
        self.lock().remove(app);
        Ok(())
    }
}
