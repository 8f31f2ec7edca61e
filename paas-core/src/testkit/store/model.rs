//! A store against the model: the same random calls, and every answer compared.

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
/// At the first difference, saying which call it was and the seed.
pub async fn agrees_with_memory<S, F>(make: F, seed: u64, calls: u32)
where
    S: Store,
    F: AsyncFn(Arc<dyn Clock>) -> S,
{
    let clock = Arc::new(ManualClock::default());
    let store = make(clock.clone()).await;
    let mut run = Run::new(seed, clock);
    for number in 0..calls {
        run.call = format!("call {number} of seed {seed}");
        run.step(&store).await;
    }
    run.call = format!("the end of seed {seed}");
    for table in Table::ALL {
        run.list(&store, *table, ListQuery::all()).await;
    }
    run.events(&store, 0, None, usize::MAX).await;
}

struct Run {
    random: Random,
    clock: Arc<ManualClock>,
    model: MemoryStore,
    workflows: Vec<WorkflowId>,
    owners: Vec<OwnerId>,
    turns: Vec<TurnId>,
    /// Every claim ever made, so that stale ones are tried, too.
    fences: Vec<Fence>,
    call: String,
}

const SUBJECTS: [&str; 3] = ["a", "b", "ab"];
const KINDS: [&str; 2] = ["deploy", "rollback"];
const STATES: [QueueState; 4] =
    [QueueState::Queued, QueueState::Active, QueueState::Parked, QueueState::Ended];

impl Run {
    fn new(seed: u64, clock: Arc<ManualClock>) -> Self {
        Self {
            random: Random::new(seed),
            model: MemoryStore::new(clock.clone()),
            clock,
            workflows: (0..8).map(|_| WorkflowId::new()).collect(),
            owners: (0..3).map(|_| OwnerId::new()).collect(),
            turns: (0..2).map(|_| TurnId::new()).collect(),
            fences: Vec::new(),
            call: String::new(),
        }
    }

    async fn step(&mut self, store: &dyn Store) {
        match self.random.below(20) {
            0..7 => {
                let transaction = self.transaction();
                let (ours, theirs) =
                    (self.model.commit(transaction.clone()).await, store.commit(transaction.clone()).await);
                self.same(&transaction, ours, theirs);
            }
            7..11 => self.claim(store).await,
            11 => {
                let (fence, ttl) = (self.fence(), self.ttl());
                let (ours, theirs) = (self.model.renew(&fence, ttl).await, store.renew(&fence, ttl).await);
                self.same(&("renew", fence, ttl), ours, theirs);
            }
            12 | 13 => {
                let (name, owner, ttl) = (self.lease_name(), self.lease_owner(), self.ttl());
                let ours = self.model.lease(&name, &owner, ttl).await;
                self.same(&("lease", &name, &owner, ttl), ours, store.lease(&name, &owner, ttl).await);
            }
            14 => {
                let (name, owner) = (self.lease_name(), self.lease_owner());
                let ours = self.model.unlease(&name, &owner).await;
                self.same(&("unlease", &name, &owner), ours, store.unlease(&name, &owner).await);
            }
            15 | 16 => self.clock.advance(Duration::from_nanos(self.random.below(8_000_000_000))),
            17 => {
                let table = self.random.pick(Table::ALL);
                let query = self.query();
                self.list(store, table, query).await;
            }
            18 => {
                let (after, limit) = (self.random.below(40), self.random.index(0..5));
                let subject = self.random.pick(&SUBJECTS);
                let subject = self.random.chance().then_some(subject);
                self.events(store, after, subject, limit).await;
            }
            _ => {
                let (ours, theirs) = (self.model.next_due().await, store.next_due().await);
                self.same(&"next_due", ours, theirs);
                let name = self.lease_name();
                let (ours, theirs) = (self.model.leased(&name).await, store.leased(&name).await);
                self.same(&("leased", &name), ours, theirs);
            }
        }
    }

    async fn claim(&mut self, store: &dyn Store) {
        let kinds = KINDS.iter().filter(|_| self.random.below(4) > 0).map(|name| (kind(name), 1)).collect();
        let owner = self.random.pick(&self.owners);
        let request = ClaimRequest::new(owner, self.ttl(), kinds);
        let ours = self.model.claim(&request).await;
        if let Ok(Some(row)) = &ours {
            self.fences.push(super::fence(row));
        }
        self.same(&request, ours, store.claim(&request).await);
    }

    async fn list(&self, store: &dyn Store, table: Table, query: ListQuery) {
        let (ours, theirs) = (self.model.list(table, &query).await, store.list(table, &query).await);
        self.same(&(table, &query), ours, theirs);
    }

    async fn events(&self, store: &dyn Store, after: u64, subject: Option<&str>, limit: usize) {
        let ours = self.model.events(after, subject, limit).await;
        self.same(&("events", after, subject, limit), ours, store.events(after, subject, limit).await);
    }

    fn same<T: fmt::Debug + PartialEq>(&self, what: &dyn fmt::Debug, ours: Result<T>, theirs: Result<T>) {
        let code = |e: crate::Error| -> ErrorCode { e.code() };
        let (ours, theirs) = (ours.map_err(code), theirs.map_err(code));
        assert_eq!(theirs, ours, "left is the store, right the model, at {}: {what:?}", self.call);
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
