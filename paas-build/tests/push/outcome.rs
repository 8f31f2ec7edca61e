//! A push is accepted if and only if its release went live, and says why if not.

use paas_core::{Principal, Scope};

use crate::world::Platform;

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
