//! Engines that share a store and an object store, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use paas_core::store::MemoryStore;
use paas_core::testkit::s3::S3Server;
use paas_core::testkit::world::{TestPlatform, check};
use paas_core::testkit::{Cut, CutStore};
use paas_core::{Blobs, Engine, ErrorCode, S3Blobs, Store, Subject, Version, WorkflowState};
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;

use crate::{WEB, hello, me};

/// A machine with an engine on it: a thread, and a folder for its work.
struct Machine {
    runtime: Runtime,
    disk: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, disk: tempfile::tempdir().unwrap() }
    }

    fn engine(&self, platform: &TestPlatform, store: Arc<dyn Store>) -> Engine {
        let mut options = platform.options();
        options.work_dir = self.disk.path().join("work");
        platform.engine(store).unwrap().with_options(options).build().unwrap()
    }
}

/// A deploy whose engine dies at its `k`th write, and whose disk is gone with it. False once it ends before.
fn goes_on_elsewhere(server: &S3Server, k: u64, cut: Cut) -> bool {
    let prefix = format!("{cut:?}/{k}");
    let open = || async { Arc::new(S3Blobs::open(server.options(&prefix)).await.unwrap()) as Arc<dyn Blobs> };
    let first = Machine::new();
    let platform = TestPlatform::new().unwrap().making_slugs().keeping(first.runtime.block_on(open()));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(platform.clock()));
    let cutting = Arc::new(CutStore::new(store.clone(), k, cut));
    let was_cut = first.runtime.block_on(async {
        let _passing = platform.let_time_pass();
        let engine = first.engine(&platform, cutting.clone());
        let work = async {
            engine.start().await?;
            engine.create_app(&hello(), &me()).await?;
            TestPlatform::deploy(&engine, &hello(), WEB).await?.succeeded().await
        };
        tokio::select! {
            done = work => { done.unwrap(); false }
            () = cutting.cut() => true,
        }
    });
    drop(first);

    platform.clock.advance(Duration::from_secs(60));
    let second = Machine::new();
    second.runtime.block_on(async {
        // Connections belong to the machine that made them.
        let blobs = open().await;
        let platform = platform.keeping(blobs.clone());
        let _passing = platform.let_time_pass();
        let engine = second.engine(&platform, store);
        engine.start().await.unwrap();
        if engine.app(&hello()).await.is_err_and(|e| e.code() == ErrorCode::NotFound) {
            engine.create_app(&hello(), &me()).await.unwrap();
        }
        for open in engine.open_workflows(&Subject::App(hello())).await.unwrap() {
            let ended = engine.workflow(open.id).ended().await.unwrap();
            assert_eq!(ended.state, WorkflowState::Succeeded, "cut at write {k}, {cut:?}: {ended:#?}");
        }
        if engine.app(&hello()).await.unwrap().live.is_none() {
            // Its order was lost with the first engine.
            TestPlatform::deploy(&engine, &hello(), WEB).await.unwrap().succeeded().await.unwrap();
        }
        let release = engine.release(&hello(), Version::FIRST).await.unwrap();
        let mut slug = String::new();
        blobs.get(release.artifact.digest).await.unwrap().read_to_string(&mut slug).await.unwrap();
        assert!(slug.starts_with("slug of "), "{slug}");
        assert!(blobs.has(release.source.unwrap()).await.unwrap());
        while !check(&platform.world, &engine, &hello()).await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut twice = platform.repeated();
        // The same code may be read and built again: it makes the same.
        twice.retain(|effect, _| effect != "fetch" && !effect.starts_with("build "));
        assert!(twice.is_empty(), "cut at write {k}, {cut:?}: {twice:?}");
        engine.shutdown().await;
    });
    was_cut
}

#[test]
fn a_deploy_goes_on_at_another_engine_whose_first_ones_disk_is_gone() {
    let runtime = Runtime::new().unwrap();
    let Some(server) = runtime.block_on(S3Server::own()) else { return };
    for cut in [Cut::Lost, Cut::Unanswered] {
        let writes = (0..1000).take_while(|k| goes_on_elsewhere(&server, *k, cut)).count();
        assert!(writes > 15, "only {writes} writes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_on_another_store_does_not_start_on_this_ones_content() {
    let platform = TestPlatform::new().unwrap();
    let mine = || Arc::new(MemoryStore::new(platform.clock()));
    let engine = platform.engine(mine()).unwrap().build().unwrap();
    engine.start().await.unwrap();
    engine.shutdown().await;
    let other = platform.engine(mine()).unwrap().build().unwrap();
    let error = other.start().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Exists);
    assert!(error.message().contains("belongs to the store"), "{error}");
}
