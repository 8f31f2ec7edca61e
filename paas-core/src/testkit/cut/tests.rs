use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::{Cut, CutStore};
use crate::store::{
    ClaimRequest, Expect, ListQuery, MemoryStore, QueueEntry, Store, Table, Transaction, Write,
};
use crate::testkit::ManualClock;
use crate::{KindName, OwnerId, WorkflowId};

const TTL: Duration = Duration::from_secs(30);

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(Arc::new(ManualClock::default())))
}

fn put(key: &str, expect: Expect) -> Transaction {
    Transaction::new().write(Write::put(Table::Apps, key, "", expect, "{}".into()))
}

async fn keys(store: &Arc<dyn Store>) -> Vec<String> {
    let rows = store.list(Table::Apps, &ListQuery::all()).await.unwrap();
    rows.into_iter().map(|row| row.key).collect()
}

#[tokio::test]
async fn the_cut_falls_on_the_write_after_those_that_were_let_through() {
    for (cut, there) in [(Cut::Lost, vec!["a", "b"]), (Cut::Unanswered, vec!["a", "b", "c"])] {
        let inner = memory();
        let store = CutStore::new(inner.clone(), 2, cut);
        for key in ["a", "b"] {
            store.commit(put(key, Expect::Absent)).await.unwrap();
        }
        assert!(!store.is_cut());
        assert!(store.commit(put("c", Expect::Absent)).now_or_never().is_none(), "nobody hears of it");
        assert!(store.is_cut());
        store.cut().await;
        assert_eq!(keys(&inner).await, there);
        assert_eq!(store.writes(), there.len() as u64);
    }
}

#[tokio::test]
async fn after_the_cut_no_call_returns() {
    let inner = memory();
    let store = CutStore::new(inner.clone(), 0, Cut::Lost);
    assert!(store.lease("a", "me", TTL).now_or_never().is_none());
    assert!(store.get(Table::Apps, "a").now_or_never().is_none());
    assert!(store.list(Table::Apps, &ListQuery::all()).now_or_never().is_none());
    assert!(store.events(0, None, 1).now_or_never().is_none());
    assert!(store.leased("a").now_or_never().is_none());
    assert!(store.next_due().now_or_never().is_none());
    assert!(store.unlease("a", "me").now_or_never().is_none());
    assert!(store.commit(put("a", Expect::Any)).now_or_never().is_none());
    assert_eq!(inner.leased("a").await.unwrap(), None);
}

#[tokio::test]
async fn what_changes_nothing_is_no_write() {
    let store = CutStore::counting(memory());
    let kind = KindName::new("deploy").unwrap();
    let request = ClaimRequest::new(OwnerId::new(), TTL, vec![(kind.clone(), 1)]);
    assert_eq!(store.claim(&request).await.unwrap(), None);
    store.commit(put("a", Expect::Rev(1))).await.unwrap_err();
    assert_eq!(store.writes(), 0);
    store.commit(put("a", Expect::Absent)).await.unwrap();
    assert!(store.lease("a", "me", TTL).await.unwrap());
    assert!(!store.lease("a", "you", TTL).await.unwrap());
    store.unlease("a", "me").await.unwrap();
    assert_eq!(store.writes(), 3);
    let id = WorkflowId::new();
    let write = Write::put(Table::Workflows, id.to_string(), "app", Expect::Absent, "{}".into());
    store.commit(Transaction::new().write(write.standing(QueueEntry::queued("app", kind, 1)))).await.unwrap();
    assert!(store.claim(&request).await.unwrap().is_some());
    assert_eq!(store.writes(), 5);
}

#[tokio::test]
async fn an_engine_that_looks_for_work_in_vain_does_not_use_up_the_cut() {
    for cut in [Cut::Lost, Cut::Unanswered] {
        let store = CutStore::new(memory(), 0, cut);
        let request = ClaimRequest::new(OwnerId::new(), TTL, vec![(KindName::new("deploy").unwrap(), 1)]);
        assert_eq!(store.claim(&request).await.unwrap(), None);
        assert!(!store.is_cut());
    }
}
