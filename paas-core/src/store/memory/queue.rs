//! What waits and what runs. A claim looks at what can be claimed and at nothing else: not at what has ended, isn't the first
//! of its subject or not due yet, nor at kinds that nobody asks for.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::KindName;
use crate::store::{QueueState, Queued};

type Time = DateTime<Utc>;
type Kind = (KindName, u32);

#[derive(Default)]
pub(super) struct Queue {
    /// By place.
    open: BTreeMap<u64, Open>,
    /// When each can be claimed, and its place.
    dues: BTreeSet<(Time, u64)>,
    /// Those of them that no claim has found due yet.
    unripe: BTreeSet<(Time, u64)>,
    /// The places of those that are due, active or the first of their subject.
    ripe: BTreeMap<(Stage, Kind), BTreeSet<u64>>,
    subjects: BTreeMap<String, Subject>,
}

struct Open {
    key: String,
    subject: String,
    kind: Kind,
    stage: Stage,
    due: Time,
}

/// What an engine left behind goes before what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Active,
    Queued,
}

#[derive(Default)]
struct Subject {
    active: usize,
    queued: BTreeSet<u64>,
    /// The one that may be claimed.
    first: Option<u64>,
}

pub(super) fn due(queue: &Queued) -> Time {
    let lease = queue.lease_until.unwrap_or(Time::MIN_UTC);
    lease.max(queue.entry.not_before.unwrap_or(Time::MIN_UTC))
}

fn stage(queue: &Queued) -> Option<Stage> {
    match queue.entry.state {
        QueueState::Queued => Some(Stage::Queued),
        QueueState::Active => Some(Stage::Active),
        QueueState::Parked | QueueState::Ended => None,
    }
}

impl Queue {
    pub(super) fn insert(&mut self, queue: &Queued, key: &str) {
        let (Some(stage), place, due) = (stage(queue), queue.place, due(queue)) else { return };
        let subject = self.subjects.entry(queue.entry.subject.clone()).or_default();
        match stage {
            Stage::Active => subject.active += 1,
            Stage::Queued => drop(subject.queued.insert(place)),
        }
        let kind = (queue.entry.kind.clone(), queue.entry.kind_version);
        let (key, subject) = (key.to_owned(), queue.entry.subject.clone());
        self.open.insert(place, Open { key, subject, kind, stage, due });
        self.dues.insert((due, place));
        if due > Time::MIN_UTC {
            self.unripe.insert((due, place));
        } else {
            self.ripen(place);
        }
        self.settle(&queue.entry.subject);
    }

    pub(super) fn remove(&mut self, queue: &Queued) {
        let Some(open) = self.open.remove(&queue.place) else { return };
        let at = (open.due, queue.place);
        self.dues.remove(&at);
        self.unripe.remove(&at);
        self.unripen(queue.place, &open);
        if let Some(subject) = self.subjects.get_mut(&open.subject) {
            match open.stage {
                Stage::Active => subject.active -= 1,
                Stage::Queued => drop(subject.queued.remove(&queue.place)),
            }
        }
        self.settle(&open.subject);
    }

    /// Finds out which one of a subject may be claimed.
    fn settle(&mut self, name: &str) {
        let Some(subject) = self.subjects.get_mut(name) else { return };
        let first = if subject.active == 0 { subject.queued.first().copied() } else { None };
        let before = std::mem::replace(&mut subject.first, first);
        if subject.active == 0 && subject.queued.is_empty() {
            self.subjects.remove(name);
        }
        if before == first {
            return;
        }
        if let Some((place, open)) = before.and_then(|place| self.open.remove_entry(&place)) {
            self.unripen(place, &open);
            self.open.insert(place, open);
        }
        if let Some(place) = first
            && self.open.get(&place).is_some_and(|open| !self.unripe.contains(&(open.due, place)))
        {
            self.ripen(place);
        }
    }

    /// It is due.
    fn ripen(&mut self, place: u64) {
        let Some(open) = self.open.get(&place) else { return };
        let first = self.subjects.get(&open.subject).and_then(|subject| subject.first);
        if open.stage == Stage::Active || first == Some(place) {
            self.ripe.entry((open.stage, open.kind.clone())).or_default().insert(place);
        }
    }

    fn unripen(&mut self, place: u64, open: &Open) {
        let at = (open.stage, open.kind.clone());
        if let Some(places) = self.ripe.get_mut(&at) {
            places.remove(&place);
            if places.is_empty() {
                self.ripe.remove(&at);
            }
        }
    }

    /// Takes note of what has come due: once of each.
    pub(super) fn pass(&mut self, now: Time) {
        while let Some((_, place)) = self.unripe.first().copied().filter(|(due, _)| *due <= now) {
            self.unripe.pop_first();
            self.ripen(place);
        }
    }

    /// The key of what is claimed next, of these kinds, among those that are `wanted`.
    pub(super) fn claimable(&self, kinds: &[Kind], wanted: impl Fn(&str) -> bool) -> Option<String> {
        let key = |place: &u64| self.open.get(place).map(|open| open.key.as_str());
        [Stage::Active, Stage::Queued].into_iter().find_map(|stage| {
            let of_each = kinds.iter().filter_map(|kind| {
                let places = self.ripe.get(&(stage, kind.clone()))?;
                places.iter().find(|place| key(place).is_some_and(&wanted))
            });
            of_each.min().and_then(key).map(str::to_owned)
        })
    }

    /// The first time after `now` at which something is due.
    pub(super) fn next_due(&self, now: Time) -> Option<Time> {
        self.dues.range((now, u64::MAX)..).map(|(due, _)| *due).next()
    }
}
