//! What can be pushed: branches, tags, shallow clones, large packs.

use crate::world::{Platform, WorkTree};

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
