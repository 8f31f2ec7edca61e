//! Images that somebody else has built, from a registry that asks who comes.

use std::path::Path;

use paas_build::{ImageBuilder, ImageSource, Registries};
use paas_core::{
    AppId, Artifact, BuildRequest, Builder, Checkout, ConfigValue, Detection, Digest, ErrorCode, Result,
    Revision, Source,
};

use super::registry::{PASSWORD, Registry};
use super::world::World;

/// An image of a test's own, with this command: its id.
async fn image(world: &World, command: &str) -> String {
    let dockerfile =
        format!("FROM paas-test/busybox:1\nRUN echo {} > /only\n{command}\n", uuid::Uuid::new_v4());
    world
        .app(&[("Dockerfile", &dockerfile), ("Procfile", "web: true")])
        .build()
        .await
        .unwrap()
        .reference
        .unwrap()
}

struct Case<'a> {
    world: &'a World,
    source: ImageSource,
    builder: ImageBuilder,
}

impl<'a> Case<'a> {
    fn new(world: &'a World, registries: &Registries) -> Self {
        let source = ImageSource::new(world.docker.clone()).registries(registries.clone());
        let builder = ImageBuilder::new(world.docker.clone()).registries(registries.clone());
        Self { world, source, builder }
    }

    async fn fetch(&self, image: &str, into: &Path) -> Result<Revision> {
        self.source.fetch(&self.world.context(), &ImageSource::at(image)?, into).await
    }

    fn request(into: &Path, revision: Revision) -> BuildRequest {
        BuildRequest::new(World::name(), AppId::new(), Checkout::new(into, Digest::of(""), revision))
    }

    async fn build(&self, request: &BuildRequest) -> Result<Artifact> {
        self.builder.build(&self.world.context(), request).await
    }
}

#[tokio::test]
async fn an_image_is_pinned_when_it_is_fetched_and_a_moved_tag_moves_nothing() {
    let (Some(world), Some(registry)) = (World::new().await, Registry::start()) else { return };
    let client = world.docker.client();
    let (old, new) = (image(&world, "CMD [\"old\"]").await, image(&world, "CMD [\"new\"]").await);
    registry.put(client, &old, "acme/shop", "1").await;
    let (case, into) = (Case::new(&world, &registry.login()), tempfile::tempdir().unwrap());
    let name = format!("{}/acme/shop:1", registry.address);
    let revision = case.fetch(&name, into.path()).await.unwrap();
    registry.put(client, &new, "acme/shop", "1").await;

    let request = Case::request(into.path(), revision.clone());
    let pinned = &revision.metadata["image"];
    assert_eq!(
        case.builder.detect(&world.context(), &request).await.unwrap(),
        Detection::Yes(pinned.clone())
    );
    let artifact = case.build(&request).await.unwrap();

    assert_eq!(artifact.reference.as_deref(), Some(pinned.as_str()));
    assert_eq!(artifact.digest.to_string(), old);
    assert!(pinned.starts_with(&format!("{}/acme/shop@sha256:", registry.address)), "{pinned}");
    assert_eq!(std::fs::read_to_string(into.path().join("image")).unwrap().trim(), pinned);
    let commands: Vec<_> = artifact.processes.iter().map(|(p, e)| (p.as_str(), e.command.as_str())).collect();
    assert_eq!(commands, [("web", "")]);
    let again = case.fetch(&name, tempfile::tempdir().unwrap().path()).await.unwrap();
    assert_ne!(&again.metadata["image"], pinned, "the tag means another one now");
}

#[tokio::test]
async fn a_pulled_image_is_removed_when_it_is_discarded_and_one_that_was_here_is_not() {
    let (Some(world), Some(registry)) = (World::new().await, Registry::start()) else { return };
    let client = world.docker.client();
    let id = image(&world, "CMD [\"x\"]").await;
    registry.put(client, &id, "shop", "1").await;
    let (case, into) = (Case::new(&world, &registry.login()), tempfile::tempdir().unwrap());
    let revision = case.fetch(&format!("{}/shop:1", registry.address), into.path()).await.unwrap();
    let request = Case::request(into.path(), revision);
    let there = async || client.inspect_image(&id).await.is_ok();

    let pulled = case.build(&request).await.unwrap();
    assert!(there().await && world.log().await.contains("-----> Pulling"));
    for _ in 0..2 {
        case.builder.discard(&world.context(), &pulled).await.unwrap();
    }
    assert!(!there().await);

    // Another platform's pull is none of ours.
    let other = world.another(|config| config).await;
    Case::new(&other, &registry.login()).build(&request).await.unwrap();
    let found = case.build(&request).await.unwrap();
    assert!(world.log().await.contains("is here already"));
    case.builder.discard(&world.context(), &found).await.unwrap();
    assert!(there().await);
}

#[tokio::test]
async fn a_wrong_login_is_told_and_its_password_is_not() {
    let (Some(world), Some(registry)) = (World::new().await, Registry::start()) else { return };
    let id = image(&world, "CMD [\"x\"]").await;
    registry.put(world.docker.client(), &id, "shop", "1").await;
    let name = format!("{}/shop:1", registry.address);
    let into = tempfile::tempdir().unwrap();
    let secret = "wrong-password-77";
    let wrong = Registries::new().login(&registry.address, "ci", ConfigValue::new(secret).unwrap());
    for registries in [Registries::new(), wrong] {
        let case = Case::new(&world, &registries);
        let error = case.fetch(&name, into.path()).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unauthorized, "{error:?}");
        assert!(error.to_string().contains(&name) && !format!("{error:?}").contains(secret), "{error:?}");
        assert!(!format!("{case:?}", case = case.source).contains(secret));
    }
    let case = Case::new(&world, &registry.login());
    let missing = case.fetch(&format!("{}/nothing:1", registry.address), into.path()).await.unwrap_err();
    assert!(matches!(missing.code(), ErrorCode::NotFound | ErrorCode::BadSource), "{missing:?}");
    let log = world.log().await;
    assert!(!log.contains(PASSWORD) && !log.contains(secret), "{log}");
}

#[tokio::test]
async fn a_dockerfile_starts_from_a_private_base_image() {
    let Some(registry) = Registry::start() else { return };
    let login = registry.login();
    let (Some(base), Some(world)) =
        (World::new().await, World::with(|config| config.registries(login)).await)
    else {
        return;
    };
    let id = image(&base, "CMD [\"base\"]").await;
    registry.put(base.docker.client(), &id, "base", "1").await;
    let dockerfile = format!("FROM {}/base:1\nRUN cat /only > /mine\n", registry.address);
    let artifact = world.app(&[("Dockerfile", &dockerfile)]).build().await.unwrap();
    assert!(world.file(&artifact, "mine").await.is_some());
    let all = world.all_of(&artifact).await;
    assert!(!all.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes()));
    // The base that is already here isn't asked for again; another platform's first build is.
    let stranger =
        base.app(&[("Dockerfile", &dockerfile.replace("base:1", "base:2"))]).build().await.unwrap_err();
    assert_eq!(stranger.code(), ErrorCode::BuildFailed, "{stranger:?}");
}
