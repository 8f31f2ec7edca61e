//! Several pushes at once.

use crate::world::{Platform, until};

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
