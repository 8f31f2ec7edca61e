//! What transactions make of the rows that are there, and the statements that write it down.
//!
//! ```text
//!  read the rows ── decide, in memory ── one batch of statements: lock, check, write, tell, commit
//!  (no lock)                             (sent at once: no lock ever waits for us)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::types::ToSql;

use super::rows::{self, integer};
use super::session::Session;
use crate::Result;
use crate::store::{NewEvent, QueueState, Row, Table, Transaction, rules};

type Key = (Table, String);

/// Places are known only when the rows are written: until then they are counted from here.
const UNPLACED: u64 = 1 << 62;

/// A statement and its values.
pub(super) struct Step {
    pub(super) sql: &'static str,
    pub(super) values: Vec<Box<dyn ToSql + Sync + Send>>,
}

macro_rules! step {
    ($sql:expr, $($value:expr),* $(,)?) => {
        Step { sql: $sql, values: vec![$(Box::new($value)),*] }
    };
}

/// What was there when it was looked at.
pub(super) struct Found {
    rows: BTreeMap<Key, Row>,
    holders: BTreeMap<String, String>,
    newest: u64,
}

const READ_ROWS: &str = "SELECT r.kind, r.key, r.parent, r.rev, r.body
    FROM unnest($1::text[], $2::text[]) AS wanted (kind, key) JOIN rows AS r ON r.kind = wanted.kind AND r.key = wanted.key";
const READ_HOLDERS: &str =
    "SELECT name, owner FROM leases WHERE name = ANY ($1) AND until > (SELECT clock())";
const NEWEST: &str = "SELECT event FROM counters";

impl Found {
    /// Reads what these transactions look at.
    pub(super) async fn read(session: &Session, transactions: &[&Transaction]) -> Result<Self> {
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        let mut leases = BTreeSet::new();
        for transaction in transactions {
            keys.extend(transaction.writes.iter().map(|write| (write.table, write.key.clone())));
            keys.extend(transaction.fence.iter().map(|fence| (Table::Workflows, fence.workflow.to_string())));
            leases.extend(transaction.lease.iter().map(|(name, _)| name.as_str()));
        }
        let (workflows, plain): (Vec<_>, Vec<_>) =
            keys.iter().partition(|(table, _)| *table == Table::Workflows);
        let workflows: Vec<&str> = workflows.iter().map(|(_, key)| key.as_str()).collect();
        let (tables, plain): (Vec<_>, Vec<_>) =
            plain.iter().map(|(table, key)| (table.as_str(), key.as_str())).unzip();
        let leases: Vec<&str> = leases.into_iter().collect();

        let read_workflows =
            format!("SELECT {} FROM workflows WHERE key = ANY ($1)", rows::columns(Table::Workflows));
        let sent = [
            (read_workflows.as_str(), workflows.is_empty(), vec![&workflows as &(dyn ToSql + Sync)]),
            (READ_ROWS, plain.is_empty(), vec![&tables, &plain]),
            (READ_HOLDERS, leases.is_empty(), vec![&leases]),
            (NEWEST, false, vec![]),
        ];
        let answers = sent.iter().map(|(sql, nothing, values)| async {
            if *nothing { Ok(Vec::new()) } else { session.query(sql, values).await }
        });
        let answers = futures_util::future::try_join_all(answers).await?;
        let [workflows, plain, leases, newest] = &answers[..] else { return Ok(Self::nothing()) };

        let mut found = Self::nothing();
        for row in workflows {
            let row = rows::read(Table::Workflows, row)?;
            found.rows.insert((Table::Workflows, row.key.clone()), row);
        }
        for row in plain {
            let kind: &str = row.try_get(0)?;
            let Some(table) = Table::ALL.iter().find(|table| table.as_str() == kind) else { continue };
            let read =
                Row::new(row.try_get(1)?, row.try_get(2)?, rows::number(row, 3)?, row.try_get(4)?, None);
            found.rows.insert((*table, read.key.clone()), read);
        }
        for row in leases {
            found.holders.insert(row.try_get(0)?, row.try_get(1)?);
        }
        found.newest = newest.first().map_or(Ok(0), |row| rows::number(row, 0))?;
        Ok(found)
    }

    fn nothing() -> Self {
        Self { rows: BTreeMap::new(), holders: BTreeMap::new(), newest: 0 }
    }
}

/// What several transactions, one after the other, make of what was found.
pub(super) struct Batch<'a> {
    found: &'a Found,
    /// Rows as they will be; `None` where they will be gone.
    after: BTreeMap<Key, Option<Row>>,
    places: u64,
    events: Vec<NewEvent>,
    /// Up to which places events are forgotten, each with how many were appended before.
    trims: Vec<(u64, usize)>,
    /// What isn't written but must still be as it was found.
    fences: BTreeSet<String>,
    leases: BTreeSet<String>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(found: &'a Found) -> Self {
        let (after, fences, leases) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { found, after, places: 0, events: Vec::new(), trims: Vec::new(), fences, leases }
    }

    fn row(&self, at: &Key) -> Option<&Row> {
        self.after.get(at).map_or_else(|| self.found.rows.get(at), Option::as_ref)
    }

    /// Adds a transaction, all or nothing of it, and tells how many events there are then.
    pub(super) fn add(&mut self, transaction: &Transaction) -> Result<usize> {
        if let Some(fence) = &transaction.fence {
            let at = (Table::Workflows, fence.workflow.to_string());
            rules::check_fence(self.row(&at), fence)?;
        }
        if let Some((name, owner)) = &transaction.lease {
            rules::check_lease(self.found.holders.get(name).map(String::as_str), name, owner)?;
        }
        let mut staged: BTreeMap<Key, Option<Row>> = BTreeMap::new();
        let mut places = self.places;
        for write in &transaction.writes {
            let at = (write.table, write.key.clone());
            let old = staged.get(&at).map_or_else(|| self.row(&at), Option::as_ref);
            let new = rules::written(old, write.clone(), || {
                places += 1;
                Ok(UNPLACED + places)
            })?;
            staged.insert(at, new);
        }
        self.after.extend(staged);
        self.places = places;
        self.events.extend(transaction.events.iter().cloned());
        self.trims.extend(transaction.trim.map(|place| (place, self.events.len())));
        self.fences.extend(transaction.fence.iter().map(|fence| fence.workflow.to_string()));
        self.leases.extend(transaction.lease.iter().map(|(name, _)| name.clone()));
        Ok(self.events.len())
    }

    /// How many events are appended.
    pub(super) fn events(&self) -> usize {
        self.events.len()
    }

    /// The newest event where nothing is written: the one that was found.
    pub(super) fn newest(&self) -> u64 {
        self.found.newest
    }

    /// The statements that write it down, the last of which tells the newest event's place. None where there is nothing
    /// to write. Each checks that what it changes is still as it was found, and ends the transaction otherwise.
    pub(super) fn steps(self) -> Vec<Step> {
        let mut changes = Changes::default();
        let mut absent: Vec<(Table, &str)> = Vec::new();
        let mut touched: BTreeSet<&str> = BTreeSet::new();
        for ((table, key), new) in &self.after {
            let old = self.found.rows.get(&(*table, key.clone()));
            changes.add(*table, key, old, new.as_ref());
            if old.is_none() && new.is_none() && *table != Table::Workflows {
                absent.push((*table, key));
            }
            let standing = |row: Option<&'_ Row>| {
                row.and_then(|row| row.queue.as_ref())
                    .map(|q| (q.entry.subject.clone(), q.entry.state, q.place))
            };
            if standing(old) != standing(new.as_ref()) {
                let rows = old.into_iter().chain(new.as_ref());
                touched.extend(rows.filter_map(|row| Some(row.queue.as_ref()?.entry.subject.as_str())));
            }
        }
        if changes.is_empty() && self.events.is_empty() && self.trims.is_empty() {
            return Vec::new();
        }
        let touched: Vec<String> = touched.into_iter().map(str::to_owned).collect();
        let mut steps = Vec::new();
        if !touched.is_empty() {
            // A statement of its own: what the next ones see is newer than the locks. In one order, so that nobody
            // waits in a circle.
            let sql = "SELECT pg_advisory_xact_lock(key) FROM
                (SELECT DISTINCT subject_lock(subject) AS key FROM unnest($1::text[]) AS subject ORDER BY key) AS keys";
            steps.push(step!(sql, touched.clone()));
        }
        let read_only =
            self.fences.iter().filter(|key| !self.after.contains_key(&(Table::Workflows, (*key).clone())));
        let (keys, revs): (Vec<_>, Vec<_>) = read_only
            .filter_map(|key| {
                Some((key.clone(), integer(self.found.rows.get(&(Table::Workflows, key.clone()))?.rev)))
            })
            .unzip();
        if !keys.is_empty() {
            let sql = "SELECT must((SELECT count(*) = cardinality($1) FROM (SELECT FROM workflows AS w
                JOIN unnest($1::text[], $2::bigint[]) AS found (key, rev) ON w.key = found.key AND w.rev = found.rev
                FOR SHARE OF w) AS held))";
            steps.push(step!(sql, keys, revs));
        }
        let holders =
            self.leases.iter().filter_map(|name| Some((name.clone(), self.found.holders.get(name)?.clone())));
        let (names, owners): (Vec<_>, Vec<_>) = holders.unzip();
        if !names.is_empty() {
            let sql = "SELECT must((SELECT count(*) = cardinality($1) FROM (SELECT FROM leases AS l
                JOIN unnest($1::text[], $2::text[]) AS found (name, owner) ON l.name = found.name AND l.owner = found.owner
                WHERE l.until > (SELECT clock()) FOR SHARE OF l) AS held))";
            steps.push(step!(sql, names, owners));
        }
        steps.extend(changes.steps());
        if !touched.is_empty() {
            steps.push(step!("SELECT line_up($1)", touched));
        }
        if !absent.is_empty() {
            // What isn't there can't be locked. Whoever writes it tells of it by an event, and those come one after the
            // other from here on. A statement of its own sees what came before.
            steps.push(step!("SELECT event FROM counters FOR UPDATE",));
            let sql = "SELECT must(NOT EXISTS (SELECT FROM rows AS r
                JOIN unnest($1::text[], $2::text[]) AS none (kind, key) ON r.kind = none.kind AND r.key = none.key))";
            steps.push(step!(sql, kinds(&absent, |a| a.0), texts(&absent, |a| a.1)));
        }
        let count = self.events.len();
        if count > 0 {
            let (subjects, bodies): (Vec<_>, Vec<_>) =
                self.events.into_iter().map(|e| (e.subject, e.body)).unzip();
            let sql = "INSERT INTO events SELECT last.event + new.n, new.subject, new.body
                FROM counters AS last, unnest($1::text[], $2::text[]) WITH ORDINALITY AS new (subject, body, n)";
            steps.push(step!(sql, subjects, bodies));
        }
        if !self.trims.is_empty() {
            let sql = "DELETE FROM events WHERE seq <= (
                SELECT max(least(trim.place, last.event + trim.appended - 1))
                FROM counters AS last, unnest($1::bigint[], $2::bigint[]) AS trim (place, appended))";
            let appended = numbers(&self.trims, |trim| trim.1 as u64);
            steps.push(step!(sql, numbers(&self.trims, |trim| trim.0), appended));
        }
        steps.push(if count == 0 && self.places == 0 {
            step!(NEWEST,)
        } else {
            let sql = "UPDATE counters SET place = place + $1, event = event + $2 RETURNING event";
            step!(sql, integer(self.places), integer(count as u64))
        });
        steps
    }
}

/// The rows that change, by what becomes of them.
#[derive(Default)]
struct Changes<'a> {
    plain: Sorted<'a>,
    workflows: Sorted<'a>,
}

#[derive(Default)]
struct Sorted<'a> {
    new: Vec<(Table, &'a Row)>,
    /// With the revision that is replaced.
    changed: Vec<(Table, &'a Row, u64)>,
    gone: Vec<(Table, &'a str, u64)>,
}

impl<'a> Changes<'a> {
    fn add(&mut self, table: Table, key: &'a str, old: Option<&Row>, new: Option<&'a Row>) {
        let to = if table == Table::Workflows { &mut self.workflows } else { &mut self.plain };
        match (old, new) {
            (None, Some(new)) => to.new.push((table, new)),
            (Some(old), Some(new)) => to.changed.push((table, new, old.rev)),
            (Some(old), None) => to.gone.push((table, key, old.rev)),
            (None, None) => {}
        }
    }

    fn is_empty(&self) -> bool {
        [&self.plain, &self.workflows]
            .iter()
            .all(|s| s.new.is_empty() && s.changed.is_empty() && s.gone.is_empty())
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let Sorted { new, changed, gone } = &self.plain;
        if !gone.is_empty() {
            let sql = "WITH done AS (DELETE FROM rows AS r USING unnest($1::text[], $2::text[], $3::bigint[]) AS old (kind, key, rev)
                WHERE r.kind = old.kind AND r.key = old.key AND r.rev = old.rev RETURNING 1)
                SELECT must(count(*) = cardinality($1)) FROM done";
            let (kinds, keys, revs) = (kinds(gone, |g| g.0), texts(gone, |g| g.1), numbers(gone, |g| g.2));
            steps.push(step!(sql, kinds, keys, revs));
        }
        if !changed.is_empty() {
            let sql = "WITH done AS (UPDATE rows AS r SET parent = new.parent, rev = new.rev, body = new.body
                FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bigint[])
                    AS new (kind, key, parent, rev, body, old)
                WHERE r.kind = new.kind AND r.key = new.key AND r.rev = new.old RETURNING 1)
                SELECT must(count(*) = cardinality($1)) FROM done";
            steps.push(step!(
                sql,
                kinds(changed, |c| c.0),
                texts(changed, |c| &c.1.key),
                texts(changed, |c| &c.1.parent),
                numbers(changed, |c| c.1.rev),
                texts(changed, |c| &c.1.body),
                numbers(changed, |c| c.2),
            ));
        }
        if !new.is_empty() {
            let sql = "INSERT INTO rows SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[])";
            steps.push(step!(
                sql,
                kinds(new, |n| n.0),
                texts(new, |n| &n.1.key),
                texts(new, |n| &n.1.parent),
                numbers(new, |n| n.1.rev),
                texts(new, |n| &n.1.body),
            ));
        }
        let Sorted { new, changed, gone } = &self.workflows;
        if !gone.is_empty() {
            let sql = "WITH done AS (DELETE FROM workflows AS w USING unnest($1::text[], $2::bigint[]) AS old (key, rev)
                WHERE w.key = old.key AND w.rev = old.rev RETURNING 1)
                SELECT must(count(*) = cardinality($1)) FROM done";
            steps.push(step!(sql, texts(gone, |g| g.1), numbers(gone, |g| g.2)));
        }
        if !changed.is_empty() {
            // Owner and lease are given up or left as they are: a renewal may have come meanwhile.
            let sql = "WITH done AS (UPDATE workflows AS w SET parent = new.parent, rev = new.rev, body = new.body,
                    subject = new.subject, kind = new.kind, kind_version = new.kind_version, state = new.state,
                    not_before = new.not_before, turn = new.turn, fence = new.fence,
                    place = CASE WHEN new.place > 0 THEN new.place ELSE (SELECT place FROM counters) - new.place END,
                    owner = CASE WHEN new.leased THEN w.owner END, lease_until = CASE WHEN new.leased THEN w.lease_until END
                FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[],
                        $9::bigint[], $10::text[], $11::bigint[], $12::bigint[], $13::boolean[], $14::bigint[])
                    AS new (key, parent, rev, body, subject, kind, kind_version, state, not_before, turn, place, fence, leased, old)
                WHERE w.key = new.key AND w.rev = new.old RETURNING 1)
                SELECT must(count(*) = cardinality($1)) FROM done";
            let rows: Vec<&Row> = changed.iter().map(|c| c.1).collect();
            let mut step = Step { sql, values: standings(&rows) };
            let leased =
                |row: &&Row| row.queue.as_ref().is_some_and(|q| q.owner.is_some() || q.lease_until.is_some());
            step.values.push(Box::new(rows.iter().map(leased).collect::<Vec<bool>>()));
            step.values.push(Box::new(numbers(changed, |c| c.2)));
            steps.push(step);
        }
        if !new.is_empty() {
            let sql = "INSERT INTO workflows (key, parent, rev, body, subject, kind, kind_version, state, not_before, turn, place, fence)
                SELECT key, parent, rev, body, subject, kind, kind_version, state, not_before, turn,
                    (SELECT place FROM counters) - place, fence
                FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[],
                        $9::bigint[], $10::text[], $11::bigint[], $12::bigint[])
                    AS new (key, parent, rev, body, subject, kind, kind_version, state, not_before, turn, place, fence)";
            let rows: Vec<&Row> = new.iter().map(|n| n.1).collect();
            steps.push(Step { sql, values: standings(&rows) });
        }
        steps
    }
}

/// The columns of workflows that writes set, each as an array. A place that isn't known yet is below zero: so far
/// behind the last one that was given.
fn standings(rows: &[&Row]) -> Vec<Box<dyn ToSql + Sync + Send>> {
    let queues: Vec<_> = rows.iter().filter_map(|row| row.queue.as_ref()).collect();
    let entries: Vec<_> = queues.iter().map(|queue| &queue.entry).collect();
    let place = |place: u64| match place.checked_sub(UNPLACED) {
        Some(behind) => -integer(behind),
        None => integer(place),
    };
    let state = |state: QueueState| state.as_str().to_owned();
    vec![
        Box::new(texts(rows, |row| &row.key)),
        Box::new(texts(rows, |row| &row.parent)),
        Box::new(numbers(rows, |row| row.rev)),
        Box::new(texts(rows, |row| &row.body)),
        Box::new(texts(&entries, |entry| &entry.subject)),
        Box::new(texts(&entries, |entry| entry.kind.as_str())),
        Box::new(numbers(&entries, |entry| entry.kind_version.into())),
        Box::new(entries.iter().map(|entry| state(entry.state)).collect::<Vec<_>>()),
        Box::new(entries.iter().map(|entry| entry.not_before.map(rules::micros)).collect::<Vec<_>>()),
        Box::new(entries.iter().map(|entry| entry.turn.map(|turn| turn.to_string())).collect::<Vec<_>>()),
        Box::new(queues.iter().map(|queue| place(queue.place)).collect::<Vec<_>>()),
        Box::new(numbers(&queues, |queue| queue.fence)),
    ]
}

fn kinds<T>(from: &[T], table: impl Fn(&T) -> Table) -> Vec<&'static str> {
    from.iter().map(|one| table(one).as_str()).collect()
}

fn texts<T>(from: &[T], text: impl Fn(&T) -> &str) -> Vec<String> {
    from.iter().map(|one| text(one).to_owned()).collect()
}

fn numbers<T>(from: &[T], number: impl Fn(&T) -> u64) -> Vec<i64> {
    from.iter().map(|one| integer(number(one))).collect()
}
