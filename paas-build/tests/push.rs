//! Real pushes of the real git to an engine over fakes.
#![cfg(feature = "git")]
#![allow(clippy::unwrap_used, clippy::cloned_ref_to_slice_refs, missing_docs, reason = "tests")]

#[path = "push/world.rs"]
mod world;

use std::time::Duration;

use paas_build::{GitReceive, GitRepos};
use paas_core::testkit::world::Fault;
use paas_core::{AppName, Principal, Scope, WorkflowState};
use world::{Platform, WorkTree, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_deployed_and_what_the_build_says_reaches_the_pusher_as_it_is_said() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    let commit = tree.commit("say compiling\nwait\nsay linking").await;
    let mut push = tree.begin_push(&["main"]);
    push.until("remote:        compiling").await;
    assert!(!push.said().contains("linking"));
    platform.gate.add_permits(1);
    let (accepted, said) = push.end().await;
    assert!(accepted, "{said}");
    for line in [
        "-----> Created app hello",
        "-----> Script app detected",
        "       linking",
        "       Released v1",
        "       http://hello.localhost/ deployed",
        "main -> main",
    ] {
        assert!(said.contains(line), "no {line:?} in: {said}");
    }
    assert_eq!(platform.live("hello").await, [commit.clone()]);
    assert_eq!(platform.branch("main").await, Some(commit));
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_rejects_the_push_with_its_cause_and_leaves_the_branch_where_it_was() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    let good = tree.commit("say fine").await;
    assert!(tree.push(&["main"]).await.0);
    tree.commit("say working\nfail gcc ended with status 1").await;
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(!accepted);
    for line in [
        " !     Push rejected, failed to compile Script app",
        " !     gcc ended with status 1",
        "       cc: no such file",
        "       make: *** [all] Error 1",
        "! [remote rejected] main -> main (pre-receive hook declined)",
    ] {
        assert!(said.contains(line), "no {line:?} in: {said}");
    }
    assert_eq!(platform.branch("main").await, Some(good.clone()));
    assert_eq!(platform.live("hello").await, [good]);
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_a_frozen_app_is_rejected_with_who_froze_it_and_why_and_goes_through_afterwards() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    let good = tree.commit("say fine").await;
    assert!(tree.push(&["main"]).await.0);
    let scope = Scope::App("hello".parse().unwrap());
    let ada = Principal::named("ada").unwrap();
    platform.engine.freeze(&scope, "Black Friday", &ada).await.unwrap();
    let next = tree.commit("say finer").await;
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(!accepted);
    for line in [
        " !     Push rejected, deploys are frozen",
        " !     ada froze hello on ",
        " UTC: Black Friday; nothing goes live until somebody who may ends that by `unfreeze`",
        "! [remote rejected] main -> main (pre-receive hook declined)",
    ] {
        assert!(said.contains(line), "no {line:?} in: {said}");
    }
    assert_eq!(platform.branch("main").await, Some(good.clone()));
    assert_eq!(platform.live("hello").await, [good.clone()]);
    platform.engine.unfreeze(&scope, &ada).await.unwrap();
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(accepted, "{said}");
    assert_eq!(platform.live("hello").await, [next, good]);
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_build_is_rejected_and_says_what_was_looked_for() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    tree.commit("").await;
    tree.git(&["mv", "script", "scripture"]).await;
    tree.git(&["commit", "--quiet", "--message", "Lose the script"]).await;
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(!accepted);
    assert!(said.contains("no language could be detected") && said.contains("looked for"), "{said}");
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_failed_for_other_reasons_can_be_pushed_again() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    let commit = tree.commit("release migrate").await;
    platform.fakes.world.run_status(1);
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(!accepted && said.contains("the release phase failed"), "{said}");
    assert!(said.contains("ended with 1"), "{said}");
    platform.fakes.world.run_status(0);
    platform.fakes.world.crash("web");
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(!accepted && said.contains("the new release doesn't run"), "{said}");
    assert!(said.contains("       boom"), "{said}");
    assert_eq!(platform.branch("main").await, None);
    platform.fakes.world.mend();
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(accepted, "{said}");
    assert_eq!(platform.live("hello").await, [commit.clone()]);
    assert_eq!(platform.branch("main").await, Some(commit));
    platform.end().await;
}

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
async fn of_two_pushes_at_once_the_second_is_refused_before_anything_is_built() {
    let platform = Platform::start().await;
    let (one, two) = (platform.work_tree("one", "hello").await, platform.work_tree("two", "hello").await);
    one.commit("say zero").await;
    assert!(one.push(&["main"]).await.0);
    two.git(&["pull", "--quiet", "paas", "main"]).await;
    let first = one.commit("say one\nwait").await;
    two.commit("say two").await;
    let mut first_push = one.begin_push(&["main"]);
    first_push.until("one").await;
    let mut second_push = two.begin_push(&["main"]);
    second_push.until("Waiting for a deploy of hello to end").await;
    platform.gate.add_permits(1);
    let (accepted, said) = first_push.end().await;
    assert!(accepted, "{said}");
    let (accepted, said) = second_push.end().await;
    assert!(!accepted && said.contains("another push moved main"), "{said}");
    assert!(!said.contains("Script app detected"), "{said}");
    assert_eq!(platform.branch("main").await, Some(first));
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pushes_at_once_are_told_apart_also_when_git_is_slow_to_move_the_branch() {
    let platform = Platform::start().await;
    let (one, two) = (platform.work_tree("one", "hello").await, platform.work_tree("two", "hello").await);
    let first = one.commit("say one").await;
    two.commit("say two").await;
    let go = platform.fakes.dir().join("go");
    let asked = platform.fakes.dir().join("asked");
    platform.hook(&format!(
        "[ $1 = prepared ] || exit 0\ntouch {0}\nwhile [ ! -e {1} ]; do sleep 0.01; done",
        asked.display(),
        go.display()
    ));
    let first_push = one.begin_push(&["main"]);
    until("git wants to move the branch", async || asked.exists()).await;
    assert_eq!(platform.live("hello").await, [first.clone()]);
    let mut second_push = two.begin_push(&["main"]);
    second_push.until("Waiting for its turn").await;
    std::fs::write(&go, "").unwrap();
    let (accepted, said) = first_push.end().await;
    assert!(accepted, "{said}");
    let (accepted, said) = second_push.end().await;
    assert!(!accepted && said.contains("another push moved main"), "{said}");
    assert_eq!(platform.live("hello").await, [first.clone()]);
    assert_eq!(platform.branch("main").await, Some(first));
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_stands_when_git_cannot_move_the_branch_and_the_next_push_moves_only_that() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    let commit = tree.commit("say one").await;
    let hook = platform.hook("[ $1 != prepared ]");
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(!accepted, "{said}");
    assert!(said.contains("is live and stays so, but git could not move main"), "{said}");
    assert_eq!(platform.live("hello").await, [commit.clone()]);
    std::fs::remove_file(hook).unwrap();
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(accepted && said.contains("is live already, as v1"), "{said}");
    assert_eq!(platform.branch("main").await, Some(commit.clone()));
    assert_eq!(platform.live("hello").await, [commit]);
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_push_takes_the_place_of_one_that_waits() {
    let platform = Platform::start().await;
    let mut pushes = Vec::new();
    for (n, script) in ["say one\nwait", "say two", "say three"].into_iter().enumerate() {
        let tree = platform.work_tree(&format!("tree{n}"), "hello").await;
        tree.commit(script).await;
        let mut push = tree.begin_push(&["main"]);
        push.until(if n == 0 { "one" } else { "Waiting for" }).await;
        pushes.push(push);
    }
    platform.gate.add_permits(1);
    let mut ends = Vec::new();
    for push in pushes {
        ends.push(push.end().await);
    }
    assert!(ends[0].0, "{}", ends[0].1);
    assert!(!ends[1].0 && ends[1].1.contains("a newer push took this one's place"), "{}", ends[1].1);
    assert!(!ends[2].0 && ends[2].1.contains("another push moved main"), "{}", ends[2].1);
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_branches_and_tags_are_kept_and_deploy_nothing() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    let commit = tree.commit("say one").await;
    tree.git(&["tag", "v1"]).await;
    let (accepted, said) = tree.push(&["main:feature", "v1"]).await;
    assert!(accepted && said.contains("Skipping deploy: feature is kept"), "{said}");
    assert_eq!(platform.branch("feature").await, Some(commit.clone()));
    assert!(platform.live("hello").await.is_empty());
    // With a deploy branch beside it, that one deploys.
    let (accepted, said) = tree.push(&["main:other", "main:master"]).await;
    assert!(accepted && said.contains("Released v1"), "{said}");
    let clone = platform.fakes.dir().join("clone");
    let url = platform.url("hello");
    tree.git(&["clone", "--quiet", "--branch", "master", &url, clone.to_str().unwrap()]).await;
    assert_eq!(std::fs::read_to_string(clone.join("script")).unwrap(), "say one");
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_git_would_refuse_in_the_end_is_refused_before_it_is_built() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    tree.commit("say one").await;
    tree.git(&["tag", "--annotate", "--message", "A tag", "v1"]).await;
    for (refs, says) in [
        (&["main", "main:master"][..], "both deploy"),
        (&["main", "main:main/sub"], "in the way of main"),
        (&["main", "main:refs/notes/x"], "neither a branch nor a tag"),
        (&["v1:refs/heads/main"], "TAG^{}:main"),
    ] {
        let (accepted, said) = tree.push(refs).await;
        assert!(!accepted && (said.contains(says) || says.starts_with("v1")), "{said}");
        assert!(!said.contains("Script app detected"), "{said}");
    }
    assert!(tree.push(&["main"]).await.0);
    let (accepted, said) = tree.push(&["--delete", "main"]).await;
    assert!(!accepted && said.contains("can't be deleted"), "{said}");
    assert_eq!(platform.live("hello").await.len(), 1);
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shallow_clone_can_be_pushed() {
    let platform = Platform::start().await;
    let full = platform.work_tree("full", "hello").await;
    full.commit("say one").await;
    full.commit("say two").await;
    let shallow = platform.fakes.dir().join("shallow");
    let from = format!("file://{}", full.dir.display());
    full.git(&["clone", "--quiet", "--depth=1", &from, shallow.to_str().unwrap()]).await;
    let shallow = WorkTree { dir: shallow };
    let commit = shallow.commit("say three").await;
    let (accepted, said) = shallow.push_to(&platform.url("hello"), &["main"]).await;
    assert!(accepted, "{said}");
    assert_eq!(platform.live("hello").await, [commit]);
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_push_is_taken_and_one_beyond_the_limit_is_told_so() {
    let platform = Platform::start_with(|options| options.max_push = 6 << 20).await;
    let tree = platform.work_tree("tree", "hello").await;
    // Beyond what git sends at once, so it probes and sends in chunks.
    tree.write_noise("noise", 3 << 20);
    tree.commit("say one").await;
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(accepted, "{said}");
    tree.write_noise("more", 9 << 20);
    tree.commit("say two").await;
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(!accepted && said.contains("exceeds maximum allowed size"), "{said}");
    assert!(!said.contains("RPC failed"), "{said}");
    assert_eq!(platform.live("hello").await.len(), 1);
    assert!(platform.quarantines().is_empty());
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_pushes_without_a_token_and_no_app_is_told_of() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    tree.commit("say one").await;
    assert!(tree.push(&["main"]).await.0);
    for url in [
        format!("http://{}/hello.git", platform.address),
        format!("http://git:wrong@{}/hello.git", platform.address),
        format!("http://git:wrong@{}/unknown.git", platform.address),
    ] {
        tree.commit("say two").await;
        let (accepted, said) = tree.push_to(&url, &["main"]).await;
        assert!(!accepted && !said.contains(&platform.token), "{said}");
        assert!(said.contains("Authentication failed") || said.contains("could not read Username"), "{said}");
    }
    assert_eq!(platform.live("hello").await.len(), 1);
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_made_by_a_push_only_where_that_is_allowed() {
    let platform = Platform::start_without_create().await;
    let tree = platform.work_tree("tree", "hello").await;
    tree.commit("say one").await;
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(!accepted && said.contains("may not make the app hello"), "{said}");
    assert!(platform.engine.apps().await.unwrap().is_empty());
    platform.engine.create_app(&AppName::new("hello").unwrap(), &Principal::platform()).await.unwrap();
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(accepted && !said.contains("Created app"), "{said}");
    platform.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_made_again_begins_with_an_empty_repository() {
    let platform = Platform::start().await;
    let tree = platform.work_tree("tree", "hello").await;
    let commit = tree.commit("say one").await;
    assert!(tree.push(&["main"]).await.0);
    let hello = AppName::new("hello").unwrap();
    let destroyed = platform.engine.destroy_app(&hello, &Principal::platform()).await.unwrap();
    destroyed.succeeded().await.unwrap();
    let (accepted, said) = tree.push(&["main"]).await;
    assert!(accepted && said.contains("Created app hello") && said.contains("Released v1"), "{said}");
    assert_eq!(platform.live("hello").await, [commit]);
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
async fn one_principal_has_only_so_many_pushes_under_way() {
    let platform = Platform::start_with(|options| options.at_once = 1).await;
    let (one, two) = (platform.work_tree("one", "hello").await, platform.work_tree("two", "other").await);
    one.commit("say one\nwait").await;
    two.commit("say two").await;
    let mut push = one.begin_push(&["main"]);
    push.until("one").await;
    let (accepted, said) = two.push(&["main"]).await;
    assert!(!accepted && said.contains("429"), "{said}");
    platform.gate.add_permits(1);
    assert!(push.end().await.0);
    assert!(two.push(&["main"]).await.0);
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
