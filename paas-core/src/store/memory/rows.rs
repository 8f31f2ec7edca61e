//! The rows of one table, in the orders in which they are listed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::store::{ListQuery, QueueState, Row};

#[derive(Default)]
pub(super) struct Rows {
    rows: BTreeMap<String, Row>,
    /// Each row twice: under its parent, and under none, so that every list is a walk along ranges.
    order: BTreeSet<Place>,
}

/// Parent or none, standing, key.
type Place = (Option<String>, u8, String);

const STANDINGS: [u8; 5] = [0, 1, 2, 3, 4];

fn standing(state: QueueState) -> u8 {
    match state {
        QueueState::Queued => 1,
        QueueState::Active => 2,
        QueueState::Parked => 3,
        QueueState::Ended => 4,
    }
}

fn places(row: &Row) -> [Place; 2] {
    let standing = row.queue.as_ref().map_or(0, |queue| standing(queue.entry.state));
    [(Some(row.parent.clone()), standing, row.key.clone()), (None, standing, row.key.clone())]
}

impl Rows {
    pub(super) fn get(&self, key: &str) -> Option<&Row> {
        self.rows.get(key)
    }

    /// Puts or deletes the row of this key and returns the one that was there.
    pub(super) fn set(&mut self, key: &str, row: Option<Row>) -> Option<Row> {
        let old = self.rows.remove(key);
        for place in old.iter().flat_map(places) {
            self.order.remove(&place);
        }
        if let Some(row) = row {
            self.order.extend(places(&row));
            self.rows.insert(key.to_owned(), row);
        }
        old
    }

    pub(super) fn list(&self, query: &ListQuery) -> Vec<Row> {
        let limit = query.limit.unwrap_or(usize::MAX);
        let standings: BTreeSet<u8> = match query.states.as_slice() {
            [] => STANDINGS.into(),
            states => states.iter().map(|state| standing(*state)).collect(),
        };
        let mut keys: Vec<&String> = Vec::new();
        for standing in standings {
            let at = |key: &str| (query.parent.clone(), standing, key.to_owned());
            let (mut low, mut high) = (
                Bound::Included(at("")),
                Bound::Excluded((query.parent.clone(), standing + 1, String::new())),
            );
            match &query.after {
                Some(after) if query.descending => high = Bound::Excluded(at(after)),
                Some(after) => low = Bound::Excluded(at(after)),
                None => {}
            }
            let range = self.order.range((low, high)).map(|(_, _, key)| key);
            if query.descending {
                keys.extend(range.rev().take(limit));
            } else {
                keys.extend(range.take(limit));
            }
        }
        keys.sort();
        if query.descending {
            keys.reverse();
        }
        keys.into_iter().take(limit).filter_map(|key| self.rows.get(key)).cloned().collect()
    }
}
