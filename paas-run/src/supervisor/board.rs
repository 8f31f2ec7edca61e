//! What runs, for everybody to see.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use paas_core::{AppName, Instance, InstanceName, ReleaseId, RuntimeEvent};
use tokio::sync::broadcast::{self, error::RecvError};

/// One place for one instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) app: AppName,
    pub(super) release: ReleaseId,
    pub(super) name: InstanceName,
}

/// The table of instances; each change is told to whoever watches.
#[derive(Debug, Clone)]
pub(super) struct Board {
    rows: Arc<Mutex<HashMap<Place, Instance>>>,
    changes: broadcast::Sender<RuntimeEvent>,
}

impl Default for Board {
    fn default() -> Self {
        Self { rows: Arc::default(), changes: broadcast::Sender::new(1024) }
    }
}

impl Board {
    fn rows(&self) -> MutexGuard<'_, HashMap<Place, Instance>> {
        // Each change is one step: a panic elsewhere leaves the table whole.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, app: AppName, instance: Option<Instance>) {
        // Nobody watching is fine.
        let _ = self.changes.send(RuntimeEvent::new(app, instance));
    }

    pub(super) fn put(&self, place: &Place, instance: Instance) {
        self.rows().insert(place.clone(), instance.clone());
        self.tell(instance.app.clone(), Some(instance));
    }

    /// Changes a row, if it is there.
    pub(super) fn change(&self, place: &Place, change: impl FnOnce(&mut Instance)) {
        let changed = self.rows().get_mut(place).map(|row| {
            change(row);
            row.clone()
        });
        if let Some(row) = changed {
            self.tell(row.app.clone(), Some(row));
        }
    }

    pub(super) fn remove(&self, place: &Place) {
        let removed = self.rows().remove(place);
        if let Some(row) = removed {
            self.tell(row.app, None);
        }
    }

    pub(super) fn get(&self, place: &Place) -> Option<Instance> {
        self.rows().get(place).cloned()
    }

    pub(super) fn of(&self, app: &AppName) -> Vec<Instance> {
        let mut found: Vec<Instance> = self.rows().values().filter(|row| row.app == *app).cloned().collect();
        found.sort_by(|a, b| (a.version, &a.name).cmp(&(b.version, &b.name)));
        found
    }

    pub(super) fn apps(&self) -> BTreeSet<AppName> {
        self.rows().values().map(|row| row.app.clone()).collect()
    }

    pub(super) fn watch(&self) -> BoxStream<'static, RuntimeEvent> {
        let (board, changes) = (self.clone(), self.changes.subscribe());
        let batches = stream::unfold((board, changes), |(board, mut changes)| async move {
            let batch = match changes.recv().await {
                Ok(event) => vec![event],
                // Whoever is too slow looks at everything again.
                Err(RecvError::Lagged(_)) => {
                    board.apps().into_iter().map(|app| RuntimeEvent::new(app, None)).collect()
                }
                Err(RecvError::Closed) => return None,
            };
            Some((stream::iter(batch), (board, changes)))
        });
        batches.flatten().boxed()
    }
}
