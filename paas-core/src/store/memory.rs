//! A store in memory: for tests, for trying things out, and as the model that other stores are compared with.

mod queue;
mod rows;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use self::queue::{Queue, due};
use self::rows::Rows;
use super::changes::{Change, Changes};
use super::{
    ClaimRequest, EventRow, Fence, ListQuery, QueueState, Queued, Row, Store, Table, Transaction, rules,
    turn_lease,
};
use crate::{Clock, Result};

/// Keeps everything in memory and loses it when dropped. Otherwise it behaves as every [`Store`].
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changes: Changes,
}

impl MemoryStore {
    /// An empty store, whose leases end by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), changes: Changes::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is made in one go after all checks, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> DateTime<Utc> {
        rules::rounded(self.clock.now())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    tables: BTreeMap<Table, Rows>,
    queue: Queue,
    leases: BTreeMap<String, (String, DateTime<Utc>)>,
    events: VecDeque<EventRow>,
    /// How many of the oldest events were forgotten.
    trimmed: u64,
    places_by_subject: BTreeMap<String, Vec<u64>>,
    last_place: u64,
}

impl State {
    fn row(&self, table: Table, key: &str) -> Option<&Row> {
        self.tables.get(&table)?.get(key)
    }

    fn workflow(&self, key: &str) -> Option<&Row> {
        self.row(Table::Workflows, key)
    }

    fn set(&mut self, table: Table, key: &str, row: Option<Row>) {
        let rows = self.tables.entry(table).or_default();
        let new = row.as_ref().and_then(|row| row.queue.clone());
        let old = rows.set(key, row).and_then(|row| row.queue);
        if let Some(old) = old {
            self.queue.remove(&old);
        }
        if let Some(new) = new {
            self.queue.insert(&new, key);
        }
    }

    fn holder(&self, name: &str, now: DateTime<Utc>) -> Option<&str> {
        let (owner, until) = self.leases.get(name)?;
        (*until > now).then_some(owner.as_str())
    }

    fn take(&mut self, name: &str, owner: &str, now: DateTime<Utc>, ttl: Duration) -> bool {
        let mut until = rules::lease_end(now, ttl);
        match self.leases.get(name) {
            Some((other, end)) if *end > now && other != owner => return false,
            Some((other, end)) if other == owner => until = until.max(*end),
            _ => {}
        }
        self.leases.insert(name.to_owned(), (owner.to_owned(), until));
        true
    }

    fn commit(&mut self, transaction: Transaction, now: DateTime<Utc>) -> Result<u64> {
        if let Some(fence) = &transaction.fence {
            rules::check_fence(self.workflow(&fence.workflow.to_string()), fence)?;
        }
        if let Some((name, owner)) = &transaction.lease {
            rules::check_lease(self.holder(name, now), name, owner)?;
        }
        let mut staged: BTreeMap<(Table, String), Option<Row>> = BTreeMap::new();
        let mut last_place = self.last_place;
        for write in transaction.writes {
            let at = (write.table, write.key.clone());
            let old = match staged.get(&at) {
                Some(row) => row.as_ref(),
                None => self.row(write.table, &write.key),
            };
            let new = rules::written(old, write, || {
                last_place += 1;
                Ok(last_place)
            })?;
            staged.insert(at, new);
        }
        for ((table, key), row) in staged {
            self.set(table, &key, row);
        }
        self.last_place = last_place;
        for event in transaction.events {
            let seq = self.newest() + 1;
            self.places_by_subject.entry(event.subject.clone()).or_default().push(seq);
            self.events.push_back(EventRow::new(seq, event.subject, event.body));
        }
        if let Some(place) = transaction.trim {
            self.trim(place);
        }
        Ok(self.newest())
    }

    fn newest(&self) -> u64 {
        self.trimmed + self.events.len() as u64
    }

    fn trim(&mut self, place: u64) {
        while self.trimmed < place && self.events.len() > 1 {
            self.events.pop_front();
            self.trimmed += 1;
        }
        let trimmed = self.trimmed;
        self.places_by_subject.retain(|_, places| {
            places.drain(..places.partition_point(|place| *place <= trimmed));
            !places.is_empty()
        });
    }

    fn claim(&mut self, request: &ClaimRequest, now: DateTime<Utc>) -> Option<Row> {
        self.queue.pass(now);
        let wanted = |key: &str| {
            let Some(queue) = self.workflow(key).and_then(|row| row.queue.as_ref()) else { return false };
            let holder = self.holder(&turn_lease(&queue.entry.subject), now);
            let own = holder.is_none() || holder == queue.entry.turn.map(|turn| turn.to_string()).as_deref();
            // The clock may have been set back.
            own && due(queue) <= now
        };
        let key = self.queue.claimable(&request.kinds, wanted)?;
        let row = self.workflow(&key)?.clone();
        let before = row.queue.clone();
        let row = rules::claimed(row, request, now);
        self.set(Table::Workflows, &key, Some(row.clone()));
        if let Some(Queued { entry, .. }) = before
            && let (QueueState::Queued, Some(turn)) = (entry.state, entry.turn)
        {
            self.take(&turn_lease(&entry.subject), &turn.to_string(), now, request.ttl);
        }
        Some(row)
    }

    fn renew(&mut self, fence: &Fence, ttl: Duration, now: DateTime<Utc>) -> Result<u64> {
        let key = fence.workflow.to_string();
        let row = self.workflow(&key);
        rules::check_fence(row, fence)?;
        let Some(mut row) = row.cloned() else { return Ok(0) };
        if let Some(queue) = &mut row.queue {
            queue.lease_until = queue.lease_until.max(Some(rules::lease_end(now, ttl)));
        }
        let rev = row.rev;
        self.set(Table::Workflows, &key, Some(row));
        Ok(rev)
    }

    fn next_due(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let turns =
            self.leases.range(turn_lease("")..).take_while(|(name, _)| name.starts_with(&turn_lease("")));
        let turn = turns.map(|(_, (_, until))| *until).filter(|until| *until > now).min();
        [self.queue.next_due(now), turn].into_iter().flatten().min()
    }

    fn events(&self, after: u64, subject: Option<&str>, limit: usize) -> Vec<EventRow> {
        let from = |places: &[u64]| places.partition_point(|place| *place <= after);
        let index = |place: u64| usize::try_from(place.saturating_sub(self.trimmed)).unwrap_or(usize::MAX);
        let Some(subject) = subject else {
            return self.events.iter().skip(index(after)).take(limit).cloned().collect();
        };
        let places = self.places_by_subject.get(subject).map_or(&[][..], Vec::as_slice);
        let wanted = places[from(places)..].iter().take(limit);
        wanted.filter_map(|place| self.events.get(index(*place) - 1)).cloned().collect()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn commit(&self, transaction: Transaction) -> Result<u64> {
        let (now, change) = (self.now(), Change::of(&transaction));
        let newest = self.state().commit(transaction, now)?;
        self.changes.tell(change);
        Ok(newest)
    }

    async fn get(&self, table: Table, key: &str) -> Result<Option<Row>> {
        Ok(self.state().row(table, key).cloned())
    }

    async fn list(&self, table: Table, query: &ListQuery) -> Result<Vec<Row>> {
        Ok(self.state().tables.get(&table).map(|rows| rows.list(query)).unwrap_or_default())
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<Row>> {
        let now = self.now();
        Ok(self.state().claim(request, now))
    }

    async fn renew(&self, fence: &Fence, ttl: Duration) -> Result<u64> {
        let now = self.now();
        self.state().renew(fence, ttl, now)
    }

    async fn lease(&self, name: &str, owner: &str, ttl: Duration) -> Result<bool> {
        let now = self.now();
        Ok(self.state().take(name, owner, now, ttl))
    }

    async fn unlease(&self, name: &str, owner: &str) -> Result<()> {
        let mut state = self.state();
        if state.leases.get(name).is_some_and(|(holder, _)| holder == owner) {
            state.leases.remove(name);
            drop(state);
            self.changes.tell(Change::of_lease(name));
        }
        Ok(())
    }

    async fn leased(&self, name: &str) -> Result<Option<String>> {
        let now = self.now();
        Ok(self.state().holder(name, now).map(str::to_owned))
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>> {
        let now = self.now();
        Ok(self.state().next_due(now))
    }

    async fn events(&self, after: u64, subject: Option<&str>, limit: usize) -> Result<Vec<EventRow>> {
        Ok(self.state().events(after, subject, limit))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.rows()
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.changes.queue()
    }
}
