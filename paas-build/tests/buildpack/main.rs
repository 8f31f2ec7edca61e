//! Heroku's classic buildpack API, clause by clause, with packs that look at what they are given; and the suite
//! of the Builder trait.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

mod api;
mod cache;
mod limits;
mod reference;
mod world;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use paas_core::testkit::builder::{BuilderFixture, conformance};
use paas_core::{Blobs, Builder};
use world::World;

#[tokio::test]
async fn the_bundled_packs_conform() {
    struct Bundled(World);
    impl BuilderFixture for Bundled {
        fn builder(&self) -> Arc<dyn Builder> {
            self.0.builder.clone()
        }
        fn blobs(&self) -> Arc<dyn Blobs> {
            self.0.blobs.clone()
        }
        fn good(&self, dir: &Path) {
            package(dir, "echo canary is $CANARY");
        }
        fn broken(&self, dir: &Path) {
            package(dir, "echo about to fail; exit 3");
        }
        fn unknown(&self, dir: &Path) {
            fs::write(dir.join("notes.txt"), "nothing to run").unwrap();
        }
        fn endless(&self, dir: &Path) {
            package(dir, "echo waiting; sleep 1000000");
        }
    }
    fn package(dir: &Path, build: &str) {
        let json = serde_json::json!({"name": "x", "version": "1.0.0", "scripts": {"start": "node .", "build": build}});
        fs::write(dir.join("package.json"), json.to_string()).unwrap();
        fs::write(dir.join("index.js"), "").unwrap();
    }
    if have("npm") {
        conformance(&Bundled(World::new().await)).await;
    }
}

fn have(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "CI must have {program}");
    if !found {
        eprintln!("SKIPPED: this machine has no {program}");
    }
    found
}
