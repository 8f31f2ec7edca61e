use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;

use super::{ALMOST_TTL, TTL, World, assert_code, deploy, fence, kind, sentences, standing};
use crate::store::{ClaimRequest, Expect, QueueEntry, QueueState, Table, Transaction, Write, turn_lease};
use crate::{Clock, ErrorCode, OwnerId, TurnId, WorkflowId};

sentences![
    a_claimed_workflow_is_active_and_owned,
    workflows_are_claimed_in_the_order_of_their_places,
    one_workflow_of_a_subject_runs_at_a_time,
    a_subjects_order_holds_also_for_what_nobody_here_can_claim,
    only_known_kinds_and_versions_are_claimed,
    nothing_is_claimed_before_it_is_due,
    what_was_left_behind_is_claimed_before_what_waits,
    what_was_left_behind_is_claimed_in_order,
    every_claim_has_the_next_fence,
    only_the_newest_claim_may_write,
    a_lost_lease_is_told_before_a_conflict,
    a_claim_that_ran_out_still_writes_while_nobody_took_over,
    a_claim_ends_with_its_workflow,
    yielding_lets_somebody_else_go_on_when_it_is_due,
    a_parked_workflow_lets_others_pass_and_keeps_its_place,
    renewing_prolongs_a_claim_and_tells_the_revision,
    renewing_never_shortens_a_claim,
    of_many_claimers_each_workflow_is_given_to_one,
    a_held_turn_keeps_its_subject_from_everybody_else,
    a_claim_takes_the_turn_that_its_workflow_names,
    a_turn_that_runs_out_frees_its_subject,
    the_next_due_time_is_never_too_late,
    times_are_kept_to_the_microsecond,
];

async fn a_claimed_workflow_is_active_and_owned(w: World) {
    let id = w.queue("app").await;
    let waiting = w.workflow(id).await.queue.expect("a workflow has a standing");
    assert_eq!((waiting.place, waiting.fence, waiting.owner, waiting.lease_until), (1, 0, None, None));
    let owner = OwnerId::new();
    let row = w.claim_row(owner).await.expect("it waits");
    assert_eq!(row, w.workflow(id).await, "the answer is what is kept");
    assert_eq!((row.rev, row.body.as_str(), row.parent.as_str()), (2, "{}", "app"));
    let queue = row.queue.expect("a workflow has a standing");
    assert_eq!(queue.entry.state, QueueState::Active);
    assert_eq!((queue.place, queue.fence, queue.owner), (1, 1, Some(owner)));
    assert_eq!(queue.lease_until, Some(w.clock.now() + TTL));
    assert_eq!(w.claim(owner).await, None, "it is not given twice, not even to its owner");
}

async fn workflows_are_claimed_in_the_order_of_their_places(w: World) {
    let ids = [w.queue("c").await, w.queue("a").await, w.queue("b").await];
    w.stand(ids[0], deploy("c")).await;
    for id in ids {
        assert_eq!(w.claim(OwnerId::new()).await, Some(id));
    }
    assert_eq!(w.claim(OwnerId::new()).await, None);
}

async fn one_workflow_of_a_subject_runs_at_a_time(w: World) {
    let (first, second, other) = (w.queue("app").await, w.queue("app").await, w.queue("other").await);
    let row = w.claim_row(OwnerId::new()).await.expect("the first waits");
    assert_eq!(row.key, first.to_string());
    assert_eq!(w.claim(OwnerId::new()).await, Some(other), "another subject doesn't wait");
    assert_eq!(w.claim(OwnerId::new()).await, None);
    end(&w, first).await;
    assert_eq!(w.claim(OwnerId::new()).await, Some(second));
}

async fn a_subjects_order_holds_also_for_what_nobody_here_can_claim(w: World) {
    let (unknown, later) = (WorkflowId::new(), WorkflowId::new());
    w.stand(unknown, QueueEntry::queued("a", kind("strange"), 1)).await;
    w.queue("a").await;
    w.stand(later, QueueEntry { not_before: Some(w.clock.now() + TTL), ..deploy("b") }).await;
    w.queue("b").await;
    assert_eq!(w.claim(OwnerId::new()).await, None);
    w.clock.advance(TTL);
    assert_eq!(w.claim(OwnerId::new()).await, Some(later));
    assert_eq!(w.claim(OwnerId::new()).await, None);
}

async fn only_known_kinds_and_versions_are_claimed(w: World) {
    for (subject, name, version) in
        [("a", "deploy", 2), ("b", "rollback", 1), ("c", "deploy", 11), ("d", "eploy", 1)]
    {
        w.stand(WorkflowId::new(), QueueEntry::queued(subject, kind(name), version)).await;
    }
    assert_eq!(w.claim(OwnerId::new()).await, None);
    let none = ClaimRequest::new(OwnerId::new(), TTL, vec![]);
    assert_eq!(w.store.claim(&none).await.expect("claiming works"), None);
    let many = ClaimRequest::new(OwnerId::new(), TTL, vec![(kind("rollback"), 1), (kind("deploy"), 2)]);
    for expected in ["deploy", "rollback"] {
        let row = w.store.claim(&many).await.expect("claiming works").expect("two of them are known");
        assert_eq!(row.queue.map(|q| q.entry.kind), Some(kind(expected)));
    }
    assert_eq!(w.store.claim(&many).await.expect("claiming works"), None);
}

async fn nothing_is_claimed_before_it_is_due(w: World) {
    let id = WorkflowId::new();
    w.stand(id, QueueEntry { not_before: Some(w.clock.now() + TTL), ..deploy("app") }).await;
    assert_eq!(w.claim(OwnerId::new()).await, None);
    w.clock.advance(ALMOST_TTL);
    assert_eq!(w.claim(OwnerId::new()).await, None);
    w.clock.advance(Duration::from_micros(1));
    let row = w.claim_row(OwnerId::new()).await.expect("it is due now");
    assert_eq!(row.queue.and_then(|q| q.entry.not_before), None, "the time is cleared");
}

async fn what_was_left_behind_is_claimed_before_what_waits(w: World) {
    let waiting = w.queue("b").await;
    let left = w.queue("a").await;
    w.stand(left, QueueEntry { state: QueueState::Active, ..deploy("a") }).await;
    assert_eq!(w.claim(OwnerId::new()).await, Some(left), "active with no owner");
    w.clock.advance(ALMOST_TTL);
    assert_eq!(w.claim(OwnerId::new()).await, Some(waiting), "the lease still holds");
    w.queue("c").await;
    w.clock.advance(Duration::from_micros(1));
    assert_eq!(w.claim(OwnerId::new()).await, Some(left), "the lease ran out");
}

async fn what_was_left_behind_is_claimed_in_order(w: World) {
    let (first, second) = (w.queue("a").await, w.queue("b").await);
    let owner = OwnerId::new();
    assert_eq!(w.claim(owner).await, Some(first));
    let row = w.claim_row(owner).await.expect("the second waits");
    w.clock.advance(TTL / 2);
    let newer = fence(&w.workflow(first).await);
    w.store.renew(&newer, TTL).await.expect("the claim holds");
    w.clock.advance(TTL);
    assert_eq!(fence(&row).workflow, second);
    assert_eq!(w.claim(OwnerId::new()).await, Some(first), "by place, not by the lease's end");
    assert_eq!(w.claim(OwnerId::new()).await, Some(second));
}

async fn every_claim_has_the_next_fence(w: World) {
    let id = w.queue("app").await;
    for number in 1..=3 {
        let row = w.claim_row(OwnerId::new()).await.expect("the lease ran out");
        assert_eq!((fence(&row).workflow, fence(&row).number), (id, number));
        w.clock.advance(TTL);
    }
}

async fn only_the_newest_claim_may_write(w: World) {
    let id = w.queue("app").await;
    let stale = fence(&w.claim_row(OwnerId::new()).await.expect("it waits"));
    w.clock.advance(TTL);
    let newest = fence(&w.claim_row(OwnerId::new()).await.expect("the lease ran out"));
    let under = |fence| Transaction::new().fenced(fence).write(standing(id, active("app")));
    assert_code(w.store.commit(under(stale)).await, ErrorCode::LeaseLost);
    assert_code(w.store.renew(&stale, TTL).await, ErrorCode::LeaseLost);
    w.commit(under(newest)).await;
    let mut other = newest;
    other.owner = OwnerId::new();
    assert_code(w.store.commit(under(other)).await, ErrorCode::LeaseLost);
    other = newest;
    other.number += 1;
    assert_code(w.store.commit(under(other)).await, ErrorCode::LeaseLost);
    other = newest;
    other.workflow = WorkflowId::new();
    assert_code(w.store.commit(under(other)).await, ErrorCode::LeaseLost);
}

async fn a_lost_lease_is_told_before_a_conflict(w: World) {
    let id = w.queue("app").await;
    let stale = fence(&w.claim_row(OwnerId::new()).await.expect("it waits"));
    end(&w, id).await;
    let conflicting = Write::put(Table::Apps, "none", "", Expect::Rev(9), "{}".into());
    let wrong = Transaction::new().fenced(stale).write(conflicting);
    assert_code(w.store.commit(wrong).await, ErrorCode::LeaseLost);
}

async fn a_claim_that_ran_out_still_writes_while_nobody_took_over(w: World) {
    let id = w.queue("app").await;
    let fence = fence(&w.claim_row(OwnerId::new()).await.expect("it waits"));
    w.clock.advance(TTL * 10);
    w.commit(Transaction::new().fenced(fence).write(standing(id, active("app")))).await;
    w.store.renew(&fence, TTL).await.expect("nobody took over");
    assert_eq!(w.claim(OwnerId::new()).await, None);
}

async fn a_claim_ends_with_its_workflow(w: World) {
    for state in [QueueState::Ended, QueueState::Parked, QueueState::Queued] {
        let id = w.queue("app").await;
        let claim = fence(&w.claim_row(OwnerId::new()).await.expect("it waits"));
        let entry = QueueEntry { state, ..deploy("app") };
        w.commit(Transaction::new().fenced(claim).write(standing(id, entry))).await;
        let queue = w.workflow(id).await.queue.expect("a workflow has a standing");
        assert_eq!((queue.owner, queue.lease_until, queue.fence), (None, None, claim.number));
        assert_code(w.store.renew(&claim, TTL).await, ErrorCode::LeaseLost);
        end(&w, id).await;
    }
}

async fn yielding_lets_somebody_else_go_on_when_it_is_due(w: World) {
    let (id, next) = (w.queue("app").await, w.queue("app").await);
    let claim = fence(&w.claim_row(OwnerId::new()).await.expect("it waits"));
    let entry = QueueEntry { not_before: Some(w.clock.now() + TTL / 2), ..active("app") };
    w.commit(Transaction::new().fenced(claim).write(standing(id, entry).yielding())).await;
    assert_code(w.store.renew(&claim, TTL).await, ErrorCode::LeaseLost);
    assert_eq!(w.claim(OwnerId::new()).await, None, "it keeps its subject's turn meanwhile");
    w.clock.advance(TTL / 2);
    assert_eq!(w.claim(OwnerId::new()).await, Some(id));
    end(&w, id).await;
    assert_eq!(w.claim(OwnerId::new()).await, Some(next));
}

async fn a_parked_workflow_lets_others_pass_and_keeps_its_place(w: World) {
    let (first, second, third) = (w.queue("app").await, w.queue("app").await, w.queue("app").await);
    assert_eq!(w.claim(OwnerId::new()).await, Some(first));
    w.stand(first, QueueEntry { state: QueueState::Parked, ..deploy("app") }).await;
    assert_eq!(w.claim(OwnerId::new()).await, Some(second));
    w.stand(first, deploy("app")).await;
    assert_eq!(w.claim(OwnerId::new()).await, None);
    end(&w, second).await;
    assert_eq!(w.claim(OwnerId::new()).await, Some(first), "it has a lower place than the third");
    end(&w, first).await;
    assert_eq!(w.claim(OwnerId::new()).await, Some(third));
}

async fn renewing_prolongs_a_claim_and_tells_the_revision(w: World) {
    let id = w.queue("app").await;
    let claim = fence(&w.claim_row(OwnerId::new()).await.expect("it waits"));
    w.clock.advance(TTL / 2);
    assert_eq!(w.store.renew(&claim, TTL).await.expect("the claim holds"), 2);
    let queue = w.workflow(id).await.queue.expect("a workflow has a standing");
    assert_eq!(queue.lease_until, Some(w.clock.now() + TTL));
    w.put(Table::Workflows, &id.to_string(), "app", Expect::Any, "cancel").await.expect("anybody may write");
    assert_eq!(w.store.renew(&claim, TTL).await.expect("the claim holds"), 3);
}

async fn renewing_never_shortens_a_claim(w: World) {
    let id = w.queue("app").await;
    let claim = fence(&w.claim_row(OwnerId::new()).await.expect("it waits"));
    w.store.renew(&claim, Duration::from_secs(1)).await.expect("the claim holds");
    let queue = w.workflow(id).await.queue.expect("a workflow has a standing");
    assert_eq!(queue.lease_until, Some(w.clock.now() + TTL));
    w.store.renew(&claim, Duration::MAX).await.expect("for ever is a time, too");
    w.clock.advance(TTL * 1000);
    assert_eq!(w.claim(OwnerId::new()).await, None);
}

async fn of_many_claimers_each_workflow_is_given_to_one(w: World) {
    let mut left = BTreeSet::new();
    for n in 0..24 {
        left.insert(w.queue(&format!("app-{}", n % 12)).await);
    }
    while !left.is_empty() {
        let claimers = (0..16).map(|_| {
            let w = w.clone();
            tokio::spawn(async move { w.claim(OwnerId::new()).await })
        });
        let claims = futures_util::future::join_all(claimers).await;
        let claimed: Vec<_> = claims.into_iter().filter_map(|c| c.expect("no claimer panics")).collect();
        assert_eq!(claimed.len(), 12, "one of each subject");
        for id in claimed {
            assert!(left.remove(&id), "{id} was given twice");
            end(&w, id).await;
        }
    }
}

async fn a_held_turn_keeps_its_subject_from_everybody_else(w: World) {
    let (mine, others) = (TurnId::new(), TurnId::new());
    let turn = turn_lease("app");
    w.stand(WorkflowId::new(), QueueEntry { turn: Some(others), ..deploy("app") }).await;
    assert!(w.store.lease(&turn, &mine.to_string(), TTL).await.expect("leasing works"));
    assert_eq!(w.claim(OwnerId::new()).await, None);
    let other = w.queue("app2").await;
    assert_eq!(w.claim(OwnerId::new()).await, Some(other), "only that subject is held");
    let own = WorkflowId::new();
    w.stand(own, QueueEntry { turn: Some(mine), ..active("app") }).await;
    assert_eq!(w.claim(OwnerId::new()).await, Some(own), "the holder's own");
    end(&w, own).await;
    assert_eq!(w.claim(OwnerId::new()).await, None, "the turn outlives the workflow");
    w.store.unlease(&turn, &mine.to_string()).await.expect("giving back works");
    assert!(w.claim(OwnerId::new()).await.is_some());
}

async fn a_claim_takes_the_turn_that_its_workflow_names(w: World) {
    let turn = TurnId::new();
    let (id, next) = (WorkflowId::new(), WorkflowId::new());
    w.stand(id, QueueEntry { turn: Some(turn), ..deploy("app") }).await;
    w.stand(next, deploy("app")).await;
    assert_eq!(w.claim(OwnerId::new()).await, Some(id));
    let held = async || w.store.leased(&turn_lease("app")).await.expect("reading works");
    assert_eq!(held().await, Some(turn.to_string()));
    end(&w, id).await;
    assert_eq!(w.claim(OwnerId::new()).await, None, "its turn goes on after its end");
    w.store.unlease(&turn_lease("app"), &turn.to_string()).await.expect("giving back works");
    assert_eq!(w.claim(OwnerId::new()).await, Some(next));
    assert_eq!(held().await, None, "this one names none");
    w.stand(next, QueueEntry { turn: Some(turn), ..active("app") }).await;
    w.clock.advance(TTL);
    assert_eq!(w.claim(OwnerId::new()).await, Some(next));
    assert_eq!(held().await, None, "whoever follows a dead engine doesn't bring a dead holder back");
}

async fn a_turn_that_runs_out_frees_its_subject(w: World) {
    let id = w.queue("app").await;
    let holder = TurnId::new().to_string();
    w.store.lease(&turn_lease("app"), &holder, TTL).await.expect("leasing works");
    assert_eq!(w.claim(OwnerId::new()).await, None);
    assert_eq!(w.store.next_due().await.expect("reading works"), Some(w.clock.now() + TTL));
    w.clock.advance(TTL);
    assert_eq!(w.claim(OwnerId::new()).await, Some(id));
}

async fn the_next_due_time_is_never_too_late(w: World) {
    let due = async || w.store.next_due().await.expect("reading works");
    let in_secs = |secs| w.clock.now() + Duration::from_secs(secs);
    assert_eq!(due().await, None);
    let late = in_secs(50);
    w.stand(WorkflowId::new(), QueueEntry { not_before: Some(late), ..deploy("a") }).await;
    assert_eq!(due().await, Some(late));
    let yielded = in_secs(40);
    let entry = QueueEntry { not_before: Some(yielded), ..active("b") };
    w.stand(WorkflowId::new(), entry).await;
    assert_eq!(due().await, Some(yielded));
    let id = w.queue("c").await;
    w.claim(OwnerId::new()).await.expect("it waits");
    assert_eq!(due().await, Some(w.clock.now() + TTL), "a lease's end");
    end(&w, id).await;
    assert_eq!(due().await, Some(yielded));
    w.stand(
        WorkflowId::new(),
        QueueEntry { not_before: Some(in_secs(1)), state: QueueState::Parked, ..deploy("d") },
    )
    .await;
    assert_eq!(due().await, Some(yielded), "what is parked isn't due");
    w.clock.advance(Duration::from_secs(40));
    assert_eq!(due().await, Some(late), "what is due already is past");
    w.clock.advance(Duration::from_secs(10));
    assert_eq!(due().await, None);
}

async fn times_are_kept_to_the_microsecond(w: World) {
    let id = WorkflowId::new();
    let exact = w.clock.now() + TimeDelta::nanoseconds(1_234_567);
    w.stand(id, QueueEntry { not_before: Some(exact), ..deploy("app") }).await;
    let kept = w.workflow(id).await.queue.and_then(|q| q.entry.not_before);
    assert_eq!(kept, Some(w.clock.now() + TimeDelta::microseconds(1_234)));
}

fn active(subject: &str) -> QueueEntry {
    QueueEntry { state: QueueState::Active, ..deploy(subject) }
}

async fn end(w: &World, id: WorkflowId) {
    let subject = w.workflow(id).await.queue.expect("a workflow has a standing").entry.subject;
    w.stand(id, QueueEntry { state: QueueState::Ended, ..deploy(&subject) }).await;
}
