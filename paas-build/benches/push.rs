//! What a push costs beyond what git itself takes: `cargo bench -p paas-build --bench push`, the disk's folder in
//! `TMPDIR`. Each push adds one commit to a tiny repository; providers do nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a program that prints figures")]

#[allow(dead_code, reason = "shared with the tests of pushes")]
#[path = "../tests/push/world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use paas_core::SystemClock;
use paas_core::store::{MemoryStore, SqliteStore, Store};
use tokio::time::Instant;
use world::{Platform, WorkTree};

const PUSHES: usize = 40;

#[tokio::main]
async fn main() {
    let clock = Arc::new(SystemClock::new());
    let dir = tempfile::tempdir().unwrap();
    let sqlite = SqliteStore::open(dir.path().join("store"), clock.clone()).unwrap();
    let stores: [(&str, Arc<dyn Store>); 2] =
        [("memory", Arc::new(MemoryStore::new(clock))), ("sqlite", Arc::new(sqlite))];
    for (name, store) in stores {
        let platform = Platform::start_on(store).await;
        let tree = platform.work_tree("tree", "hello").await;
        tree.commit("say one").await;
        assert!(tree.push(&["main", "main:feature"]).await.0);
        // In turn, so that each meets the same load.
        let hook = platform.fakes.dir().join("git/.hooks/pre-receive");
        let (aside, mut times) = (hook.with_extension("aside"), [const { Vec::new() }; 3]);
        for n in 0..PUSHES {
            std::fs::rename(&hook, &aside).unwrap();
            times[0].push(timed(&tree, &format!("say {n} git"), "main:feature").await);
            std::fs::rename(&aside, &hook).unwrap();
            times[1].push(timed(&tree, &format!("say {n} hook"), "main:feature").await);
            times[2].push(timed(&tree, &format!("say {n} deploy"), "main").await);
        }
        let [git, hook, deploy] = times.map(median);
        println!("{name}: git alone {git:.1} ms, with the hook {hook:.1} ms, with a deploy {deploy:.1} ms");
        platform.end().await;
    }
}

async fn timed(tree: &WorkTree, script: &str, refs: &str) -> Duration {
    tree.commit(script).await;
    let begun = Instant::now();
    let (accepted, said) = tree.push(&[refs]).await;
    assert!(accepted, "{said}");
    begun.elapsed()
}

/// In milliseconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}
