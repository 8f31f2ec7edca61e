//! What every builder promises.

use std::path::Path;
use std::sync::Arc;

use paas_build::DockerfileConfig;
use paas_core::testkit::builder::{BuilderFixture, conformance};
use paas_core::{Blobs, Builder, DirBlobs};

use super::world::World;

struct Fixture {
    world: World,
    blobs: Arc<DirBlobs>,
    /// How a step gets at the config var.
    print: &'static str,
}

impl Fixture {
    fn dockerfile(dir: &Path, step: &str) {
        let text = format!("FROM paas-test/busybox:1\n{step}\nCOPY . /app\nCMD [\"httpd\", \"-f\"]\n");
        std::fs::write(dir.join("Dockerfile"), text).unwrap();
    }
}

impl BuilderFixture for Fixture {
    fn builder(&self) -> Arc<dyn Builder> {
        self.world.builder.clone()
    }

    fn blobs(&self) -> Arc<dyn Blobs> {
        self.blobs.clone()
    }

    fn good(&self, dir: &Path) {
        // The classic builder knows a step again, whichever app it is of, and then it prints nothing.
        Self::dockerfile(dir, &format!("{}; : {}", self.print, uuid::Uuid::new_v4()));
        std::fs::write(dir.join("app.json"), r#"{"docker": {"config_args": ["CANARY"]}}"#).unwrap();
    }

    fn broken(&self, dir: &Path) {
        Self::dockerfile(dir, "RUN echo about to fail; exit 3");
    }

    fn unknown(&self, dir: &Path) {
        std::fs::write(dir.join("notes.txt"), "nothing to build").unwrap();
    }

    fn endless(&self, dir: &Path) {
        Self::dockerfile(dir, "RUN echo waiting; sleep 1000");
    }
}

async fn holds(world: Option<World>, print: &'static str) {
    let Some(world) = world else { return };
    let dir = tempfile::tempdir().unwrap();
    let blobs = Arc::new(DirBlobs::open(dir.path().join("blobs")).unwrap());
    conformance(&Fixture { world, blobs, print }).await;
}

#[tokio::test]
async fn the_dockerfile_builder_conforms_with_buildkit() {
    holds(World::new().await, "RUN --mount=type=secret,id=CANARY echo canary $(cat /run/secrets/CANARY)")
        .await;
}

#[tokio::test]
async fn the_dockerfile_builder_conforms_with_the_classic_builder() {
    holds(World::with(DockerfileConfig::classic).await, "ARG CANARY\nRUN echo canary $CANARY").await;
}
