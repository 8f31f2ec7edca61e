//! Buildpacks in containers of a stack image.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use paas_core::testkit::builder::{BuilderFixture, conformance};
use paas_core::{Blobs, Builder, CancelReason, ErrorCode, LogQuery, Logs};
use paas_docker::bollard::models::ContainerInspectResponse;
use paas_docker::bollard::query_parameters::ListContainersOptions;
use paas_docker::testkit::{BaseImage, TestDaemon};
use paas_docker::{Docker, label};
use paas_sandbox::Limits;

use crate::packs_world::{World, text};

/// A builder in containers, for a platform of its own on the run's daemon.
struct Bench {
    world: World,
    docker: Docker,
    _daemon: TestDaemon,
}

impl Bench {
    async fn new() -> Option<Self> {
        let daemon = TestDaemon::shared().await?;
        let stack = daemon.image(BaseImage::Stack).await.unwrap();
        let name = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let docker = Docker::connect(daemon.config().platform(name.parse().unwrap())).await.unwrap();
        let limits = Limits::new().memory(128 << 20).tasks(200).cpu(1500);
        let world =
            World::with(|config| config.in_containers(docker.clone(), stack).with_limits(limits)).await;
        Some(Self { world, docker, _daemon: daemon })
    }

    /// The containers of builds, as the daemon shows them to everybody who may ask it.
    async fn containers(&self) -> Vec<ContainerInspectResponse> {
        let filters = Some(self.docker.ours(&[(label::KIND, "build")]));
        let options = ListContainersOptions { all: true, filters, ..Default::default() };
        let mut all = Vec::new();
        for found in self.docker.client().list_containers(Some(options)).await.unwrap() {
            // It may be gone since.
            all.extend(self.docker.client().inspect_container(&found.id.unwrap(), None).await.ok());
        }
        all
    }

    async fn until_says(&self, wanted: &str) {
        let mut lines =
            self.world.logs.read(&"sample".parse().unwrap(), LogQuery::all().follow()).await.unwrap();
        let said = async { while lines.next().await.unwrap().text != wanted {} };
        tokio::time::timeout(Duration::from_secs(60), said).await.expect(wanted);
    }

    /// The end of this test.
    async fn is_clean(&self) {
        assert_eq!(self.containers().await, []);
        self.docker.remove_network(&"sample".parse().unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn buildpacks_in_containers_conform() {
    struct Contained(Bench);
    impl Contained {
        fn compile(&self, dir: &Path, name: &str, compile: &str) {
            let pack = self.0.world.compiling(name, compile);
            std::fs::write(dir.join("app.json"), format!(r#"{{"buildpacks": ["{pack}"]}}"#)).unwrap();
            std::fs::write(dir.join("Procfile"), "web: run\n").unwrap();
        }
    }
    impl BuilderFixture for Contained {
        fn builder(&self) -> Arc<dyn Builder> {
            self.0.world.builder.clone()
        }
        fn blobs(&self) -> Arc<dyn Blobs> {
            self.0.world.blobs.clone()
        }
        fn good(&self, dir: &Path) {
            self.compile(dir, "good", "echo canary is $(cat $3/CANARY)");
        }
        fn broken(&self, dir: &Path) {
            self.compile(dir, "broken", "echo about to fail; exit 3");
        }
        fn unknown(&self, dir: &Path) {
            std::fs::write(dir.join("notes.txt"), "nothing to run").unwrap();
        }
        fn endless(&self, dir: &Path) {
            self.compile(dir, "endless", "echo waiting; sleep 1000000");
        }
    }
    let Some(bench) = Bench::new().await else { return };
    let contained = Contained(bench);
    conformance(&contained).await;
    assert_eq!(contained.0.containers().await, []);
}

#[tokio::test]
async fn a_build_in_a_container_sees_the_stack_and_its_own_folders_and_shows_no_secret() {
    let Some(bench) = Bench::new().await else { return };
    let world = &bench.world;
    let look = format!(
        "id -u >$1/user; grep -E 'CapEff|NoNewPrivs' /proc/self/status >$1/may; ls {} /var/run/docker.sock >$1/host 2>/dev/null\n\
         ls $2 >$1/had; echo kept >$2/kept; cat $3/TOKEN | wc -c >$1/token; echo looked around; [ -f $1/quick ] || sleep 876541",
        world.dir.path().display(),
    );
    let pack = world.compiling("curious", &look);
    let app = world.app(&[("Procfile", "web: run")]).packs(&[&pack]).config("TOKEN", "canary-7f3a");

    let context = world.context();
    let request = app.request();
    let building = world.builder.build(&context, &request);
    let watching = async {
        bench.until_says("looked around").await;
        let seen = bench.containers().await;
        context.cancel.cancel(CancelReason::User);
        seen
    };
    let (built, seen) = tokio::join!(building, watching);
    assert_eq!(built.unwrap_err().code(), ErrorCode::Cancelled);
    assert_eq!(bench.containers().await, [], "what was cancelled is gone");
    let [seen] = &seen[..] else { panic!("one container: {seen:?}") };
    assert!(!format!("{seen:?}").contains("canary-7f3a"), "{seen:?}");
    let host = seen.host_config.as_ref().unwrap();
    assert_eq!(
        (host.memory, host.pids_limit, host.nano_cpus),
        (Some(128 << 20), Some(200), Some(1_500_000_000))
    );

    app.write("quick", "");
    let slug = world.unpacked(&app.build().await.unwrap());
    assert_ne!(text(slug.path(), "user").trim(), "0");
    assert_eq!(text(slug.path(), "may"), "CapEff:\t0000000000000000\nNoNewPrivs:\t1\n");
    assert_eq!(text(slug.path(), "host"), "", "it sees nothing of the machine");
    assert_eq!(text(slug.path(), "token").trim(), "11");
    assert_eq!(text(slug.path(), "had"), "", "the cache of a build that was cancelled is not kept");
    app.write("another", "");
    let slug = world.unpacked(&app.build().await.unwrap());
    assert_eq!(text(slug.path(), "had"), "kept\n", "an app's cache is there for its next build");
    bench.is_clean().await;
}

#[tokio::test]
async fn a_build_in_a_container_that_takes_too_much_is_ended_and_one_that_was_left_behind_too() {
    let Some(bench) = Bench::new().await else { return };
    let world = &bench.world;
    let greedy = world.compiling("greedy", "set -o pipefail; head -c 1G /dev/zero | tail -c 512M | wc -c");
    let error = world.app(&[("a", "")]).packs(&[&greedy]).build().await.unwrap_err();
    assert!(error.message().ends_with("more memory than the 128 MB that a build may use"), "{error}");

    let pack = world.compiling("stuck", "echo stuck; sleep 876542");
    let (builder, context) = (world.builder.clone(), world.context());
    let request = world.app(&[]).packs(&[&pack]).request();
    let engine = tokio::spawn(async move { builder.build(&context, &request).await });
    bench.until_says("stuck").await;
    // As if the engine had been killed.
    engine.abort();
    assert!(engine.await.unwrap_err().is_cancelled());
    assert_eq!(bench.containers().await.len(), 1);
    world.again_with(|config| config.in_containers(bench.docker.clone(), BaseImage::Stack.name())).await;
    bench.is_clean().await;
}
