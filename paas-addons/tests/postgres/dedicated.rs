//! Servers in containers, on a real daemon.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use paas_addons::postgres::{Dedicated, DedicatedConfig, DedicatedPlan, Postgres, Reach};
use paas_core::testkit::addon::conformance;
use paas_core::{
    AddonId, AddonProvider, AddonStatus, AppName, BindRequest, CancelReason, ConfigKey, ErrorCode, PlanName,
    ProvisionRequest,
};
use paas_docker::bollard::models::{ContainerConfig, ContainerInspectResponse};
use paas_docker::bollard::query_parameters::{
    CommitContainerOptions, InspectContainerOptions, ListContainersOptions, ListNetworksOptions,
    ListVolumesOptions, RemoveContainerOptions, RemoveImageOptions, StopContainerOptions, TagImageOptions,
};
use paas_docker::testkit::{BaseImage, DaemonOptions, TestDaemon};
use paas_docker::{Docker, Subnets};
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::support::{Notes, bind, connect, context, name, url};

/// A platform of a test's own on a daemon, of which nothing is left when the test has ended well.
struct Case {
    daemon: TestDaemon,
    docker: Docker,
    folder: TempDir,
    version: u16,
    image: String,
}

impl Case {
    async fn shared() -> Option<Self> {
        Some(Self::on(TestDaemon::shared().await?).await)
    }

    async fn on(daemon: TestDaemon) -> Self {
        let image = daemon.image(BaseImage::Postgres).await.unwrap().to_owned();
        let unique = AddonId::new().uuid().simple().to_string();
        let platform = format!("t{}", &unique[20..]).parse().unwrap();
        let docker = Docker::connect(daemon.config().platform(platform)).await.unwrap();
        let folder = tempfile::Builder::new().prefix("paas-dedicated-").tempdir().unwrap();
        let version = BaseImage::postgres_version().unwrap();
        Self { daemon, docker, folder, version, image }
    }

    fn config(&self) -> DedicatedConfig {
        let small = DedicatedPlan::new(PlanName::new("dedicated").unwrap()).memory(128 << 20).connections(7);
        DedicatedConfig::new(self.docker.clone(), self.folder.path().join("dedicated"))
            .image(self.version, &self.image)
            // Of the same server: that it is another version's is found out, and not believed.
            .image(self.version - 1, &self.image)
            .plans(vec![small])
    }

    fn provider(&self) -> (Dedicated, Postgres) {
        let servers = Dedicated::open(self.config()).unwrap();
        (servers.clone(), Postgres::dedicated(servers))
    }

    fn container(&self, addon: AddonId) -> String {
        format!("{}.postgres.{addon}", self.docker.platform())
    }

    async fn look(&self, addon: AddonId) -> ContainerInspectResponse {
        let name = self.container(addon);
        self.docker.client().inspect_container(&name, None::<InspectContainerOptions>).await.unwrap()
    }

    async fn remove(&self, addon: AddonId) {
        let force = RemoveContainerOptions { force: true, v: true, ..Default::default() };
        self.docker.client().remove_container(&self.container(addon), Some(force)).await.unwrap();
    }

    /// The URL as somebody reaches it who is on no network of the daemon's: this test.
    async fn reached(&self, addon: AddonId, url: &str) -> String {
        let networks = self.look(addon).await.network_settings.unwrap().networks.unwrap();
        let ips = networks.values().filter_map(|network| network.ip_address.as_ref()?.parse::<IpAddr>().ok());
        let ip = { ips }.next().unwrap();
        url.replace(&format!("postgres-{}:", addon.uuid().simple()), &format!("{ip}:"))
    }

    /// A session of the app's, once the server answers.
    async fn session(&self, addon: AddonId, url: &str) -> Client {
        let asking = async {
            loop {
                let (client, name) = (self.docker.client(), self.container(addon));
                let there = client.inspect_container(&name, None::<InspectContainerOptions>).await.ok();
                let on = there.and_then(|found| found.state?.running).unwrap_or_default();
                if on && let Ok(client) = connect(&self.reached(addon, url).await).await {
                    return client;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asking).await.expect("the server answers")
    }

    /// What of this platform's is on the daemon: containers, volumes, networks.
    async fn things(&self) -> (usize, usize, usize) {
        let (client, filters) = (self.docker.client(), Some(self.docker.ours(&[])));
        let all = ListContainersOptions { all: true, filters: filters.clone(), ..Default::default() };
        let containers = client.list_containers(Some(all)).await.unwrap().len();
        let volumes = ListVolumesOptions { filters: filters.clone() };
        let volumes = client.list_volumes(Some(volumes)).await.unwrap().volumes.unwrap_or_default().len();
        let networks = client.list_networks(Some(ListNetworksOptions { filters })).await.unwrap().len();
        (containers, volumes, networks)
    }

    async fn clean_up(&self) {
        self.docker.keep_networks(|_| false).await.unwrap();
        assert_eq!(self.things().await, (0, 0, 0), "nothing is left");
    }
}

fn request(addon: AddonId) -> ProvisionRequest {
    ProvisionRequest::new(addon, PlanName::new("dedicated").unwrap(), app("hello"))
}

fn app(name: &str) -> AppName {
    AppName::new(name).unwrap()
}

async fn made(provider: &Postgres) -> (AddonId, String) {
    let addon = AddonId::new();
    assert_eq!(provider.provision(&context().0, &request(addon)).await.unwrap(), AddonStatus::Ready);
    (addon, url(&bind(provider, addon).await.unwrap()))
}

async fn destroy(provider: &Postgres, addon: AddonId) {
    provider.deprovision(&context().0, addon).await.unwrap();
}

const REMEMBER: &str = "CREATE TABLE notes (note text); INSERT INTO notes VALUES ('kept')";

async fn remembered(client: &Client) -> String {
    client.query_one("SELECT note FROM notes", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn dedicated_servers_conform() {
    let Some(case) = Case::shared().await else { return };
    // The suite's apps are this process, so they find the servers as processes do.
    let servers = Dedicated::open(case.config().reach(Reach::Loopback)).unwrap();
    conformance(Arc::new(Postgres::dedicated(servers)), &Notes).await;
    case.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dedicated_server_has_its_limits_and_speaks_tls_and_shows_its_password_to_nobody() {
    let Some(case) = Case::shared().await else { return };
    let (_servers, provider) = case.provider();
    let (addon, url) = made(&provider).await;
    let host = format!("@postgres-{}:5432/{}", addon.uuid().simple(), name(addon));
    assert!(
        url.ends_with(&host),
        "apps find it by a name that stays: {}",
        url.split('@').next_back().unwrap()
    );
    let client = case.session(addon, &url).await;
    let ask = |query: &'static str| {
        let client = &client;
        async move { client.query_one(query, &[]).await.unwrap().get::<_, String>(0) }
    };
    assert_eq!(ask("SELECT current_setting('ssl')").await, "on");
    assert_eq!(ask("SELECT current_setting('max_connections')").await, "10");
    assert_eq!(ask("SELECT current_setting('data_checksums')").await, "on");
    assert_eq!(ask("SELECT rolconnlimit::text FROM pg_roles WHERE rolname = current_user").await, "7");
    assert_eq!(ask("SELECT rolsuper::text FROM pg_roles WHERE rolname = current_user").await, "false");
    let found = case.look(addon).await;
    let limits = found.host_config.clone().unwrap();
    assert_eq!((limits.memory, limits.nano_cpus), (Some(128 << 20), Some(1_000_000_000)));
    assert_eq!(limits.pids_limit, Some(78));
    let shown = serde_json::to_string(&found).unwrap();
    let password = url.split([':', '@']).nth(2).unwrap().to_owned();
    assert_eq!(password.len(), 64);
    assert!(!shown.contains(&password), "the app's");
    let key = std::fs::read_to_string(case.folder.path().join("dedicated/key")).unwrap();
    assert!(!shown.contains(key.trim()));
    let record = case.folder.path().join(format!("dedicated/{addon}.json"));
    assert!(!std::fs::read_to_string(record).unwrap().contains(&password));
    // Nor the platform's own, whose verifier is all that is there.
    assert!(shown.contains("POSTGRES_PASSWORD=SCRAM-SHA-256$"));
    destroy(&provider, addon).await;
    case.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_chosen_and_one_that_the_image_does_not_have_is_found_out() {
    let Some(case) = Case::shared().await else { return };
    let (_servers, provider) = case.provider();
    let asked = |version: &str| {
        let mut request = request(AddonId::new());
        request.options.insert("version".to_owned(), version.to_owned());
        request
    };
    let (ctx, _) = context();
    for (wrong, because) in
        [("8", "may be"), ("new", "may be"), (&(case.version - 1).to_string(), "is one of")]
    {
        let request = asked(wrong);
        let error = provider.provision(&ctx, &request).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidParams, "{error}");
        assert!(error.to_string().contains(because), "{error}");
        destroy(&provider, request.addon).await;
    }
    let mut other = request(AddonId::new());
    other.options.insert("colour".to_owned(), "blue".to_owned());
    assert_eq!(provider.provision(&ctx, &other).await.unwrap_err().code(), ErrorCode::InvalidParams);
    let right = asked(&case.version.to_string());
    assert_eq!(provider.provision(&ctx, &right).await.unwrap(), AddonStatus::Ready);
    destroy(&provider, right.addon).await;
    case.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_container_somebody_stopped_or_removed_comes_back_with_its_data() {
    let Some(case) = Case::shared().await else { return };
    let (_servers, provider) = case.provider();
    let (addon, url) = made(&provider).await;
    case.session(addon, &url).await.batch_execute(REMEMBER).await.unwrap();
    case.remove(addon).await;
    assert_eq!(remembered(&case.session(addon, &url).await).await, "kept");
    case.docker.client().stop_container(&case.container(addon), None::<StopContainerOptions>).await.unwrap();
    assert_eq!(remembered(&case.session(addon, &url).await).await, "kept");
    // Its password isn't asked of a container that finds its data.
    case.remove(addon).await;
    case.session(addon, &url).await;
    assert!(!serde_json::to_string(&case.look(addon).await).unwrap().contains("POSTGRES_PASSWORD"));
    destroy(&provider, addon).await;
    case.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_another_engine_left_is_found_and_one_that_was_stopped_with_the_platform_starts_again()
{
    let Some(case) = Case::shared().await else { return };
    let (servers, provider) = case.provider();
    let (addon, url) = made(&provider).await;
    let before = case.look(addon).await.id;
    case.session(addon, &url).await.batch_execute(REMEMBER).await.unwrap();
    drop((servers, provider));
    let (servers, provider) = case.provider();
    servers.resume().await.unwrap();
    assert_eq!(case.look(addon).await.id, before, "it ran on");
    assert_eq!(crate::support::url(&bind(&provider, addon).await.unwrap()), url);
    servers.stop().await.unwrap();
    assert_eq!(case.look(addon).await.state.unwrap().running, Some(false));
    servers.resume().await.unwrap();
    assert_eq!(remembered(&case.session(addon, &url).await).await, "kept");
    destroy(&provider, addon).await;
    case.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minor_upgrade_keeps_the_data_and_an_image_that_does_not_work_changes_nothing() {
    let Some(mut case) = Case::shared().await else { return };
    let name = format!("paas-test/{}", case.docker.platform());
    case.retag(&case.image, &name).await;
    case.image = format!("{name}:1");
    let (servers, provider) = case.provider();
    let (addon, url) = made(&provider).await;
    case.session(addon, &url).await.batch_execute(REMEMBER).await.unwrap();
    assert_eq!(servers.upgrade().await.unwrap(), [], "it is on today's image");
    let before = case.look(addon).await.image;

    let newer = case.another(addon, &name, &["LABEL minor=2"]).await;
    assert_eq!(servers.upgrade().await.unwrap(), [addon]);
    let after = case.look(addon).await.image;
    assert_eq!(after.as_deref(), Some(newer.as_str()));
    assert_ne!(after, before);
    assert_eq!(remembered(&case.session(addon, &url).await).await, "kept");

    case.another(addon, &name, &["ENTRYPOINT [\"false\"]"]).await;
    let error = servers.upgrade().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    assert_eq!(case.look(addon).await.image, after);
    assert_eq!(remembered(&case.session(addon, &url).await).await, "kept");

    destroy(&provider, addon).await;
    let force = RemoveImageOptions { force: true, ..Default::default() };
    case.docker.client().remove_image(&case.image, Some(force), None).await.unwrap();
    case.clean_up().await;
}

impl Case {
    async fn retag(&self, image: &str, name: &str) {
        let options = TagImageOptions { repo: Some(name.to_owned()), tag: Some("1".to_owned()) };
        self.docker.client().tag_image(image, Some(options)).await.unwrap();
    }

    /// Another image of the same name: of the running container's files, which are the image's, since the data is not among
    /// them. Says its id.
    async fn another(&self, addon: AddonId, name: &str, changes: &[&str]) -> String {
        let options = CommitContainerOptions {
            container: Some(self.container(addon)),
            repo: Some(name.to_owned()),
            tag: Some("1".to_owned()),
            changes: Some(changes.join("\n")),
            pause: true,
            ..Default::default()
        };
        let made = self.docker.client().commit_container(options, ContainerConfig::default()).await;
        made.unwrap().id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_making_that_is_cut_off_at_any_moment_is_made_whole_or_leaves_nothing() {
    let Some(case) = Case::shared().await else { return };
    let (_servers, provider) = case.provider();
    for milliseconds in [0, 5, 20, 80, 320, 1280] {
        let (addon, (ctx, _)) = (AddonId::new(), context());
        let asked = request(addon);
        let cut = async {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            ctx.cancel.cancel(CancelReason::Shutdown);
        };
        // It may have been done before.
        let _ = tokio::join!(provider.provision(&ctx, &asked), cut);
        // The next life of the engine knows no more than what is on disk and on the daemon.
        let (_servers, next) = case.provider();
        if milliseconds % 10 == 0 {
            assert_eq!(next.provision(&context().0, &request(addon)).await.unwrap(), AddonStatus::Ready);
            let url = url(&bind(&next, addon).await.unwrap());
            case.session(addon, &url).await.batch_execute(REMEMBER).await.unwrap();
        }
        destroy(&provider, addon).await;
        destroy(&next, addon).await;
        destroy(&next, addon).await;
        assert_eq!(next.status(&context().0, addon).await.unwrap(), AddonStatus::Gone);
    }
    case.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_app_that_a_server_is_bound_to_finds_it_on_its_own_network_until_it_is_unbound() {
    let Some(case) = Case::shared().await else { return };
    let (_servers, provider) = case.provider();
    let (addon, url) = made(&provider).await;
    let other = |name: &str| BindRequest::new(addon, app("other"), ConfigKey::new(name).unwrap());
    for name in ["ONE", "TWO"] {
        provider.bind(&context().0, &other(name)).await.unwrap();
    }
    let networks = async || {
        let networks = case.look(addon).await.network_settings.unwrap().networks.unwrap();
        let mut names: Vec<_> = networks.into_keys().collect();
        names.sort();
        names
    };
    let [hello, others] = ["hello", "other"].map(|app| format!("{}.{app}", case.docker.platform()));
    assert_eq!(networks().await, [hello.as_str(), others.as_str()]);
    case.remove(addon).await;
    case.session(addon, &url).await;
    assert_eq!(networks().await, [hello.as_str(), others.as_str()], "another container is there too");
    provider.unbind(&context().0, &other("ONE")).await.unwrap();
    assert_eq!(networks().await.len(), 2, "it is still used under the other name");
    for _ in 0..2 {
        provider.unbind(&context().0, &other("TWO")).await.unwrap();
    }
    assert_eq!(networks().await, [hello]);
    destroy(&provider, addon).await;
    case.clean_up().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_outlive_a_daemon_that_is_restarted_or_killed_and_are_waited_for() {
    let Some(daemon) = TestDaemon::own(DaemonOptions::new()).await else { return };
    let mut case = Case::on(daemon).await;
    let subnets = Subnets::new("10.241.0.0/24", 28).unwrap();
    let config = case.daemon.config().platform(case.docker.platform().clone()).subnets(subnets);
    case.docker = Docker::connect(config).await.unwrap();
    let (_servers, provider) = case.provider();
    let (addon, url) = made(&provider).await;
    case.session(addon, &url).await.batch_execute(REMEMBER).await.unwrap();
    case.daemon.stop();
    let error = bind(&provider, addon).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    assert!(provider.catalog().await.unavailable.is_some());
    case.daemon.start_again().await.unwrap();
    assert_eq!(remembered(&case.session(addon, &url).await).await, "kept");
    case.daemon.kill();
    case.daemon.start_again().await.unwrap();
    assert_eq!(remembered(&case.session(addon, &url).await).await, "kept");
    destroy(&provider, addon).await;
    case.clean_up().await;
}
