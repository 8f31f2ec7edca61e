//! What waits and what runs, so that a claim never looks at what has ended.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::store::{QueueState, Queued};

type Time = DateTime<Utc>;

#[derive(Default)]
pub(super) struct Queue {
    /// Keys by place.
    queued: BTreeMap<u64, String>,
    /// When each that is queued is due, and its place.
    later: BTreeSet<(Time, u64)>,
    /// When each that is active can be claimed by somebody else, its place and key.
    active: BTreeMap<(Time, u64), String>,
    subjects: BTreeMap<String, Subject>,
}

#[derive(Default)]
struct Subject {
    active: usize,
    queued: BTreeSet<u64>,
}

fn due(queue: &Queued) -> Time {
    let lease = queue.lease_until.unwrap_or(Time::MIN_UTC);
    lease.max(queue.entry.not_before.unwrap_or(Time::MIN_UTC))
}

impl Queue {
    pub(super) fn insert(&mut self, queue: &Queued, key: &str) {
        let (due, place) = (due(queue), queue.place);
        match queue.entry.state {
            QueueState::Queued => {
                self.queued.insert(place, key.to_owned());
                self.later.insert((due, place));
                self.subject(queue).queued.insert(place);
            }
            QueueState::Active => {
                self.active.insert((due, place), key.to_owned());
                self.subject(queue).active += 1;
            }
            QueueState::Parked | QueueState::Ended => {}
        }
    }

    pub(super) fn remove(&mut self, queue: &Queued) {
        let (due, place) = (due(queue), queue.place);
        match queue.entry.state {
            QueueState::Queued => {
                self.queued.remove(&place);
                self.later.remove(&(due, place));
                self.subject(queue).queued.remove(&place);
            }
            QueueState::Active => {
                self.active.remove(&(due, place));
                self.subject(queue).active -= 1;
            }
            QueueState::Parked | QueueState::Ended => return,
        }
        let subject = self.subject(queue);
        if subject.active == 0 && subject.queued.is_empty() {
            self.subjects.remove(&queue.entry.subject);
        }
    }

    fn subject(&mut self, queue: &Queued) -> &mut Subject {
        self.subjects.entry(queue.entry.subject.clone()).or_default()
    }

    /// The key of what is claimed next, among those that are `wanted`, which also tells their standing.
    pub(super) fn claimable<'a>(
        &self,
        now: Time,
        wanted: impl Fn(&str) -> Option<&'a Queued>,
    ) -> Option<String> {
        let left = self.active.range(..=(now, u64::MAX));
        let left = left.filter(|(_, key)| wanted(key).is_some()).min_by_key(|((_, place), _)| *place);
        if let Some((_, key)) = left {
            return Some(key.clone());
        }
        let mut waiting = self.queued.iter().filter(|(place, key)| {
            wanted(key).is_some_and(|queue| due(queue) <= now && self.is_next(queue, **place))
        });
        waiting.next().map(|(_, key)| key.clone())
    }

    fn is_next(&self, queue: &Queued, place: u64) -> bool {
        let subject = self.subjects.get(&queue.entry.subject);
        subject.is_some_and(|s| s.active == 0 && s.queued.first() == Some(&place))
    }

    /// The first time after `now` at which something is due.
    pub(super) fn next_due(&self, now: Time) -> Option<Time> {
        let active = self.active.range((now, u64::MAX)..).map(|((due, _), _)| *due);
        let later = self.later.range((now, u64::MAX)..).map(|(due, _)| *due);
        [active.min(), later.min()].into_iter().flatten().min()
    }
}
