//! A user of its own for each app, the same one for all its life.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use paas_core::{AppId, AppName, Error, ErrorCode, Result};
use paas_sandbox::User;
use serde::{Deserialize, Serialize};

use crate::keep::{read_file, write_file};

/// How many numbers there are.
const RANGE: u32 = 20_000;

/// Which app has which number, kept in a file.
#[derive(Debug)]
pub(super) struct Users {
    path: PathBuf,
    first: u32,
    taken: Mutex<BTreeMap<AppId, Row>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    id: u32,
    app: AppName,
}

impl Users {
    pub(super) fn open(path: PathBuf, first: u32) -> Result<Self> {
        let taken = read_file(&path)?.unwrap_or_default();
        Ok(Self { path, first, taken: Mutex::new(taken) })
    }

    /// This app's user, chosen at its first launch. A number goes round before it is used again.
    pub(super) fn of(&self, app: &AppName, life: AppId) -> Result<User> {
        // Written before it is used, so a panic elsewhere leaves the table whole.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = taken.get(&life) {
            return Ok(User::new(row.id));
        }
        let last = self.first + RANGE;
        // Lives sort by time: the newest has the last number that was given.
        let next = taken.values().next_back().map_or(self.first, |row| row.id + 1);
        let is_free = |id: &u32| !taken.values().any(|row| row.id == *id);
        let free = (next..last).chain(self.first..next.min(last)).find(is_free);
        let id = free.ok_or_else(|| {
            Error::new(ErrorCode::LimitExceeded, format!("all {RANGE} users for apps are taken"))
        })?;
        let mut with = taken.clone();
        with.insert(life, Row { id, app: app.clone() });
        write_file(&self.path, &with, true)?;
        *taken = with;
        Ok(User::new(id))
    }

    /// Gives the users of all lives of this app back.
    pub(super) fn forget(&self, app: &AppName) -> Result<()> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let without: BTreeMap<_, _> =
            taken.iter().filter(|(_, row)| row.app != *app).map(|(life, row)| (*life, row.clone())).collect();
        if without.len() < taken.len() {
            write_file(&self.path, &without, true)?;
            *taken = without;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_keeps_its_user_over_restarts_and_no_two_share_one() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("users.json");
        let (one, two): (AppName, AppName) = ("one".parse().unwrap(), "two".parse().unwrap());
        let (first, second, third) = (AppId::new(), AppId::new(), AppId::new());
        let users = Users::open(path.clone(), 20_000).unwrap();
        let (a, b) = (users.of(&one, first).unwrap(), users.of(&two, second).unwrap());
        assert_ne!(a, b);
        users.forget(&two).unwrap();
        let users = Users::open(path, 20_000).unwrap();
        assert_eq!(users.of(&one, first).unwrap(), a);
        assert_ne!(users.of(&two, third).unwrap(), a);
    }
}
