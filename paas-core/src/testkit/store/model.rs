//! Stores against each other: the same random calls, and every answer compared.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{ManualClock, kind};
use crate::store::{
    ClaimRequest, Expect, Fence, ListQuery, MemoryStore, NewEvent, QueueEntry, QueueState, Store, Table,
    Transaction, Write, turn_lease,
};
use crate::testkit::random::Random;
use crate::{Clock, ErrorCode, OwnerId, Result, TurnId, WorkflowId};

/// Makes `calls` random calls to the store and to a [`MemoryStore`], and compares each answer, and in the end all
/// that is kept. The same seed makes the same calls, but for ids.
///
/// # Panics
/// At a difference, with the seed and the fewest calls that were found to show it.
pub async fn agrees_with_memory<S, F>(make: F, seed: u64, calls: u32)
where
    S: Store,
    F: AsyncFn(Arc<dyn Clock>) -> S,
{
    let both = async |clock: Arc<dyn Clock>| -> Vec<Arc<dyn Store>> {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        vec![memory, Arc::new(make(clock).await)]
    };
    agree(both, seed, calls).await;
}

/// The same for any number of stores, new and empty ones each time that they are asked for: all answer as the first does.
///
/// # Panics
/// As [`agrees_with_memory`].
pub async fn agree<F>(make: F, seed: u64, calls: u32)
where
    F: AsyncFn(Arc<dyn Clock>) -> Vec<Arc<dyn Store>>,
{
    if let Some(difference) = difference(make, seed, calls).await {
        panic!("PAAS_SEED={seed} replays this: {difference}");
    }
}

/// Where stores answered differently.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Difference {
    /// The calls, as few as were found; the last one shows it.
    pub calls: Vec<String>,
    /// What the first store answered.
    pub first: String,
    /// What another one did.
    pub other: String,
    /// Which one.
    pub store: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "after these calls")?;
        for call in &self.calls {
            writeln!(f, "  {call}")?;
        }
        write!(f, "the first store answers\n  {}\nand {}\n  {}", self.first, self.store, self.other)
    }
}

/// As [`agree`], but it tells of a difference instead of panicking.
pub async fn difference<F>(make: F, seed: u64, calls: u32) -> Option<Difference>
where
    F: AsyncFn(Arc<dyn Clock>) -> Vec<Arc<dyn Store>>,
{
    let mut calls = Author::think(seed, calls).await;
    let (mut at, mut found) = replay(&make, &calls).await?;
    calls.truncate(at + 1);
    // Without ever smaller parts of the calls, as long as the stores still differ.
    let (mut part, mut replays) = (calls.len() / 2, 0);
    while part > 0 && replays < MOST_REPLAYS {
        let mut from = 0;
        while from < calls.len() && replays < MOST_REPLAYS {
            let mut fewer = calls.clone();
            fewer.drain(from..(from + part).min(calls.len()));
            replays += 1;
            if let Some(shown) = replay(&make, &fewer).await {
                (at, found) = shown;
                fewer.truncate(at + 1);
                calls = fewer;
            } else {
                from += part;
            }
        }
        part /= 2;
    }
    found.calls = calls.iter().map(|call| format!("{call:?}")).collect();
    Some(found)
}

/// How often calls are made anew to find fewer that show a difference.
const MOST_REPLAYS: u32 = 300;

/// One call of a store, or time that passes.
#[derive(Debug, Clone)]
enum Call {
    Commit(Transaction),
    Claim(ClaimRequest),
    Renew(Fence, Duration),
    Lease(String, String, Duration),
    Unlease(String, String),
    Leased(String),
    NextDue,
    List(Table, ListQuery),
    Events(u64, Option<&'static str>, usize),
    Pass(Duration),
}

/// What a store answers, as text; of errors the code alone.
async fn answer(store: &dyn Store, call: &Call) -> String {
    fn text<T: fmt::Debug>(answer: Result<T>) -> String {
        format!("{:?}", answer.map_err(|e| -> ErrorCode { e.code() }))
    }
    match call.clone() {
        Call::Commit(transaction) => text(store.commit(transaction).await),
        Call::Claim(request) => text(store.claim(&request).await),
        Call::Renew(fence, ttl) => text(store.renew(&fence, ttl).await),
        Call::Lease(name, owner, ttl) => text(store.lease(&name, &owner, ttl).await),
        Call::Unlease(name, owner) => text(store.unlease(&name, &owner).await),
        Call::Leased(name) => text(store.leased(&name).await),
        Call::NextDue => text(store.next_due().await),
        Call::List(table, query) => text(store.list(table, &query).await),
        Call::Events(after, subject, limit) => text(store.events(after, subject, limit).await),
        Call::Pass(_) => String::new(),
    }
}

/// Makes the calls to new stores, and says which one shows a difference.
async fn replay<F>(make: &F, calls: &[Call]) -> Option<(usize, Difference)>
where
    F: AsyncFn(Arc<dyn Clock>) -> Vec<Arc<dyn Store>>,
{
    let clock = Arc::new(ManualClock::default());
    let stores = make(clock.clone()).await;
    let (first, others) = stores.split_first()?;
    for (at, call) in calls.iter().enumerate() {
        if let Call::Pass(time) = call {
            clock.advance(*time);
        }
        let expected = answer(first.as_ref(), call).await;
        for store in others {
            let other = answer(store.as_ref(), call).await;
            if other != expected {
                let store = format!("{store:?}").chars().take(40).collect();
                return Some((at, Difference { calls: Vec::new(), first: expected, other, store }));
            }
        }
    }
    None
}

/// Thinks out calls, with a store in memory that tells which ones make sense.
struct Author {
    random: Random,
    clock: Arc<ManualClock>,
    model: MemoryStore,
    workflows: Vec<WorkflowId>,
    owners: Vec<OwnerId>,
    turns: Vec<TurnId>,
    /// Every claim ever made, so that stale ones are tried, too.
    fences: Vec<Fence>,
}

const SUBJECTS: [&str; 3] = ["a", "b", "ab"];
const KINDS: [&str; 2] = ["deploy", "rollback"];
const STATES: [QueueState; 4] =
    [QueueState::Queued, QueueState::Active, QueueState::Parked, QueueState::Ended];

impl Author {
    async fn think(seed: u64, calls: u32) -> Vec<Call> {
        let clock = Arc::new(ManualClock::default());
        let mut author = Self {
            random: Random::new(seed),
            model: MemoryStore::new(clock.clone()),
            clock,
            workflows: (0..8).map(|_| WorkflowId::new()).collect(),
            owners: (0..3).map(|_| OwnerId::new()).collect(),
            turns: (0..2).map(|_| TurnId::new()).collect(),
            fences: Vec::new(),
        };
        let mut written = Vec::new();
        for _ in 0..calls {
            let call = author.call();
            match &call {
                Call::Pass(time) => author.clock.advance(*time),
                Call::Claim(request) => {
                    if let Ok(Some(row)) = author.model.claim(request).await {
                        author.fences.push(super::fence(&row));
                    }
                }
                call => drop(answer(&author.model, call).await),
            }
            written.push(call);
        }
        // In the end, all that is kept.
        written.extend(Table::ALL.iter().map(|table| Call::List(*table, ListQuery::all())));
        written.push(Call::Events(0, None, usize::MAX));
        written
    }

    fn call(&mut self) -> Call {
        match self.random.below(20) {
            0..7 => Call::Commit(self.transaction()),
            7..11 => {
                let kinds =
                    KINDS.iter().filter(|_| self.random.below(4) > 0).map(|name| (kind(name), 1)).collect();
                let owner = self.random.pick(&self.owners);
                Call::Claim(ClaimRequest::new(owner, self.ttl(), kinds))
            }
            11 => Call::Renew(self.fence(), self.ttl()),
            12 | 13 => Call::Lease(self.lease_name(), self.lease_owner(), self.ttl()),
            14 => Call::Unlease(self.lease_name(), self.lease_owner()),
            15 | 16 => Call::Pass(Duration::from_nanos(self.random.below(8_000_000_000))),
            17 => Call::List(self.random.pick(Table::ALL), self.query()),
            18 => {
                let (after, limit) = (self.random.below(40), self.random.index(0..5));
                let subject = self.random.pick(&SUBJECTS);
                Call::Events(after, self.random.chance().then_some(subject), limit)
            }
            _ if self.random.chance() => Call::NextDue,
            _ => Call::Leased(self.lease_name()),
        }
    }

    fn transaction(&mut self) -> Transaction {
        let mut transaction = Transaction::new();
        if self.random.below(3) == 0 {
            transaction.fence = Some(self.fence());
        }
        if self.random.below(8) == 0 {
            transaction.lease = Some((self.lease_name(), self.lease_owner()));
        }
        for _ in 0..self.random.below(4) {
            transaction.writes.push(self.write());
        }
        for _ in 0..self.random.below(3) {
            let subject = self.random.pick(&SUBJECTS);
            transaction.events.push(NewEvent::new(subject, self.random.below(1000).to_string()));
        }
        transaction
    }

    fn write(&mut self) -> Write {
        let workflow = self.random.below(3) > 0;
        let table = if workflow { Table::Workflows } else { self.random.pick(Table::ALL) };
        let key = match table {
            Table::Workflows => self.random.pick(&self.workflows).to_string(),
            _ => self.random.pick(&["a", "b", "B", "é"]).to_owned(),
        };
        let expect = match self.random.below(10) {
            0 => Expect::Absent,
            1..4 => Expect::Rev(self.random.below(5)),
            _ => Expect::Any,
        };
        if self.random.below(10) == 0 {
            return Write::delete(table, key, expect);
        }
        let body = self.random.below(1000).to_string();
        let mut write = Write::put(table, key, self.random.pick(&SUBJECTS), expect, body);
        if workflow && self.random.below(8) > 0 || self.random.below(40) == 0 {
            write.queue = Some(self.entry());
        }
        write.yields = self.random.below(8) == 0;
        write
    }

    fn entry(&mut self) -> QueueEntry {
        let kind = kind(self.random.pick(&KINDS));
        let version = if self.random.below(10) == 0 { 2 } else { 1 };
        let mut entry = QueueEntry::queued(self.random.pick(&SUBJECTS), kind, version);
        if self.random.chance() {
            entry.state = self.random.pick(&STATES);
        }
        if self.random.below(4) == 0 {
            let later = Duration::from_nanos(self.random.below(10_000_000_000));
            entry.not_before = Some(self.clock.now() + later);
        }
        if self.random.below(4) == 0 {
            entry.turn = Some(self.random.pick(&self.turns));
        }
        entry
    }

    fn query(&mut self) -> ListQuery {
        let mut query = ListQuery { descending: self.random.chance(), ..ListQuery::all() };
        if self.random.chance() {
            query.parent = Some(self.random.pick(&SUBJECTS).to_owned());
        }
        for _ in 0..self.random.below(3) {
            query.states.push(self.random.pick(&STATES));
        }
        if self.random.chance() {
            let id = self.random.pick(&self.workflows).to_string();
            query.after = Some(self.random.pick(&["a".to_owned(), "b".to_owned(), id]));
        }
        if self.random.chance() {
            query.limit = Some(self.random.index(0..4));
        }
        query
    }

    /// Mostly the newest claim, sometimes an old or a forged one.
    fn fence(&mut self) -> Fence {
        let forged = Fence::new(
            self.random.pick(&self.workflows),
            self.random.pick(&self.owners),
            self.random.below(3),
        );
        match self.random.below(10) {
            0 => forged,
            1 | 2 => {
                self.fences.get(self.random.index(0..self.fences.len().max(1))).copied().unwrap_or(forged)
            }
            _ => self.fences.last().copied().unwrap_or(forged),
        }
    }

    fn lease_name(&mut self) -> String {
        let subject = self.random.pick(&SUBJECTS);
        if self.random.chance() { turn_lease(subject) } else { format!("reconcile/{subject}") }
    }

    fn lease_owner(&mut self) -> String {
        self.random.pick(&self.turns).to_string()
    }

    fn ttl(&mut self) -> Duration {
        Duration::from_nanos(self.random.below(10_000_000_000))
    }
}
