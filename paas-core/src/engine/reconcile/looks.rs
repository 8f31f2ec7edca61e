//! Which apps are looked at just now, and which can't be looked after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use crate::{AppName, Error, ErrorCode, Failure, Neglect};

/// How much of an app a pass looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pass {
    /// Whether its routes lead to what runs: after every hint, so it costs a few reads when they do.
    Routes,
    /// Whether what should run does, too.
    Whole,
}

type Key = (AppName, Pass);

/// The passes of one engine.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    /// And whether something changed since it began.
    under_way: Mutex<BTreeMap<Key, bool>>,
    neglected: Mutex<BTreeMap<Key, Neglect>>,
}

impl Looks {
    /// Begins a pass, unless one is under way: that one looks once more then. One app that hangs has one pass.
    pub(super) fn begin(self: &Arc<Self>, app: AppName, what: Pass) -> Option<UnderWay> {
        let key = (app, what);
        let mut under_way = lock(&self.under_way);
        if let Some(again) = under_way.get_mut(&key) {
            *again = true;
            return None;
        }
        under_way.insert(key.clone(), false);
        Some(UnderWay { looks: self.clone(), key, over: false })
    }

    /// A pass went through: whether there had been trouble.
    pub(super) fn succeeded(&self, app: &AppName, what: Pass) -> bool {
        let mut neglected = lock(&self.neglected);
        // Who looked at everything looked at the routes, too.
        let routes = what == Pass::Whole && neglected.remove(&(app.clone(), Pass::Routes)).is_some();
        neglected.remove(&(app.clone(), what)).is_some() || routes
    }

    /// A pass failed: whether it is the first one that took too long.
    pub(super) fn failed(&self, app: &AppName, what: Pass, error: &Error, now: DateTime<Utc>) -> bool {
        let mut neglected = lock(&self.neglected);
        let before = neglected.get(&(app.clone(), what));
        let times = before.map_or(0, |before| before.times) + 1;
        let since = before.map_or(now, |before| before.since);
        let last = Failure::of(error, None, times, now);
        let mut known = neglected.iter().filter(|((of, _), _)| of == app);
        let is_new = error.code() == ErrorCode::Timeout
            && known.all(|(_, neglect)| neglect.last.code != ErrorCode::Timeout);
        neglected.insert((app.clone(), what), Neglect { since, times, last });
        is_new
    }

    /// Forgets those that are not there any more.
    pub(super) fn keep_only(&self, apps: &BTreeSet<AppName>) {
        lock(&self.neglected).retain(|(app, _), _| apps.contains(app));
    }

    /// Whether some app can't be looked after from here.
    pub(super) fn is_any_neglected(&self) -> bool {
        !lock(&self.neglected).is_empty()
    }

    /// Since when, and why, an app can't be looked after from here.
    pub(crate) fn neglect(&self, app: &AppName) -> Option<Neglect> {
        let neglected = lock(&self.neglected);
        let of = |what| neglected.get(&(app.clone(), what)).cloned();
        of(Pass::Whole).or_else(|| of(Pass::Routes))
    }
}

/// A pass that is under way.
pub(super) struct UnderWay {
    looks: Arc<Looks>,
    key: Key,
    over: bool,
}

impl UnderWay {
    /// Itself, where something changed since it began; else it is over.
    pub(super) fn again(mut self) -> Option<Self> {
        let looks = self.looks.clone();
        let mut under_way = lock(&looks.under_way);
        if let Some(again) = under_way.get_mut(&self.key).filter(|again| **again) {
            *again = false;
            return Some(self);
        }
        under_way.remove(&self.key);
        self.over = true;
        None
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.over {
            lock(&self.looks.under_way).remove(&self.key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is a single one, so a panic leaves nothing half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_during_a_pass_is_looked_at_once_more_and_by_one_pass_only() {
        let (looks, app) = (Arc::new(Looks::default()), AppName::new("hello").unwrap());
        let first = looks.begin(app.clone(), Pass::Routes).unwrap();
        assert!(looks.begin(app.clone(), Pass::Whole).is_some(), "the routes don't wait for the rest");
        assert!(looks.begin(app.clone(), Pass::Routes).is_none());
        assert!(looks.begin(app.clone(), Pass::Routes).is_none());
        let first = first.again().unwrap();
        assert!(first.again().is_none());
        let cut = looks.begin(app.clone(), Pass::Routes).unwrap();
        drop(cut);
        assert!(looks.begin(app, Pass::Routes).is_some());
    }
}
