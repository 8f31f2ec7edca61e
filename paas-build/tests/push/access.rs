//! Who may push, and to what.

use paas_core::{AppName, Principal};

use crate::world::Platform;

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
