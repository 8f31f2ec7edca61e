//! What the old and the new process say to each other; both are this one here.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use paas_core::{
    AppId, AppName, AppRoutes, Backend, Cancel, Context, DrainRequest, ErrorCode, IdempotencyKey, LogSource,
    LogWriter, MemoryLogs, RouteState, Router, SystemClock, WorkflowId,
};
use paas_run::handover::{Door, Predecessor, Successor};
use paas_run::proxy::{Proxy, ProxyConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const PATIENCE: Duration = Duration::from_secs(30);

fn proxy() -> Proxy {
    Proxy::new(ProxyConfig::default(), Arc::new(MemoryLogs::new()), Arc::new(SystemClock::new()))
}

fn router(proxy: &Proxy) -> Arc<dyn Router> {
    Arc::new(proxy.clone())
}

fn hello() -> AppName {
    AppName::new("hello").unwrap()
}

fn routes(id: AppId, generation: u64) -> AppRoutes {
    let mut routes = AppRoutes::new(hello(), id, generation);
    routes.domains = vec!["hello.test".parse().unwrap()];
    routes.backends = vec![Backend::new(format!("web.{generation}"), "127.0.0.1:9".parse().unwrap())];
    routes.state = RouteState::Serving;
    routes
}

fn context() -> Context {
    let clock = Arc::new(SystemClock::new());
    let log =
        LogWriter::new(Arc::new(MemoryLogs::new()), clock.clone(), hello(), LogSource::Platform, "test");
    let key = IdempotencyKey::new(WorkflowId::new(), "switch_route".parse().unwrap());
    Context::new(key, Cancel::new(), clock, log)
}

/// Both sides, after the new one was let in.
async fn met(door: &mut Door, folder: &Path) -> (Successor, Predecessor) {
    let old = async {
        let successor = door.asked().await;
        let file = std::fs::File::open(folder).unwrap();
        successor.entrust([("folder", file.as_fd())]).unwrap();
        successor
    };
    let (successor, predecessor) = tokio::join!(old, Predecessor::ask(folder));
    (successor, predecessor.unwrap().expect("a platform runs"))
}

#[tokio::test]
async fn sockets_and_routes_are_handed_over_and_the_old_router_follows_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut door = Door::open(folder.path()).unwrap();
    let (old, new) = (proxy(), proxy());
    let id = AppId::new();
    old.adopt(&[routes(id, 1)]).unwrap();

    let (mut successor, mut predecessor) = met(&mut door, folder.path()).await;
    let file = std::fs::File::from(predecessor.file("folder").unwrap());
    assert!(file.metadata().unwrap().is_dir());
    assert!(predecessor.file("folder").is_none() && predecessor.file("other").is_none());

    let their = router(&old);
    let old_side = async {
        successor.let_go(old.routes(), &their, PATIENCE).await.unwrap();
        old.leave();
        successor.follow(their.clone()).unwrap()
    };
    let new_side = async {
        new.adopt(&predecessor.let_go().await.unwrap()).unwrap();
        assert_eq!(new.observe(&hello()).await.unwrap(), Some(routes(id, 1)));
        let both = predecessor.router(router(&new));
        // An instance is back on another port while the old process serves alone.
        both.apply(&context(), &routes(id, 2)).await.unwrap();
        assert_eq!(old.observe(&hello()).await.unwrap(), Some(routes(id, 2)));
        predecessor.serving().await.unwrap();
        both
    };
    let (mut following, both) = tokio::join!(old_side, new_side);
    let follow = tokio::spawn(async move { following.run().await });
    both.apply(&context(), &routes(id, 3)).await.unwrap();
    assert_eq!(old.observe(&hello()).await.unwrap(), Some(routes(id, 3)));
    let removed = DrainRequest::new(hello(), routes(id, 2).backends);
    assert_eq!(both.drain(&context(), &removed).await.unwrap(), 0);
    assert_eq!(both.apply(&context(), &routes(id, 2)).await.unwrap_err().code(), ErrorCode::StaleGeneration);

    follow.abort();
    predecessor.gone().await;
    both.apply(&context(), &routes(id, 4)).await.unwrap();
    assert_eq!(new.observe(&hello()).await.unwrap(), Some(routes(id, 4)));
}

#[tokio::test]
async fn one_that_fails_before_it_serves_gives_the_work_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut door = Door::open(folder.path()).unwrap();
    let old = router(&proxy());
    for patience in [PATIENCE, Duration::from_millis(20)] {
        let (mut successor, mut predecessor) = met(&mut door, folder.path()).await;
        let let_go = successor.let_go([], &old, patience);
        let (error, kept) = tokio::join!(let_go, async {
            predecessor.let_go().await.unwrap();
            // It dies, or it hangs.
            (patience < PATIENCE).then_some(predecessor)
        });
        assert_eq!(error.unwrap_err().code(), ErrorCode::Unavailable);
        drop(kept);
    }
}

#[tokio::test]
async fn one_at_a_time_is_let_in_and_the_next_one_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut door = Door::open(folder.path()).unwrap();
    let (successor, predecessor) = met(&mut door, folder.path()).await;
    let refused = Predecessor::ask(folder.path()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Conflict);
    assert!(refused.to_string().contains(&format!("process {} is taking over", std::process::id())));
    drop((successor, predecessor));
    met(&mut door, folder.path()).await;
}

#[tokio::test]
async fn nobody_is_found_in_a_folder_that_has_none_or_whose_platform_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Predecessor::ask(&folder.path().join("missing")).await.unwrap().is_none());
    assert!(Predecessor::ask(folder.path()).await.unwrap().is_none());
    drop(Door::open(folder.path()).unwrap());
    assert!(Predecessor::ask(folder.path()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_long_path_is_no_hindrance() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("d".repeat(100)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    let mut door = Door::open(&deep).unwrap();
    met(&mut door, &deep).await;
}

/// What the platform says to a greeting.
async fn answer_to(folder: &Path, greeting: &str) -> String {
    let mut stream = UnixStream::connect(folder.join("handover.sock")).await.unwrap();
    stream.write_all(&u32::try_from(greeting.len()).unwrap().to_be_bytes()).await.unwrap();
    stream.write_all(greeting.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer.split_off(4)).unwrap()
}

#[tokio::test]
async fn another_version_and_a_wrong_key_are_refused_with_their_cause() {
    let folder = tempfile::tempdir().unwrap();
    let _door = Door::open(folder.path()).unwrap();
    let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("handover.sock"), mode("handover.key")), (0o600, 0o600));

    let key = std::fs::read_to_string(folder.path().join("handover.key")).unwrap();
    let other = answer_to(folder.path(), &format!(r#"{{"say":"hello","protocol":99,"key":"{key}"}}"#)).await;
    assert!(other.contains("unsupported") && other.contains("version 1") && other.contains("99"), "{other}");
    let stranger = answer_to(folder.path(), r#"{"say":"hello","protocol":1,"key":"guess"}"#).await;
    assert!(stranger.contains("forbidden") && !stranger.contains(&key), "{stranger}");
    let noise = answer_to(folder.path(), "GET / HTTP/1.1").await;
    assert!(noise.contains("refused"), "{noise}");
}
