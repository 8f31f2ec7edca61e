//! Who is woken by what.

use tokio::sync::watch;

use super::{QueueState, Table, Transaction, Write, turn_lease};

/// What a call changes, for those who wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// What readers see.
    Rows,
    /// That, and perhaps what can be claimed.
    Queue,
}

impl Change {
    /// What this transaction changes. An owner's checkpoints, the most of all commits, move nothing in the queue.
    pub(super) fn of(transaction: &Transaction) -> Self {
        let own = transaction.fence.map(|fence| fence.workflow.to_string());
        let checkpoint = |write: &Write| {
            let stays = write.queue.as_ref().is_none_or(|entry| entry.state == QueueState::Active);
            write.body.is_some() && stays && !write.yields && own.as_ref() == Some(&write.key)
        };
        let mut workflows = transaction.writes.iter().filter(|write| write.table == Table::Workflows);
        if workflows.all(checkpoint) { Self::Rows } else { Self::Queue }
    }

    /// What giving this named lease back changes: only turns keep anything from being claimed.
    pub(super) fn of_lease(name: &str) -> Self {
        if name.starts_with(&turn_lease("")) { Self::Queue } else { Self::Rows }
    }
}

/// Where readers and claimers listen.
#[derive(Debug, Clone)]
pub(super) struct Changes {
    rows: watch::Sender<u64>,
    queue: watch::Sender<u64>,
}

impl Changes {
    pub(super) fn new() -> Self {
        Self { rows: watch::Sender::new(0), queue: watch::Sender::new(0) }
    }

    pub(super) fn tell(&self, change: Change) {
        let wake = |sender: &watch::Sender<u64>| sender.send_modify(|n| *n = n.wrapping_add(1));
        wake(&self.rows);
        if change == Change::Queue {
            wake(&self.queue);
        }
    }

    pub(super) fn rows(&self) -> watch::Receiver<u64> {
        self.rows.subscribe()
    }

    pub(super) fn queue(&self) -> watch::Receiver<u64> {
        self.queue.subscribe()
    }

    /// Whether nobody listens.
    #[cfg(feature = "sqlite")]
    pub(super) fn unheard(&self) -> bool {
        self.rows.receiver_count() == 0 && self.queue.receiver_count() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Expect, Fence, NewEvent, QueueEntry};
    use crate::{KindName, OwnerId, WorkflowId};

    fn put(id: WorkflowId, state: QueueState) -> Write {
        let mut entry = QueueEntry::queued("app", KindName::new("deploy").unwrap(), 1);
        entry.state = state;
        Write::put(Table::Workflows, id.to_string(), "app", Expect::Any, "{}".into()).standing(entry)
    }

    #[test]
    fn an_owners_checkpoint_wakes_readers_only() {
        let id = WorkflowId::new();
        let own = Transaction::new().fenced(Fence::new(id, OwnerId::new(), 1));
        let row = Write::put(Table::Releases, "r", "app", Expect::Any, "{}".into());
        let checkpoint = own.clone().write(put(id, QueueState::Active)).write(row);
        assert_eq!(Change::of(&checkpoint), Change::Rows);
        let event = NewEvent::new("app", "{}".into());
        assert_eq!(Change::of(&Transaction::new().event(event)), Change::Rows);
        for moved in [
            own.clone().write(put(id, QueueState::Ended)),
            own.clone().write(put(id, QueueState::Parked)),
            own.clone().write(put(id, QueueState::Active).yielding()),
            own.clone().write(put(id, QueueState::Active)).write(put(WorkflowId::new(), QueueState::Queued)),
            own.write(Write::delete(Table::Workflows, id.to_string(), Expect::Any)),
            Transaction::new().write(put(id, QueueState::Active)),
        ] {
            assert_eq!(Change::of(&moved), Change::Queue, "{moved:?}");
        }
    }
}
