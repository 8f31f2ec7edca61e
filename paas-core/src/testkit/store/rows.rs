use super::{World, assert_code, deploy, kind, sentences, standing};
use crate::store::{Expect, ListQuery, NewEvent, QueueEntry, QueueState, Row, Table, Transaction, Write};
use crate::{ErrorCode, WorkflowId};

sentences![
    what_was_written_is_read_back,
    a_new_row_is_at_revision_one_and_every_write_adds_one,
    a_row_that_is_made_again_starts_at_revision_one,
    deleting_what_is_not_there_is_no_error,
    an_expectation_that_does_not_hold_is_a_conflict,
    a_refused_transaction_changes_nothing,
    later_writes_of_a_transaction_see_the_earlier_ones,
    tables_do_not_mix,
    rows_are_listed_in_the_order_of_their_keys_bytes,
    a_list_can_be_read_in_pages_from_both_ends,
    workflows_are_listed_by_state,
    only_workflows_have_standings,
    a_write_without_a_standing_keeps_it,
    of_many_writers_who_expect_the_same_one_wins,
];

async fn what_was_written_is_read_back(w: World) {
    let body = r#"{"text":"a \"quote\", 'another', a NUL \u0000, é and 🦀; DROP TABLE apps"}"#;
    for key in ["hello", "with space", "a/b", "é", "%_*", "'; --", ""] {
        w.put(Table::Apps, key, "p/1 ?", Expect::Absent, body).await.expect("any text is a key");
        assert_eq!(w.get(Table::Apps, key).await, Row::new(key.into(), "p/1 ?".into(), 1, body.into(), None));
    }
    assert_eq!(w.store.get(Table::Apps, "Hello").await.expect("reading works"), None);
}

async fn a_new_row_is_at_revision_one_and_every_write_adds_one(w: World) {
    for (expect, rev) in [(Expect::Absent, 1), (Expect::Rev(1), 2), (Expect::Any, 3), (Expect::Rev(3), 4)] {
        w.put(Table::Apps, "hello", "", expect, "{}").await.expect("the expectation holds");
        assert_eq!(w.get(Table::Apps, "hello").await.rev, rev);
    }
}

async fn a_row_that_is_made_again_starts_at_revision_one(w: World) {
    w.put(Table::Apps, "hello", "", Expect::Any, "1").await.expect("written");
    w.put(Table::Apps, "hello", "", Expect::Any, "2").await.expect("written");
    w.commit(Transaction::new().write(Write::delete(Table::Apps, "hello", Expect::Rev(2)))).await;
    assert_eq!(w.store.get(Table::Apps, "hello").await.expect("reading works"), None);
    w.put(Table::Apps, "hello", "", Expect::Absent, "3").await.expect("written");
    assert_eq!(w.get(Table::Apps, "hello").await.rev, 1);
}

async fn deleting_what_is_not_there_is_no_error(w: World) {
    w.commit(Transaction::new().write(Write::delete(Table::Apps, "hello", Expect::Any))).await;
    w.commit(Transaction::new().write(Write::delete(Table::Apps, "hello", Expect::Absent))).await;
}

async fn an_expectation_that_does_not_hold_is_a_conflict(w: World) {
    assert_code(w.put(Table::Apps, "hello", "", Expect::Rev(1), "{}").await, ErrorCode::Conflict);
    w.put(Table::Apps, "hello", "", Expect::Absent, "{}").await.expect("written");
    assert_code(w.put(Table::Apps, "hello", "", Expect::Absent, "{}").await, ErrorCode::Conflict);
    assert_code(w.put(Table::Apps, "hello", "", Expect::Rev(2), "{}").await, ErrorCode::Conflict);
    assert_code(w.put(Table::Apps, "hello", "", Expect::Rev(0), "{}").await, ErrorCode::Conflict);
    let delete = Transaction::new().write(Write::delete(Table::Apps, "hello", Expect::Rev(7)));
    assert_code(w.store.commit(delete).await, ErrorCode::Conflict);
    assert_eq!(w.get(Table::Apps, "hello").await.rev, 1);
}

async fn a_refused_transaction_changes_nothing(w: World) {
    w.put(Table::Apps, "there", "", Expect::Absent, "old").await.expect("written");
    let newest = w.append("app", "before").await;
    let id = WorkflowId::new();
    let refused = Transaction::new()
        .write(Write::put(Table::Apps, "there", "", Expect::Rev(1), "new".into()))
        .write(Write::put(Table::Apps, "other", "", Expect::Absent, "new".into()))
        .write(standing(id, deploy("app")))
        .write(Write::put(Table::Apps, "missing", "", Expect::Rev(3), "new".into()))
        .event(NewEvent::new("app", "never".into()));
    assert_code(w.store.commit(refused).await, ErrorCode::Conflict);
    assert_eq!(w.get(Table::Apps, "there").await.body, "old");
    assert_eq!(w.store.get(Table::Apps, "other").await.expect("reading works"), None);
    assert_eq!(w.store.get(Table::Workflows, &id.to_string()).await.expect("reading works"), None);
    assert_eq!(w.store.events(newest, None, 10).await.expect("reading works"), []);
    let next = w.queue("app").await;
    assert_eq!(w.workflow(next).await.queue.map(|q| q.place), Some(1), "no place was used up");
    assert_eq!(w.append("app", "after").await, newest + 1, "no event's place was used up");
}

async fn later_writes_of_a_transaction_see_the_earlier_ones(w: World) {
    w.commit(
        Transaction::new()
            .write(Write::put(Table::Apps, "a", "", Expect::Absent, "1".into()))
            .write(Write::put(Table::Apps, "a", "", Expect::Rev(1), "2".into()))
            .write(Write::put(Table::Apps, "b", "", Expect::Absent, "1".into()))
            .write(Write::delete(Table::Apps, "b", Expect::Rev(1))),
    )
    .await;
    let row = w.get(Table::Apps, "a").await;
    assert_eq!((row.rev, row.body.as_str()), (2, "2"));
    assert_eq!(w.store.get(Table::Apps, "b").await.expect("reading works"), None);
}

async fn tables_do_not_mix(w: World) {
    let plain = Table::ALL.iter().filter(|table| **table != Table::Workflows);
    for table in plain.clone() {
        w.put(*table, "key", "parent", Expect::Absent, table.as_str()).await.expect("the row is new");
    }
    for table in plain {
        assert_eq!(w.get(*table, "key").await.body, table.as_str());
        assert_eq!(keys(&w, *table, ListQuery::all()).await, ["key"]);
    }
}

async fn rows_are_listed_in_the_order_of_their_keys_bytes(w: World) {
    for (key, parent) in
        [("b", "p"), ("a", "q"), ("B", "p"), ("a-b", "p"), ("é", "p"), ("a0", "p"), ("10", "q")]
    {
        w.put(Table::Releases, key, parent, Expect::Absent, "{}").await.expect("written");
    }
    assert_eq!(keys(&w, Table::Releases, ListQuery::all()).await, ["10", "B", "a", "a-b", "a0", "b", "é"]);
    assert_eq!(keys(&w, Table::Releases, ListQuery::of("p")).await, ["B", "a-b", "a0", "b", "é"]);
    assert_eq!(keys(&w, Table::Releases, ListQuery::of("none")).await, [""; 0]);
    w.put(Table::Releases, "b", "q", Expect::Any, "{}").await.expect("a row can move to another parent");
    assert_eq!(keys(&w, Table::Releases, ListQuery::of("q")).await, ["10", "a", "b"]);
}

async fn a_list_can_be_read_in_pages_from_both_ends(w: World) {
    for key in ["a", "b", "c", "d", "e"] {
        w.put(Table::Releases, key, "p", Expect::Absent, "{}").await.expect("written");
    }
    w.put(Table::Releases, "bb", "other", Expect::Absent, "{}").await.expect("written");
    let of = || ListQuery::of("p");
    assert_eq!(keys(&w, Table::Releases, of().limit(2)).await, ["a", "b"]);
    assert_eq!(keys(&w, Table::Releases, of().after("b").limit(2)).await, ["c", "d"]);
    assert_eq!(keys(&w, Table::Releases, of().after("bbb")).await, ["c", "d", "e"]);
    assert_eq!(keys(&w, Table::Releases, of().after("e")).await, [""; 0]);
    assert_eq!(keys(&w, Table::Releases, of().descending().limit(1)).await, ["e"]);
    assert_eq!(keys(&w, Table::Releases, of().descending().after("c")).await, ["b", "a"]);
    assert_eq!(
        keys(&w, Table::Releases, ListQuery::all().descending().after("c").limit(2)).await,
        ["bb", "b"]
    );
    assert_eq!(keys(&w, Table::Releases, of().limit(0)).await, [""; 0]);
}

async fn workflows_are_listed_by_state(w: World) {
    use QueueState::{Active, Ended, Parked, Queued};
    for (key, parent, state) in
        [("1", "p", Ended), ("2", "p", Queued), ("3", "q", Active), ("4", "p", Parked), ("5", "p", Ended)]
    {
        let mut entry = QueueEntry::queued(parent, kind("deploy"), 1);
        entry.state = state;
        let put = Write::put(Table::Workflows, key, parent, Expect::Absent, "{}".into());
        w.commit(Transaction::new().write(put.standing(entry))).await;
    }
    let list = async |query| keys(&w, Table::Workflows, query).await;
    assert_eq!(list(ListQuery::all()).await, ["1", "2", "3", "4", "5"]);
    assert_eq!(list(ListQuery::all().states([Queued, Active, Parked])).await, ["2", "3", "4"]);
    assert_eq!(list(ListQuery::of("p").states([Ended])).await, ["1", "5"]);
    assert_eq!(list(ListQuery::of("p").states([Ended, Parked]).descending().limit(2)).await, ["5", "4"]);
    assert_eq!(list(ListQuery::of("p").states([Ended, Ended, Queued]).after("1")).await, ["2", "5"]);
    w.put(Table::Apps, "a", "p", Expect::Absent, "{}").await.expect("written");
    assert_eq!(keys(&w, Table::Apps, ListQuery::of("p").states([Queued])).await, [""; 0]);
}

async fn only_workflows_have_standings(w: World) {
    let put = Write::put(Table::Apps, "a", "", Expect::Any, "{}".into());
    let wrong = w.store.commit(Transaction::new().write(put.standing(deploy("a")))).await;
    assert_code(wrong, ErrorCode::InvalidParams);
    assert_code(w.put(Table::Workflows, "w", "", Expect::Any, "{}").await, ErrorCode::InvalidParams);
}

async fn a_write_without_a_standing_keeps_it(w: World) {
    let id = w.queue("app").await;
    w.claim_row(crate::OwnerId::new()).await.expect("it can be claimed");
    let before = w.workflow(id).await;
    w.put(Table::Workflows, &id.to_string(), "app", Expect::Rev(before.rev), "new").await.expect("written");
    let after = w.workflow(id).await;
    assert_eq!((after.rev, after.body.as_str(), after.queue), (before.rev + 1, "new", before.queue));
}

async fn of_many_writers_who_expect_the_same_one_wins(w: World) {
    for round in 0..8_u64 {
        let expect = if round == 0 { Expect::Absent } else { Expect::Rev(round) };
        let writers = (0..16).map(|n| {
            let w = w.clone();
            tokio::spawn(async move { w.put(Table::Apps, "hello", "", expect, &n.to_string()).await })
        });
        let results = futures_util::future::join_all(writers).await;
        let won = results.into_iter().map(|r| r.expect("no writer panics")).filter(|r| match r {
            Ok(_) => true,
            Err(e) if e.code() == ErrorCode::Conflict => false,
            Err(e) => panic!("neither written nor a conflict: {e}"),
        });
        assert_eq!(won.count(), 1);
        assert_eq!(w.get(Table::Apps, "hello").await.rev, round + 1);
    }
}

async fn keys(w: &World, table: Table, query: ListQuery) -> Vec<String> {
    let rows = w.store.list(table, &query).await.expect("listing works");
    rows.into_iter().map(|row| row.key).collect()
}
