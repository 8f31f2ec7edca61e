//! What is collected, what never is, and that nobody notices.

use std::sync::Arc;
use std::time::Duration;

use paas_core::testkit::world::{Fault, TestPlatform};
use paas_core::{
    Blobs, ConfigEdit, ConfigVars, Digest, EngineOptions, ErrorCode, EventKind, RollbackOrder, Version,
};

use crate::{Bench, WEB, hello, me};

const HOUR: Duration = Duration::from_secs(3600);

fn bounds(options: EngineOptions) -> EngineOptions {
    let mut options = options;
    options.keep_releases = 2;
    options.keep_unused = HOUR;
    options.keep_history = 24 * HOUR;
    // Only when a test asks for it.
    options.collect_every = Duration::from_secs(1 << 40);
    options
}

/// A platform whose builder makes slugs, and whose time stands still unless the test lets it pass.
async fn bench() -> Bench {
    bench_of(TestPlatform::new().unwrap().making_slugs()).await
}

async fn bench_of(platform: TestPlatform) -> Bench {
    let options = bounds(platform.options());
    Bench::of(platform, |builder| builder.with_options(options)).await
}

fn version(number: u32) -> Version {
    Version::new(number).unwrap()
}

/// The contents that a release names.
async fn contents(bench: &Bench, number: u32) -> [Digest; 2] {
    let release = bench.engine.release(&hello(), version(number)).await.unwrap();
    [release.source.unwrap(), release.artifact.digest]
}

async fn is_kept(bench: &Bench, digests: [Digest; 2]) -> bool {
    let blobs = bench.engine.blobs();
    let there = [blobs.has(digests[0]).await.unwrap(), blobs.has(digests[1]).await.unwrap()];
    assert_eq!(there[0], there[1], "source and slug go together");
    there[0]
}

#[tokio::test]
async fn invariant_10_what_releases_name_is_kept_and_what_nothing_names_goes() {
    let bench = bench().await;
    for n in 1..=4 {
        bench.deploy(&format!("web: serve {n}\n")).await.unwrap();
    }
    bench.platform.world.plan("ensure", [Fault::Fail(ErrorCode::InvalidParams)]);
    bench.deploy("web: serve 5\n").await.unwrap_err();
    let foreign = bench.platform.dir().join("blobs/ab/notes.txt");
    std::fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    std::fs::write(&foreign, "not ours").unwrap();

    let young = bench.engine.collect_garbage().await.unwrap();
    assert_eq!((young.contents, young.artifacts), (0, 0), "what is young was collected");

    bench.platform.clock.advance(2 * HOUR);
    let collected = bench.engine.collect_garbage().await.unwrap();
    assert_eq!((collected.contents, collected.artifacts), (6, 3), "v1, v2 and the failed v5");
    for (number, kept) in [(1, false), (2, false), (3, true), (4, true), (5, false)] {
        assert_eq!(is_kept(&bench, contents(&bench, number).await).await, kept, "v{number}");
    }
    assert!(foreign.exists(), "a file that isn't ours was removed");
    let again = bench.engine.collect_garbage().await.unwrap();
    assert_eq!((again.contents, again.artifacts), (0, 0), "there was something left");

    let error = bench.engine.rollback(&hello(), RollbackOrder::to(version(1)), &me()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
    assert!(error.to_string().contains("no longer kept"), "{error}");
    let back = bench.engine.rollback(&hello(), RollbackOrder::to(version(3)), &me()).await.unwrap();
    back.succeeded().await.unwrap();
    bench.deploy("web: serve 1\n").await.unwrap();
    assert!(is_kept(&bench, contents(&bench, 7).await).await, "it was built anew");
    bench.is_sound().await;
}

#[tokio::test]
async fn a_live_release_keeps_its_code_however_many_failed_after_it() {
    let bench = bench().await;
    bench.deploy(WEB).await.unwrap();
    for n in 0..5 {
        bench.platform.world.plan("ensure", [Fault::Fail(ErrorCode::InvalidParams)]);
        bench.deploy(&format!("web: broken {n}\n")).await.unwrap_err();
    }
    bench.platform.clock.advance(1000 * HOUR);
    bench.engine.collect_garbage().await.unwrap();
    assert!(is_kept(&bench, contents(&bench, 1).await).await, "the live release lost its code");
}

#[tokio::test]
async fn what_an_open_workflow_names_is_kept_however_long_it_waits() {
    let bench = bench().await;
    // Once more for whoever takes it over: the clock outruns its lease.
    bench.platform.world.plan("ensure", [Fault::Hang, Fault::Hang]);
    let waiting = TestPlatform::deploy(&bench.engine, &hello(), WEB).await.unwrap();
    let mut events = bench.engine.watch(0, Some(hello()));
    while !matches!(next(&mut events).await, EventKind::StepStarted { step, .. } if step.as_str() == "start")
    {
    }
    bench.platform.clock.advance(1000 * HOUR);
    assert_eq!(bench.engine.collect_garbage().await.unwrap().contents, 0);
    bench.engine.cancel(waiting.id(), "enough", &me()).await.unwrap();
    waiting.ended().await.unwrap();
    bench.platform.clock.advance(2 * HOUR);
    assert_eq!(bench.engine.collect_garbage().await.unwrap().contents, 2, "nobody names it any more");
}

#[tokio::test]
async fn a_builder_discards_what_nothing_refers_to_but_not_what_another_build_has_made_too() {
    let bench = bench_of(TestPlatform::new().unwrap()).await;
    let discarded = || {
        let history = bench.platform.world.history();
        history.iter().filter_map(|one| one.strip_prefix("discard ").map(str::to_owned)).collect::<Vec<_>>()
    };
    let (one, two, three) = ("web: serve 1\n", "web: serve 2\n", "web: serve 3\n");
    for code in [one, two, three] {
        bench.deploy(code).await.unwrap();
    }
    let digest = async |number| contents(&bench, number).await[1].to_string();
    let (first, second) = (digest(1).await, digest(2).await);
    bench.platform.clock.advance(2 * HOUR);
    let edit = ConfigEdit::set(ConfigVars::new().with("GREETING", "hello").unwrap());
    let configured = bench.engine.configure(&hello(), edit, &me()).await.unwrap();
    configured.succeeded().await.unwrap();
    // Built again, since its config is another, it is the same: and young, though no release has it.
    bench.platform.world.plan("ensure", [Fault::Fail(ErrorCode::InvalidParams)]);
    bench.deploy(one).await.unwrap_err();

    let collected = bench.engine.collect_garbage().await.unwrap();
    assert_eq!(collected.artifacts, 2, "the first build of one, and two");
    assert_eq!(discarded(), std::slice::from_ref(&second));
    bench.platform.clock.advance(2 * HOUR);
    bench.engine.collect_garbage().await.unwrap();
    assert_eq!(discarded(), [second, first]);
}

async fn next(events: &mut paas_core::EventStream) -> EventKind {
    use futures_util::StreamExt;
    events.next().await.unwrap().unwrap().kind
}

#[tokio::test]
async fn code_that_comes_back_while_garbage_is_collected_is_there() {
    let bench = bench().await;
    let engine = bench.engine.clone();
    let collecting = tokio::spawn(async move {
        let mut contents = 0;
        loop {
            contents += engine.collect_garbage().await.unwrap().contents;
            if engine.app(&hello()).await.unwrap().maintenance {
                return contents;
            }
        }
    });
    // Each time the code of three deploys ago is old and named by nothing, and is deployed again.
    for n in 0..16 {
        bench.deploy(&format!("web: serve {}\n", n % 4)).await.unwrap();
        let live = bench.engine.app(&hello()).await.unwrap().live.unwrap();
        assert!(
            is_kept(&bench, contents(&bench, live.version.number()).await).await,
            "the live release lost its code"
        );
        bench.platform.clock.advance(HOUR / 2);
    }
    bench.engine.set_maintenance(&hello(), true, &me()).await.unwrap();
    assert!(collecting.await.unwrap() > 0, "nothing was ever collected");
    bench.is_sound().await;
}

#[tokio::test]
async fn an_artifact_that_is_no_slug_is_given_to_its_builder() {
    let bench = bench_of(TestPlatform::new().unwrap()).await;
    for n in 1..=3 {
        bench.deploy(&format!("web: serve {n}\n")).await.unwrap();
    }
    bench.platform.clock.advance(2 * HOUR);
    bench.engine.collect_garbage().await.unwrap();
    let first = bench.engine.release(&hello(), version(1)).await.unwrap().artifact.digest;
    assert_eq!(bench.platform.world.count(&format!("discard {first}")), 1);
    let discarded = bench.platform.world.history();
    assert_eq!(discarded.iter().filter(|effect| effect.starts_with("discard")).count(), 1, "{discarded:?}");
}

#[tokio::test]
async fn a_destroyed_app_leaves_no_content() {
    let bench = bench().await;
    bench.deploy(WEB).await.unwrap();
    bench.engine.destroy_app(&hello(), &me()).await.unwrap().succeeded().await.unwrap();
    bench.platform.clock.advance(2 * HOUR);
    bench.engine.collect_garbage().await.unwrap();
    assert_eq!(bench.engine.blobs().list(None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn old_workflows_and_events_are_forgotten_and_the_app_lives_on() {
    let bench = bench().await;
    for n in 1..=3 {
        bench.deploy(&format!("web: serve {n}\n")).await.unwrap();
    }
    let old = bench.engine.events(0, None, 1000).await.unwrap();
    bench.platform.clock.advance(48 * HOUR);
    let last = bench.deploy("web: serve 4\n").await.unwrap();
    let collected = bench.engine.collect_garbage().await.unwrap();
    assert_eq!((collected.workflows, collected.events), (3, old.len() as u64));
    let left = bench.engine.events(0, None, 1000).await.unwrap();
    assert!(left[0].seq > old.last().unwrap().seq, "{left:?}");
    assert!(left.iter().any(|event| event.workflow == Some(last.id)), "a young event is gone");
    let said = left.last().unwrap().kind.to_string();
    assert!(said.ends_with(&format!("3 ended workflows, {} events", old.len())), "{said}");
    assert_eq!(bench.engine.releases(&hello()).await.unwrap().len(), 4);
    bench.deploy("web: serve 5\n").await.unwrap();
    bench.is_sound().await;
}

#[tokio::test]
async fn that_old_events_alone_were_forgotten_is_no_event() {
    let platform = TestPlatform::new().unwrap();
    let store = Arc::new(paas_core::store::MemoryStore::new(platform.clock()));
    // Not started, so that it collects only here.
    let engine = platform.engine(store).unwrap().with_options(bounds(platform.options())).build().unwrap();
    engine.create_app(&hello(), &me()).await.unwrap();
    platform.clock.advance(48 * HOUR);
    engine.create_app(&"second".parse().unwrap(), &me()).await.unwrap();
    let newest = async || engine.events(0, None, 1000).await.unwrap().pop().unwrap().seq;
    let before = newest().await;
    let collected = engine.collect_garbage().await.unwrap();
    assert!(collected.events > 0 && collected.workflows + collected.contents == 0, "{collected:?}");
    assert_eq!(newest().await, before);
    // The newest event stays, however old it is, and is not counted as gone.
    platform.clock.advance(48 * HOUR);
    engine.collect_garbage().await.unwrap();
    assert_eq!(engine.collect_garbage().await.unwrap().events, 0);
    assert_eq!(newest().await, before);
}

#[tokio::test]
async fn a_started_engine_collects_by_itself_and_of_two_engines_one_does() {
    let platform = TestPlatform::new().unwrap();
    let store: Arc<dyn paas_core::Store> = Arc::new(paas_core::store::MemoryStore::new(platform.clock()));
    let junk = platform.dir().join("junk");
    std::fs::write(&junk, "junk").unwrap();
    let digest = Digest::of("junk");
    platform.blobs().unwrap().put(digest, &junk).await.unwrap();
    platform.clock.advance(2 * HOUR);
    let mut options = bounds(platform.options());
    options.collect_every = Duration::from_millis(40);
    let engines: Vec<_> = (0..2)
        .map(|_| platform.engine(store.clone()).unwrap().with_options(options.clone()).build().unwrap())
        .collect();
    for engine in &engines {
        engine.start().await.unwrap();
    }
    let mut events = engines[0].watch(0, None);
    let collected = next(&mut events).await;
    assert!(matches!(collected, EventKind::GarbageCollected { contents: 1, bytes: 4, .. }), "{collected}");
    assert!(!engines[1].blobs().has(digest).await.unwrap());
    for engine in &engines {
        engine.shutdown().await;
    }
}
