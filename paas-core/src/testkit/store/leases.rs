use std::time::Duration;

use super::{ALMOST_TTL, TTL, World, assert_code, sentences};
use crate::ErrorCode;
use crate::store::{Expect, Table, Transaction, Write};

sentences![
    a_lease_is_held_by_one_owner,
    a_lease_that_ran_out_is_anybodys,
    a_lease_is_prolonged_by_its_owner_and_never_shortened,
    a_lease_is_given_back_only_by_its_owner,
    leases_of_other_names_are_apart,
    of_many_who_want_a_lease_one_gets_it,
    a_transaction_under_a_lease_needs_it,
];

const NAME: &str = "reconcile/app";

async fn a_lease_is_held_by_one_owner(w: World) {
    assert_eq!(holder(&w).await, None);
    assert!(take(&w, "a").await);
    assert!(!take(&w, "b").await);
    assert!(take(&w, "a").await, "its owner may take it again");
    assert_eq!(holder(&w).await.as_deref(), Some("a"));
}

async fn a_lease_that_ran_out_is_anybodys(w: World) {
    assert!(take(&w, "a").await);
    w.clock.advance(ALMOST_TTL);
    assert!(!take(&w, "b").await);
    w.clock.advance(Duration::from_micros(1));
    assert_eq!(holder(&w).await, None);
    assert!(take(&w, "b").await);
    assert!(!take(&w, "a").await);
    assert_eq!(holder(&w).await.as_deref(), Some("b"));
}

async fn a_lease_is_prolonged_by_its_owner_and_never_shortened(w: World) {
    assert!(take(&w, "a").await);
    w.clock.advance(TTL / 2);
    assert!(take(&w, "a").await);
    assert!(w.store.lease(NAME, "a", Duration::ZERO).await.expect("leasing works"));
    w.clock.advance(TTL / 2);
    assert_eq!(holder(&w).await.as_deref(), Some("a"));
    assert!(!take(&w, "b").await);
    w.clock.advance(TTL / 2);
    assert!(take(&w, "b").await);
}

async fn a_lease_is_given_back_only_by_its_owner(w: World) {
    assert!(take(&w, "a").await);
    w.store.unlease(NAME, "b").await.expect("giving back what one doesn't hold is no error");
    assert_eq!(holder(&w).await.as_deref(), Some("a"));
    w.store.unlease(NAME, "a").await.expect("giving back works");
    assert_eq!(holder(&w).await, None);
    assert!(take(&w, "b").await);
    w.store.unlease("none", "b").await.expect("a name that nobody took is no error");
}

async fn leases_of_other_names_are_apart(w: World) {
    assert!(take(&w, "a").await);
    for name in ["reconcile/app2", "reconcile/", "Reconcile/app", ""] {
        assert!(w.store.lease(name, "b", TTL).await.expect("leasing works"));
    }
    assert_eq!(holder(&w).await.as_deref(), Some("a"));
}

async fn of_many_who_want_a_lease_one_gets_it(w: World) {
    let takers = (0..16).map(|n| {
        let w = w.clone();
        tokio::spawn(async move { take(&w, &n.to_string()).await })
    });
    let taken = futures_util::future::join_all(takers).await;
    assert_eq!(taken.into_iter().filter(|t| *t.as_ref().expect("nobody panics")).count(), 1);
}

async fn a_transaction_under_a_lease_needs_it(w: World) {
    let under = |owner: &str| {
        let mut transaction =
            Transaction::new().write(Write::put(Table::Routes, "app", "", Expect::Any, "{}".into()));
        transaction.lease = Some((NAME.into(), owner.into()));
        transaction
    };
    assert_code(w.store.commit(under("a")).await, ErrorCode::LeaseLost);
    assert!(take(&w, "a").await);
    w.commit(under("a")).await;
    assert_code(w.store.commit(under("b")).await, ErrorCode::LeaseLost);
    let mut conflicting = under("b");
    conflicting.writes[0].expect = Expect::Absent;
    assert_code(w.store.commit(conflicting).await, ErrorCode::LeaseLost);
    w.clock.advance(TTL);
    assert_code(w.store.commit(under("a")).await, ErrorCode::LeaseLost);
    assert_eq!(w.get(Table::Routes, "app").await.rev, 1);
}

async fn take(w: &World, owner: &str) -> bool {
    w.store.lease(NAME, owner, TTL).await.expect("leasing works")
}

async fn holder(w: &World) -> Option<String> {
    w.store.leased(NAME).await.expect("reading works")
}
