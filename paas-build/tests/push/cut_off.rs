//! Pushers, gits and platforms that end in the middle of a push.

use std::time::Duration;

use paas_build::{GitReceive, GitRepos};
use paas_core::WorkflowState;
use paas_core::testkit::world::Fault;

use crate::world::{Platform, until};

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_push_is_undone_before_the_pivot() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    let commit = tree.commit("say one\nwait").await;
    let mut push = tree.begin_push(&["main"]);
    push.until("one").await;
    push.interrupt();
    assert!(!push.end().await.0);
    platform.at_rest("hello").await;
    assert_eq!(platform.ended("hello").await, [WorkflowState::Cancelled]);
    assert_eq!(platform.branch("main").await, None);
    until("git has cleaned up", async || platform.quarantines().is_empty()).await;
    // Nothing stands in the way of the next one.
    platform.gate.add_permits(1);
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(accepted, "{said}");
    assert_eq!(platform.live("hello").await, [commit]);
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_push_is_finished_after_the_pivot_and_the_branch_moves() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    let commit = tree.commit("say one").await;
    platform.fakes.world.plan("apply", [Fault::Delay(Duration::from_secs(1))]);
    let mut push = tree.begin_push(&["main"]);
    push.until("one").await;
    until("the release is live", async || !platform.live("hello").await.is_empty()).await;
    push.interrupt();
    assert!(!push.end().await.0);
    until("the branch has moved", async || platform.branch("main").await == Some(commit.clone())).await;
    platform.at_rest("hello").await;
    assert_eq!(platform.ended("hello").await, [WorkflowState::Succeeded]);
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_is_undone_when_git_is_killed() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    tree.commit("say one\nwait").await;
    let mut push = tree.begin_push(&["main"]);
    push.until("one").await;
    platform.kill_git("receive-pack");
    let (accepted, said) = push.end().await;
    assert!(!accepted && said.contains("git ended early; push again"), "{said}");
    platform.at_rest("hello").await;
    assert_eq!(platform.ended("hello").await, [WorkflowState::Cancelled]);
    platform.gate.add_permits(1);
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(accepted, "{said}");
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_goes_down_says_so_and_keeps_nothing_half_done() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    tree.commit("say one\nwait").await;
    let mut push = tree.begin_push(&["main"]);
    push.until("one").await;
    platform.receive.shutdown().await;
    let (accepted, said) = push.end().await;
    assert!(!accepted && said.contains("the platform is shutting down; push again later"), "{said}");
    platform.at_rest("hello").await;
    assert_eq!(platform.ended("hello").await, [WorkflowState::Cancelled]);
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_killed_processes_left_behind_is_removed_at_the_next_start() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    tree.commit("say one").await;
    assert!(tree.push(&["main"]).await.0);
    let stale = platform.repo().join("objects/tmp_objdir-incoming-AbC123");
    std::fs::create_dir(&stale).unwrap();
    let root = platform.fakes.dir().join("git");
    let unknown = root.join("0190b9a4-0000-7000-8000-000000000000.git");
    let foreign = root.join("notes");
    std::fs::create_dir(&unknown).unwrap();
    std::fs::create_dir(&foreign).unwrap();
    let repos = platform.repos.clone();
    let again = GitReceive::start(platform.engine.clone(), repos, Platform::options()).await.unwrap();
    assert!(!stale.exists() && !unknown.exists() && foreign.exists());
    drop(again);
    let error = GitRepos::open(&root).unwrap_err();
    assert_eq!(error.code(), paas_core::ErrorCode::Conflict);
    platform.end().await;
}
