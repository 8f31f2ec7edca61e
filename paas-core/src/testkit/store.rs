//! The conformance suite of [`Store`]: what every store must do, one function a sentence.

mod events;
mod leases;
mod model;
mod queue;
mod rows;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use model::{Difference, agree, agrees_with_memory, difference};

use super::ManualClock;
use crate::store::{
    ClaimRequest, Expect, Fence, NewEvent, QueueEntry, Row, Store, Table, Transaction, Write,
};
use crate::{Clock, ErrorCode, KindName, OwnerId, Result, WorkflowId};

/// Runs the whole suite. `make` is called once for each sentence and gives a new, empty store whose leases end
/// by the clock that it gets.
///
/// # Panics
/// Where the store is wrong; the function at the top of the panic's trace says what should hold, and so does
/// the last line on stderr.
///
/// ```
/// use paas_core::store::MemoryStore;
/// # let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
/// # runtime.block_on(async {
/// paas_core::testkit::store::conformance(async |clock| MemoryStore::new(clock)).await;
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn conformance<S, F>(make: F)
where
    S: Store,
    F: AsyncFn(Arc<dyn Clock>) -> S,
{
    for (sentence, check) in rows::ALL.iter().chain(queue::ALL).chain(leases::ALL).chain(events::ALL) {
        eprintln!("store: {}", sentence.replace('_', " "));
        let clock = Arc::new(ManualClock::default());
        let store: Arc<dyn Store> = Arc::new(make(clock.clone()).await);
        check(World { store, clock }).await;
    }
}

type Check = fn(World) -> Pin<Box<dyn Future<Output = ()>>>;

/// Names functions, so that the list and the code can't differ.
macro_rules! sentences {
    ($($name:ident),* $(,)?) => {
        pub(super) const ALL: &[(&str, super::Check)] = &[$((stringify!($name), |world| Box::pin($name(world)))),*];
    };
}
use sentences;

/// A store and its clock.
#[derive(Clone)]
struct World {
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
}

const TTL: Duration = Duration::from_secs(30);
const ALMOST_TTL: Duration = Duration::from_micros(29_999_999);

impl World {
    async fn commit(&self, transaction: Transaction) -> u64 {
        self.store.commit(transaction).await.expect("the transaction is carried out")
    }

    async fn put(&self, table: Table, key: &str, parent: &str, expect: Expect, body: &str) -> Result<u64> {
        self.store.commit(Transaction::new().write(Write::put(table, key, parent, expect, body.into()))).await
    }

    async fn get(&self, table: Table, key: &str) -> Row {
        self.store.get(table, key).await.expect("rows can be read").expect("the row is there")
    }

    async fn workflow(&self, id: WorkflowId) -> Row {
        self.get(Table::Workflows, &id.to_string()).await
    }

    /// Writes a workflow's standing.
    async fn stand(&self, id: WorkflowId, entry: QueueEntry) {
        self.commit(Transaction::new().write(standing(id, entry))).await;
    }

    async fn queue(&self, subject: &str) -> WorkflowId {
        let id = WorkflowId::new();
        self.stand(id, deploy(subject)).await;
        id
    }

    async fn claim(&self, owner: OwnerId) -> Option<WorkflowId> {
        self.claim_row(owner).await.map(|row| row.key.parse().expect("the key is an id"))
    }

    async fn claim_row(&self, owner: OwnerId) -> Option<Row> {
        let request = ClaimRequest::new(owner, TTL, vec![(kind("deploy"), 1)]);
        self.store.claim(&request).await.expect("claiming works")
    }

    async fn append(&self, subject: &str, body: &str) -> u64 {
        self.commit(Transaction::new().event(NewEvent::new(subject, body.into()))).await
    }
}

fn kind(name: &str) -> KindName {
    KindName::new(name).expect("a constant")
}

fn deploy(subject: &str) -> QueueEntry {
    QueueEntry::queued(subject, kind("deploy"), 1)
}

fn standing(id: WorkflowId, entry: QueueEntry) -> Write {
    let parent = entry.subject.clone();
    Write::put(Table::Workflows, id.to_string(), parent, Expect::Any, "{}".into()).standing(entry)
}

fn fence(row: &Row) -> Fence {
    let queue = row.queue.as_ref().expect("a workflow has a standing");
    let owner = queue.owner.expect("a claimed workflow has an owner");
    Fence::new(row.key.parse().expect("the key is an id"), owner, queue.fence)
}

fn assert_code<T: fmt::Debug>(result: Result<T>, code: ErrorCode) {
    assert_eq!(result.expect_err("this is refused").code(), code);
}
