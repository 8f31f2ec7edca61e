//! A push under way: where its HTTP request and its hook meet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use paas_core::{AppId, AppName, Cancel, Principal, PrincipalName, Turn};

use super::repos::Repo;
use super::updates::Oid;

/// A push from its request to its answer.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) app: AppName,
    pub(crate) app_id: AppId,
    pub(crate) by: Principal,
    pub(crate) repo: Repo,
    /// Whether the push made the app.
    pub(crate) is_first: bool,
    /// The pusher is gone, the platform goes down, or it took too long.
    pub(crate) stop: Cancel,
    /// Held while the hook waits for an answer.
    pub(crate) at_hook: tokio::sync::Mutex<()>,
    landing: Mutex<Option<Landing>>,
}

/// What git must do now that the hook has said yes.
#[derive(Debug)]
pub(crate) struct Landing {
    pub(crate) branch: String,
    pub(crate) to: Oid,
    /// Kept until the branch has moved, so that the next push sees where it is.
    pub(crate) turn: Turn,
}

impl Session {
    pub(crate) fn new(app: (AppName, AppId), by: Principal, repo: Repo, is_first: bool) -> Self {
        Self {
            app: app.0,
            app_id: app.1,
            by,
            repo,
            is_first,
            stop: Cancel::new(),
            at_hook: tokio::sync::Mutex::new(()),
            landing: Mutex::new(None),
        }
    }

    /// The commit is live: git may move the branch.
    pub(crate) fn land(&self, landing: Landing) {
        *unpoisoned(&self.landing) = Some(landing);
    }

    pub(crate) fn is_landing(&self) -> bool {
        unpoisoned(&self.landing).is_some()
    }

    pub(crate) fn take_landing(&self) -> Option<Landing> {
        unpoisoned(&self.landing).take()
    }
}

/// Pushes under way by the key that their hook shows, which is good once.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    /// Expects the hook of this push, which will show the returned key.
    pub(crate) fn expect(&self, session: Arc<Session>) -> String {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        let key = random() + &random();
        unpoisoned(&self.0).insert(key.clone(), session);
        key
    }

    pub(crate) fn take(&self, key: &str) -> Option<Arc<Session>> {
        unpoisoned(&self.0).remove(key)
    }
}

/// Counts what each principal has under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Arc<Mutex<HashMap<PrincipalName, usize>>>);

/// One thing under way; dropping it makes room for another.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    whose: PrincipalName,
}

impl Places {
    /// A place, unless this principal has `most` already.
    pub(crate) fn take(&self, whose: &PrincipalName, most: usize) -> Option<Place> {
        let mut taken = unpoisoned(&self.0);
        let count = taken.entry(whose.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), whose: whose.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = unpoisoned(&self.places.0);
        if let Some(count) = taken.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.whose);
            }
        }
    }
}

/// A panic elsewhere leaves these maps whole: each change is one call.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
