//! Content in a real object store, reached over HTTP, whose requests fail as they do.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test does")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::Utc;
use paas_core::testkit::ManualClock;
use paas_core::testkit::s3::{S3Fault, S3Server};
use paas_core::{Blobs, Clock, ConfigValue, Digest, ErrorCode, S3Blobs, S3Options, SystemClock};
use tokio::io::AsyncReadExt;

/// Content of the next number's prefix.
async fn next(server: &S3Server, made: &AtomicU32) -> S3Blobs {
    let prefix = format!("suite/{}", made.fetch_add(1, Ordering::Relaxed));
    S3Blobs::open(server.options(&prefix)).await.unwrap()
}

fn file(dir: &Path, content: &[u8]) -> PathBuf {
    let path = dir.join(uuid::Uuid::new_v4().to_string());
    std::fs::write(&path, content).unwrap();
    path
}

async fn put(blobs: &S3Blobs, dir: &Path, content: &[u8]) -> Digest {
    let digest = Digest::of(content);
    blobs.put(digest, &file(dir, content)).await.unwrap();
    digest
}

async fn read(blobs: &S3Blobs, digest: Digest) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    blobs.get(digest).await.map_err(std::io::Error::other)?.read_to_end(&mut content).await?;
    Ok(content)
}

/// The objects below a prefix that have this in their names.
fn objects(server: &S3Server, prefix: &str, named: &str) -> usize {
    let mut folders = vec![server.objects().join(prefix)];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.path().to_string_lossy().contains(named) {
                found += 1;
            }
        }
    }
    found
}

/// Numbers as random as a test needs, the same for a seed.
fn random(mut state: u64) -> impl FnMut(u64) -> u64 {
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_keeps_the_contract() {
    let Some(server) = S3Server::own().await else { return };
    let (scratch, made) = (tempfile::tempdir().unwrap(), AtomicU32::new(0));
    paas_core::testkit::blobs::conformance(async || next(&server, &made).await, scratch.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_keeps_the_contract_while_requests_fail_before_and_after_their_effect() {
    let Some(server) = S3Server::own().await else { return };
    let (scratch, made) = (tempfile::tempdir().unwrap(), AtomicU32::new(0));
    let mut random = random(7);
    server.failing(move |_, _| match random(20) {
        0 => Some(S3Fault::Overloaded),
        1 => Some(S3Fault::CutBefore),
        2 => Some(S3Fault::CutAfter),
        _ => None,
    });
    paas_core::testkit::blobs::conformance(async || next(&server, &made).await, scratch.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn big_content_goes_in_parts_and_is_read_on_after_a_cut() {
    let Some(server) = S3Server::own().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let blobs = S3Blobs::open(server.options("big")).await.unwrap();
    let content: Vec<u8> = (0..20u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let digest = put(&blobs, dir.path(), &content).await;
    let mut cuts = 2;
    server.failing(move |method, path| {
        let cut = method == "GET" && path.contains("/content/") && cuts > 0;
        cuts -= u32::from(cut);
        cut.then_some(S3Fault::CutBody)
    });
    assert!(read(&blobs, digest).await.unwrap() == content);
    let listed = blobs.list(None, 10).await.unwrap();
    assert_eq!((listed[0].digest, listed[0].size), (digest, content.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_was_renewed_is_never_collected_and_what_was_collected_is_never_renewed() {
    let Some(server) = S3Server::own().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        S3Blobs::open(server.options("race")).await.unwrap(),
        S3Blobs::open(server.options("race")).await.unwrap(),
    );
    let digest = put(&one, dir.path(), b"wanted").await;
    let (mut renewed, mut collected) = (0, 0);
    for _ in 0..60 {
        let before = blobs_used(&one, digest).await + chrono::Duration::nanoseconds(1);
        let (kept, gone) = tokio::join!(one.renew(digest), two.collect(digest, before));
        let (kept, gone) = (kept.unwrap(), gone.unwrap());
        assert!(kept != gone, "renewed: {kept}, collected: {gone}");
        assert_eq!(one.has(digest).await.unwrap(), kept);
        if kept {
            renewed += 1;
            assert_eq!(read(&one, digest).await.unwrap(), b"wanted");
        } else {
            collected += 1;
            assert_eq!(objects(&server, "race", &digest.hex()), 0, "nothing of it stays");
            put(&one, dir.path(), b"wanted").await;
        }
    }
    println!("renewed {renewed} times, collected {collected} times");
}

/// When it was used last. Returns when the next use gets a later time: the server tells milliseconds.
async fn blobs_used(blobs: &S3Blobs, digest: Digest) -> chrono::DateTime<Utc> {
    let listed = blobs.list(None, 10).await.unwrap();
    let used = listed.iter().find(|entry| entry.digest == digest).unwrap().used_at;
    while SystemClock::new().now() < used + chrono::Duration::milliseconds(2) {
        tokio::task::yield_now().await;
    }
    used
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_beside_a_collection_always_leaves_the_content() {
    let Some(server) = S3Server::own().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        S3Blobs::open(server.options("race")).await.unwrap(),
        S3Blobs::open(server.options("race")).await.unwrap(),
    );
    let digest = put(&one, dir.path(), b"wanted").await;
    for _ in 0..40 {
        let before = blobs_used(&one, digest).await + chrono::Duration::nanoseconds(1);
        let (again, gone) = (file(dir.path(), b"wanted"), two.collect(digest, before));
        let (kept, gone) = tokio::join!(one.put(digest, &again), gone);
        kept.unwrap();
        gone.unwrap();
        assert_eq!(read(&one, digest).await.unwrap(), b"wanted", "what was put is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upload_that_died_left_is_swept_after_a_day() {
    let Some(server) = S3Server::own().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let impatient = server.options("dead").with_patience(Duration::ZERO);
    let blobs = S3Blobs::open(impatient).await.unwrap();
    // The content never arrives, and nothing can be tidied up either.
    server.failing(|method, path| {
        let fails = path.contains("/content/") || method == "DELETE";
        fails.then_some(S3Fault::CutBefore)
    });
    let digest = Digest::of("content");
    let error = blobs.put(digest, &file(dir.path(), b"content")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    server.failing(|_, _| None);
    assert!(!blobs.has(digest).await.unwrap(), "what isn't whole isn't there");
    assert!(blobs.list(None, 10).await.unwrap().is_empty());
    assert_eq!(objects(&server, "dead/used", &digest.hex()), 1);

    let open_after = async |days| {
        let clock = ManualClock::new(SystemClock::new().now() + chrono::Duration::days(days));
        S3Blobs::open(server.options("dead").with_clock(Arc::new(clock))).await.unwrap();
    };
    open_after(0).await;
    assert_eq!(objects(&server, "dead/used", &digest.hex()), 1, "somebody may be at it");
    open_after(2).await;
    assert_eq!(objects(&server, "dead/used", &digest.hex()), 0);
    put(&blobs, dir.path(), b"content").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_was_damaged_is_not_read_as_if_it_were_whole() {
    let Some(server) = S3Server::own().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let blobs = S3Blobs::open(server.options("damaged")).await.unwrap();
    let digest = put(&blobs, dir.path(), b"right").await;
    let folder = server.objects().join("damaged/content").join(digest.hex());
    for object in std::fs::read_dir(folder).unwrap() {
        std::fs::write(object.unwrap().path(), "wrong").unwrap();
    }
    let error = read(&blobs, digest).await.unwrap_err();
    assert!(error.to_string().contains("was damaged"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_of_one_store_is_refused_to_another() {
    let Some(server) = S3Server::own().await else { return };
    let open = async || S3Blobs::open(server.options("mine")).await.unwrap();
    open().await.claim("one").await.unwrap();
    open().await.claim("one").await.unwrap();
    let error = open().await.claim("two").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Exists);
    assert!(error.message().contains("store one") && error.message().contains("below mine"), "{error}");
    S3Blobs::open(server.options("another")).await.unwrap().claim("two").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_said_clearly_and_shows_no_secret() {
    let Some(server) = S3Server::own().await else { return };
    let secret = || ConfigValue::new("hunter2-is-not-shown").unwrap();
    let shown = format!("{:?}", S3Blobs::open(server.options("x")).await.unwrap());
    assert!(!shown.contains(server.secret()), "{shown}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = |options: S3Options| options.with_patience(Duration::from_millis(200));
    let wrong = [
        (
            at(S3Options::new("nowhere", "")
                .at(server.endpoint())
                .with_credentials("paas-tests", ConfigValue::new(server.secret()).unwrap())),
            ErrorCode::NotFound,
            "no such bucket",
        ),
        (
            at(S3Options::new("platform", "").at(server.endpoint()).with_credentials("paas-tests", secret())),
            ErrorCode::Unauthorized,
            "doesn't take the credentials",
        ),
        (
            at(S3Options::new("platform", "").at(server.endpoint()).with_credentials("nobody", secret())),
            ErrorCode::Unauthorized,
            "doesn't take the credentials",
        ),
        (
            at(S3Options::new("platform", "")
                .at(format!("http://{free}"))
                .with_credentials("paas-tests", secret())),
            ErrorCode::Unavailable,
            "Connection refused",
        ),
        (at(S3Options::new("platform", "").at("minio:9000")), ErrorCode::InvalidParams, "https://HOST"),
        (at(S3Options::new("platform", "a//b").at(server.endpoint())), ErrorCode::InvalidParams, "a//b"),
    ];
    for (options, code, says) in wrong {
        let shown = format!("{options:?}");
        let error = S3Blobs::open(options).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(says), "{error}");
        for text in [shown, format!("{error}"), format!("{error:?}")] {
            assert!(!text.contains("hunter2") && !text.contains(server.secret()), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_conditions_is_refused() {
    let Some(server) = S3Server::own().await else { return };
    server.failing(|_, _| Some(S3Fault::NoConditions));
    let error = S3Blobs::open(server.options("x")).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.message().contains("conditional writes"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_for_a_while_is_waited_for() {
    let Some(server) = S3Server::own().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let blobs = S3Blobs::open(server.options("away")).await.unwrap();
    let refused = Arc::new(AtomicU32::new(0));
    let count = refused.clone();
    server.failing(move |_, _| (count.fetch_add(1, Ordering::Relaxed) < 3).then_some(S3Fault::Overloaded));
    put(&blobs, dir.path(), b"content").await;
    assert!(refused.load(Ordering::Relaxed) > 3);
}
