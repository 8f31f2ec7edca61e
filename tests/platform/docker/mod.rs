//! The platform on Docker: the same promises, kept with images and containers.

mod hardships;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use paas::docker::bollard::query_parameters::{
    ListContainersOptions, ListContainersOptionsBuilder, ListImagesOptionsBuilder, ListVolumesOptions,
};
use paas::docker::testkit::{BaseImage, TestDaemon};
use paas::docker::{Docker, label};
use paas::{ConfigEdit, ConfigVars, RollbackOrder};
use tokio::runtime::Runtime;

use crate::harness::{Client, Gate, Ground, Instance, Repo, World, until};

/// A platform on a daemon for tests, and a look at that daemon.
pub(crate) struct Case {
    pub(crate) world: World,
    pub(crate) docker: Docker,
    pub(crate) runtime: Runtime,
    _daemon: Arc<TestDaemon>,
}

impl Case {
    /// `None` where there is no daemon.
    pub(crate) fn new() -> Option<Self> {
        Self::with(&[BaseImage::Busybox], |world| world)
    }

    /// With these images there, and a platform that is told more.
    pub(crate) fn with(images: &[BaseImage], told: impl FnOnce(World) -> World) -> Option<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let daemon = Arc::new(runtime.block_on(TestDaemon::shared())?);
        for image in images {
            runtime.block_on(daemon.image(*image)).unwrap();
        }
        let world =
            World::not_started().with_example("docker_platform").with_env("DOCKER_HOST", daemon.host());
        let mut world = told(world);
        world.start_first();
        let name = std::fs::read_to_string(world.data.join("docker-name")).unwrap();
        let config = daemon.config().platform(name.parse().unwrap());
        let docker = runtime.block_on(Docker::connect(config)).unwrap();
        Some(Self { world, docker, runtime, _daemon: daemon })
    }

    /// The app's running containers by id, with what process each is.
    pub(crate) fn containers(&self, app: &str) -> BTreeMap<String, String> {
        let filters = self.docker.ours(&[(label::APP, app)]);
        let options = ListContainersOptionsBuilder::new().filters(&filters).build();
        let found = self.runtime.block_on(self.docker.client().list_containers(Some(options))).unwrap();
        let row = |container: paas::docker::bollard::models::ContainerSummary| {
            let process = container.labels?.get(label::PROCESS)?.clone();
            Some((container.id?, process))
        };
        found.into_iter().filter_map(row).collect()
    }

    /// All containers and volumes of the app, its database's among them.
    pub(crate) fn of(&self, app: &str) -> Vec<String> {
        let filters = Some(self.docker.ours(&[(label::APP, app)]));
        let options = ListContainersOptions { all: true, filters: filters.clone(), ..Default::default() };
        let containers = self.runtime.block_on(self.docker.client().list_containers(Some(options))).unwrap();
        let volumes = ListVolumesOptions { filters };
        let volumes = self.runtime.block_on(self.docker.client().list_volumes(Some(volumes))).unwrap();
        let volumes = volumes.volumes.unwrap_or_default().into_iter().map(|volume| volume.name);
        containers.into_iter().filter_map(|container| container.id).chain(volumes).collect()
    }

    /// How many containers of the platform carry these labels, also ended ones.
    pub(crate) fn count(&self, labels: &[(&str, &str)]) -> usize {
        let filters = Some(self.docker.ours(labels));
        let options = ListContainersOptions { all: true, filters, ..Default::default() };
        self.runtime.block_on(self.docker.client().list_containers(Some(options))).unwrap().len()
    }

    /// How many images of the platform there are.
    fn images(&self) -> usize {
        let filters = self.docker.ours(&[]);
        let options = ListImagesOptionsBuilder::new().filters(&filters).build();
        self.runtime.block_on(self.docker.client().list_images(Some(options))).unwrap().len()
    }

    /// The release of before is gone.
    pub(crate) fn until_alone(&self, app: &str, processes: usize) -> BTreeMap<String, String> {
        until("the new release's containers alone", || {
            let found = self.containers(app);
            (found.len() == processes).then_some(found)
        })
    }
}

impl Ground for Case {
    fn world(&self) -> &World {
        &self.world
    }

    fn world_mut(&mut self) -> &mut World {
        &mut self.world
    }

    fn app(&self, repo: &Repo, word: &str) {
        let serve = "echo \"$(cat word) in=$(hostname)\" > index.html; echo $(cat word) listens\n\
            exec httpd -f -p $PORT\n";
        repo.write("Dockerfile", "FROM paas-test/busybox:1\nWORKDIR /www\nCOPY . .\n");
        repo.write("serve.sh", serve).write("word", word);
        repo.write("Procfile", format!("web: {}\n", self.serve()));
    }

    fn serve(&self) -> &'static str {
        "exec sh serve.sh"
    }

    fn shell(&self) -> &'static str {
        "sh"
    }

    fn ask(&self, gate: &Gate) -> String {
        gate.shell_in_container()
    }

    fn build_asks(&self, repo: &Repo, gate: &Gate) -> bool {
        let dockerfile = "FROM paas-test/busybox:1\nWORKDIR /www\nCOPY . .\nRUN sh build.sh\n";
        repo.write("build.sh", gate.shell_in_container()).write("Dockerfile", dockerfile);
        true
    }

    /// Who said it is the container.
    fn serving(&self, app: &str) -> (String, String) {
        let answer = self.world.get(app);
        assert_eq!(answer.status, 200, "{answer:?}");
        let container = answer.body.trim().rsplit_once("in=").expect("its container").1;
        (answer.word().to_owned(), container.to_owned())
    }

    /// Every container that is meant to last, also one that has ended.
    fn instances(&self) -> Vec<Instance> {
        let filters = Some(self.docker.ours(&[(label::KIND, "instance")]));
        let options = ListContainersOptions { all: true, filters, ..Default::default() };
        self.runtime.block_on(async {
            let client = self.docker.client();
            let mut all = Vec::new();
            for found in client.list_containers(Some(options)).await.unwrap() {
                let id = found.id.unwrap();
                // One that goes meanwhile is none.
                let Ok(found) = client.inspect_container(&id, None).await else { continue };
                let env = found.config.and_then(|config| config.env).unwrap_or_default().into_iter();
                let env = env.filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.into(), v.into())));
                all.extend(Instance::new(id, env.collect()));
            }
            all
        })
    }

    fn runs(&self, app: &str) -> BTreeSet<String> {
        self.containers(app).into_keys().collect()
    }
}

/// A web app that answers with this word and with the config var `GREETING`.
fn app<'a>(repo: &'a Repo, word: &str) -> &'a Repo {
    let dockerfile = "FROM paas-test/busybox:1\nWORKDIR /www\nCOPY . .\n\
        CMD echo \"$(cat word) ${GREETING:-none}\" > index.html; echo serving $(cat word); exec httpd -f -p $PORT\n";
    repo.write("Dockerfile", dockerfile).write("word", word)
}

#[test]
fn an_app_with_a_dockerfile_is_pushed_changed_configured_and_rolled_back_and_no_request_fails() {
    let Some(mut case) = Case::new() else { return };
    let world = &case.world;
    let repo = world.repo("shop");
    app(&repo, "one").commit();
    let first = world.push(&repo, "shop");
    first.assert_accepted();
    for shown in ["Building Dockerfile with Docker", "COPY . .", "own command     -> web", "Released v1"] {
        assert!(first.said.contains(shown), "{shown:?}: {}", first.said);
    }
    assert_eq!(world.get("shop").body.trim(), "one none");

    let users = world.probe("shop");
    app(&repo, "two").commit();
    world.push(&repo, "shop").assert_accepted();
    assert_eq!(world.get("shop").word(), "two");

    let bad = |dockerfile: &str, because: &str| {
        repo.write("Dockerfile", dockerfile).commit();
        world.push(&repo, "shop").assert_refused(&["Push rejected", because]);
        assert_eq!(world.get("shop").word(), "two");
    };
    bad("FROM paas-test/busybox:1\nRUN echo no such module; exit 7\n", "no such module");
    bad("FROM paas-test/busybox:1\nCMD echo out of luck; exit 3\n", "out of luck");
    bad("FROM paas-test/busybox:1\n", "the image says nothing to run");

    let client = Client::open(&world.data);
    let name = "shop".parse().unwrap();
    let edit = ConfigEdit::set(ConfigVars::new().with("GREETING", "hello").unwrap());
    let configured = client.wait(client.engine.configure(&name, edit, &Client::me()));
    client.wait(configured.succeeded());
    assert_eq!(world.get("shop").body.trim(), "two hello");

    let live = world.records().app("shop").unwrap().live.unwrap().version;
    let releases = world.records().releases("shop");
    let to = releases.first().unwrap().version;
    let back = client.wait(client.engine.rollback(&name, RollbackOrder::to(to), &Client::me()));
    client.wait(back.succeeded());
    assert_eq!(world.get("shop").body.trim(), "one none");
    assert!(world.records().app("shop").unwrap().live.unwrap().version > live);

    users.stop().assert_served_by(&["one", "two"]);
    let alone = case.until_alone("shop", 1);
    assert_eq!(alone.into_values().collect::<Vec<_>>(), ["web"]);
    assert!(case.images() >= 2, "releases can be gone back to");
    case.world.stop();
}

#[test]
fn a_killed_platform_finds_its_containers_and_finishes_what_it_was_at() {
    let Some(mut case) = Case::new() else { return };
    let repo = case.world.repo("survivor");
    app(&repo, "one")
        .write("Procfile", "web: echo one 1 > index.html; exec httpd -f -p $PORT\nworker: exec sleep 1000\n");
    repo.commit();
    case.world.push(&repo, "survivor").assert_accepted();
    let before = case.until_alone("survivor", 2);

    case.world.kill();
    assert_eq!(case.containers("survivor"), before, "apps don't need the platform");
    case.world.start();

    assert_eq!(case.world.get("survivor").word(), "one");
    assert_eq!(case.containers("survivor"), before, "they were adopted, not started again");
    repo.write("word", "two");
    repo.write("Procfile", "web: echo two 2 > index.html; exec httpd -f -p $PORT\n").commit();
    case.world.push(&repo, "survivor").assert_accepted();
    assert_eq!(case.world.get("survivor").word(), "two");
    case.until_alone("survivor", 1);
    case.world.stop();
    assert!(case.containers("survivor").is_empty(), "apps end with a platform that is told to stop");
}

#[test]
fn an_app_talks_to_the_database_server_of_its_own_which_outlives_releases_and_goes_with_the_app() {
    let version = BaseImage::postgres_version().map_or_else(String::new, |version| version.to_string());
    let image = format!("{version}={}", BaseImage::Postgres.name());
    let told = |world: World| world.with_env("PAAS_POSTGRES", &image);
    let Some(mut case) = Case::with(&[BaseImage::Postgres], told) else { return };
    let repo = case.world.repo("notes");
    let dockerfile = "FROM paas-test/postgres:1\nWORKDIR /www\nCOPY . .\nENTRYPOINT []\nCMD sh start.sh\n";
    let release =
        "psql -v ON_ERROR_STOP=1 \"$DATABASE_URL\" -c 'CREATE TABLE IF NOT EXISTS starts (at timestamptz)'";
    let start = "psql -At \"$DATABASE_URL\" -c 'INSERT INTO starts VALUES (now())' && \
        psql -At \"$DATABASE_URL\" -c 'SELECT count(*) FROM starts' > index.html && exec httpd -f -p $PORT\n";
    repo.write("Dockerfile", dockerfile).write("start.sh", start);
    repo.write("Procfile", format!("release: {release}\nweb: sh start.sh\n"));
    let app_json =
        format!(r#"{{"addons": [{{"plan": "postgres:dedicated", "options": {{"version": "{version}"}}}}]}}"#);
    repo.write("app.json", &app_json).commit();
    let first = case.world.push(&repo, "notes");
    first.assert_accepted();
    for shown in
        ["Provisioning postgres (dedicated)", &format!("PostgreSQL {version} server"), "Attached as DATABASE"]
    {
        assert!(first.said.contains(shown), "{shown:?}: {}", first.said);
    }
    assert_eq!(case.world.get("notes").body.trim(), "1");

    repo.write("more", "").commit();
    case.world.push(&repo, "notes").assert_accepted();
    assert_eq!(case.world.get("notes").body.trim(), "2", "the data is there for the next release");

    let client = Client::open(&case.world.data);
    let destroyed = client.wait(client.engine.destroy_app(&"notes".parse().unwrap(), &Client::me()));
    client.wait(destroyed.succeeded());
    until("nothing of the app is left", || case.of("notes").is_empty().then_some(()));
    case.world.stop();
}
