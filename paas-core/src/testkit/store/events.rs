use std::time::Duration;

use tokio::time::timeout;

use super::{World, deploy, fence, sentences, standing};
use crate::store::{Expect, NewEvent, QueueState, Table, Transaction};
use crate::{OwnerId, WorkflowId};

/// No hint takes this long.
const WITHIN: Duration = Duration::from_secs(20);

sentences![
    events_are_read_in_the_order_of_their_places,
    a_commit_tells_the_place_of_the_newest_event,
    events_are_read_by_subject,
    whoever_follows_events_misses_none,
    old_events_are_forgotten_and_the_places_of_the_others_stay,
    a_commit_wakes_who_listens,
    a_lease_that_is_given_back_wakes_who_listens,
    whatever_may_make_work_claimable_wakes_who_claims,
];

async fn events_are_read_in_the_order_of_their_places(w: World) {
    assert_eq!(w.store.events(0, None, 10).await.expect("reading works"), []);
    let some = |names: &[&str]| {
        names.iter().fold(Transaction::new(), |t, name| t.event(NewEvent::new("app", (*name).into())))
    };
    w.commit(some(&["a", "b", "c"])).await;
    w.commit(some(&["d"])).await;
    assert_eq!(bodies(&w, 0, None, 10).await, ["a", "b", "c", "d"]);
    assert_eq!(bodies(&w, 0, None, 2).await, ["a", "b"]);
    let second = w.store.events(0, None, 2).await.expect("reading works")[1].seq;
    assert_eq!(bodies(&w, second, None, 10).await, ["c", "d"]);
    assert_eq!(bodies(&w, u64::MAX, None, 10).await, [""; 0]);
    assert_eq!(bodies(&w, 0, None, 0).await, [""; 0]);
    assert_eq!(bodies(&w, 0, None, usize::MAX).await.len(), 4);
}

async fn a_commit_tells_the_place_of_the_newest_event(w: World) {
    assert_eq!(w.commit(Transaction::new()).await, 0);
    let newest = w.append("app", "a").await;
    let events = w.store.events(0, None, 10).await.expect("reading works");
    assert_eq!(events.last().map(|event| event.seq), Some(newest));
    let unchanged = w.put(Table::Apps, "a", "", Expect::Any, "{}").await.expect("written");
    assert_eq!(unchanged, newest);
    assert!(w.append("other", "b").await > newest);
}

async fn events_are_read_by_subject(w: World) {
    for n in 0..6 {
        w.append(["a", "b", "ab"][n % 3], &n.to_string()).await;
    }
    assert_eq!(bodies(&w, 0, Some("a"), 10).await, ["0", "3"]);
    assert_eq!(bodies(&w, 0, Some("b"), 1).await, ["1"]);
    let seen = w.store.events(0, Some("b"), 1).await.expect("reading works")[0].seq;
    assert_eq!(bodies(&w, seen, Some("b"), 10).await, ["4"]);
    assert_eq!(bodies(&w, 0, Some("none"), 10).await, [""; 0]);
}

async fn old_events_are_forgotten_and_the_places_of_the_others_stay(w: World) {
    for n in 0..6 {
        w.append(["a", "b"][n % 2], &n.to_string()).await;
    }
    let all = w.store.events(0, None, 10).await.expect("reading works");
    let newest = w.commit(Transaction::new().trim(all[2].seq)).await;
    assert_eq!(newest, all[5].seq, "the newest place is what it was");
    assert_eq!(w.store.events(0, None, 10).await.expect("reading works"), all[3..]);
    assert_eq!(bodies(&w, 0, Some("a"), 10).await, ["4"]);
    assert_eq!(bodies(&w, all[0].seq, Some("b"), 10).await, ["3", "5"]);
    assert_eq!(bodies(&w, all[3].seq, None, 10).await, ["4", "5"]);
    // Not even of a place that is still to come.
    assert_eq!(w.commit(Transaction::new().trim(u64::MAX)).await, newest);
    assert_eq!(bodies(&w, 0, None, 10).await, ["5"], "the newest one stays");
    assert!(w.append("a", "6").await > newest, "no place is given twice");
    assert_eq!(bodies(&w, 0, None, 10).await, ["5", "6"]);
}

async fn whoever_follows_events_misses_none(w: World) {
    const WRITERS: usize = 8;
    const EACH: usize = 12;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let w = w.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    w.append(&writer.to_string(), &n.to_string()).await;
                }
            })
        })
        .collect();
    let (mut cursor, mut seen) = (0, Vec::new());
    while seen.len() < WRITERS * EACH {
        for event in w.store.events(cursor, None, 5).await.expect("reading works") {
            assert!(event.seq > cursor, "places grow");
            cursor = event.seq;
            seen.push(event);
        }
        tokio::task::yield_now().await;
        assert!(
            seen.len() == WRITERS * EACH
                || !writers.iter().all(tokio::task::JoinHandle::is_finished)
                || !w.store.events(cursor, None, 1).await.expect("reading works").is_empty(),
            "{} of {} events were never seen",
            WRITERS * EACH - seen.len(),
            WRITERS * EACH,
        );
    }
    for writer in 0..WRITERS {
        let own = seen.iter().filter(|event| event.subject == writer.to_string());
        assert!(own.map(|event| event.body.parse()).eq((0..EACH).map(Ok)), "each writer's in its order");
    }
    for writer in writers {
        writer.await.expect("no writer panics");
    }
}

async fn a_commit_wakes_who_listens(w: World) {
    let mut changes = w.store.changes();
    changes.mark_unchanged();
    w.append("app", "a").await;
    changes.changed().await.expect("the store is there");
}

async fn a_lease_that_is_given_back_wakes_who_listens(w: World) {
    w.store.lease("a", "me", super::TTL).await.expect("leasing works");
    let mut changes = w.store.changes();
    changes.mark_unchanged();
    w.store.unlease("a", "me").await.expect("giving back works");
    changes.changed().await.expect("the store is there");
}

async fn whatever_may_make_work_claimable_wakes_who_claims(w: World) {
    let mut queue = w.store.queue_changes();
    let mut woken = async |what: &str, change: Transaction| {
        queue.mark_unchanged();
        w.commit(change).await;
        let woken = timeout(WITHIN, queue.changed()).await;
        woken.unwrap_or_else(|_| panic!("{what} wakes who claims")).expect("the store is there");
    };
    let id = WorkflowId::new();
    let with = |state| {
        let mut entry = deploy("app");
        entry.state = state;
        standing(id, entry)
    };
    woken("a new workflow", Transaction::new().write(with(QueueState::Queued))).await;
    let own = fence(&w.claim_row(OwnerId::new()).await.expect("it waits"));
    let yields = Transaction::new().fenced(own).write(with(QueueState::Active).yielding());
    woken("one that is given back", yields).await;
    woken("one that a person brings forward", Transaction::new().write(with(QueueState::Active))).await;
    let own = fence(&w.claim_row(OwnerId::new()).await.expect("it was given back"));
    woken("the end of one", Transaction::new().fenced(own).write(with(QueueState::Ended))).await;
    w.store.lease("turn/app", "me", super::TTL).await.expect("leasing works");
    queue.mark_unchanged();
    w.store.unlease("turn/app", "me").await.expect("giving back works");
    let woken = timeout(WITHIN, queue.changed()).await;
    woken.expect("a turn that is given back wakes who claims").expect("the store is there");
}

async fn bodies(w: &World, after: u64, subject: Option<&str>, limit: usize) -> Vec<String> {
    let events = w.store.events(after, subject, limit).await.expect("reading works");
    events.into_iter().map(|event| event.body).collect()
}
