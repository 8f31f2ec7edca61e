//! The conformance suite of [`Builder`].
//!
//! Implement [`BuilderFixture`] and call [`conformance`] from a test of yours; it panics with a sentence that says
//! what does not hold. What a builder says it can't do ([`Builder::capabilities`]) is not asked of it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

use super::{context, texts};
use crate::{
    AppId, AppName, Artifact, ArtifactKind, Blobs, BuildRequest, Builder, CancelReason, Checkout, ConfigVars,
    Context, Detection, Digest, ErrorCode, LogQuery, Logs as _, MemoryLogs, Revision, archive,
};

/// What the suite needs of an implementation. Each method fills an empty folder with an app.
pub trait BuilderFixture: Send + Sync {
    /// The builder under test.
    fn builder(&self) -> Arc<dyn Builder>;

    /// Where it puts what it makes.
    fn blobs(&self) -> Arc<dyn Blobs>;

    /// An app that builds, has a `web` process, and whose build prints the value of its config var `CANARY`.
    fn good(&self, dir: &Path);

    /// An app whose build prints `about to fail` and then fails.
    fn broken(&self, dir: &Path);

    /// An app that this builder doesn't know.
    fn unknown(&self, dir: &Path);

    /// An app whose build prints `waiting` and never ends.
    fn endless(&self, dir: &Path);
}

const CANARY: &str = "canary-f3b1c9d2-7a5e";

/// Checks everything.
///
/// # Panics
/// With what does not hold.
pub async fn conformance(fixture: &dyn BuilderFixture) {
    detecting_tells_known_from_unknown_and_changes_nothing(fixture).await;
    a_build_gives_an_artifact_that_is_kept(fixture).await;
    the_same_input_gives_the_same_digest_also_side_by_side(fixture).await;
    a_secret_is_neither_in_the_log_nor_in_the_artifact(fixture).await;
    a_failed_build_shows_its_last_lines(fixture).await;
    a_cancelled_build_ends(fixture).await;
    forgetting_is_repeatable(fixture).await;
}

/// One build's app, code and log.
struct Case {
    dir: TempDir,
    request: BuildRequest,
    logs: Arc<MemoryLogs>,
}

impl Case {
    fn new(fill: impl Fn(&Path)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).expect("a folder");
        fill(&tree);
        let app: AppName = "builder-conformance".parse().expect("a constant");
        let commit = Some("0123456789abcdef0123456789abcdef01234567".to_owned());
        let revision = Revision { id: commit, ..Revision::default() };
        let checkout = Checkout::new(&tree, digest(&tree), revision);
        let config = ConfigVars::new().with("CANARY", CANARY).expect("a config var");
        let request = BuildRequest::new(app, AppId::new(), checkout).with_config(config);
        Self { dir, request, logs: Arc::new(MemoryLogs::new()) }
    }

    fn context(&self) -> Context {
        context(&self.logs, &self.request.app, "build")
    }

    async fn texts(&self) -> Vec<String> {
        texts(&*self.logs, &self.request.app).await
    }

    async fn build(&self, fixture: &dyn BuilderFixture) -> crate::Result<Artifact> {
        let context = self.context();
        fixture.builder().build(&context, &self.request).await
    }
}

fn digest(tree: &Path) -> Digest {
    let aside = tempfile::tempdir().expect("a temporary folder");
    archive::pack(tree, &aside.path().join("tree"), &|_, _| true).expect("a tree that can be packed").digest
}

async fn detecting_tells_known_from_unknown_and_changes_nothing(fixture: &dyn BuilderFixture) {
    let known = Case::new(|dir| fixture.good(dir));
    let context = known.context();
    let detection = fixture.builder().detect(&context, &known.request).await.expect("a detection");
    assert!(
        matches!(&detection, Detection::Yes(name) if !name.is_empty()),
        "a known app is detected, with a name: {detection:?}"
    );
    assert_eq!(
        digest(&known.dir.path().join("tree")),
        known.request.checkout.digest,
        "detecting changes nothing"
    );

    let unknown = Case::new(|dir| fixture.unknown(dir));
    let detection = fixture.builder().detect(&context, &unknown.request).await.expect("a detection");
    assert!(
        matches!(&detection, Detection::No(looked_for) if !looked_for.is_empty()),
        "an unknown app is not detected, and it is told what was looked for: {detection:?}"
    );
    let error = unknown.build(fixture).await.expect_err("an unknown app can't be built");
    assert_eq!(error.code(), ErrorCode::NotDetected, "{error:?}");
}

async fn a_build_gives_an_artifact_that_is_kept(fixture: &dyn BuilderFixture) {
    let case = Case::new(|dir| fixture.good(dir));
    let artifact = case.build(fixture).await.expect("a good app builds");
    assert_eq!(artifact.builder, fixture.builder().id().name, "an artifact names its builder");
    assert!(artifact.size > 0, "an artifact has a size");
    assert!(artifact.processes.iter().any(|(process, _)| process.is_web()), "the good app has a web process");
    assert!(!case.texts().await.is_empty(), "a build speaks");
    if artifact.kind == ArtifactKind::Slug {
        let kept = fixture.blobs().has(artifact.digest).await.expect("an answer");
        assert!(kept, "a slug is in Blobs when the build returns");
        unpacked(fixture, &artifact).await;
    } else {
        assert!(artifact.reference.is_some(), "what is not in Blobs says where it is");
    }
}

async fn the_same_input_gives_the_same_digest_also_side_by_side(fixture: &dyn BuilderFixture) {
    if !fixture.builder().capabilities().reproducible {
        return;
    }
    let alone = Case::new(|dir| fixture.good(dir)).build(fixture).await.expect("a good app builds");
    let (one, two) = (Case::new(|dir| fixture.good(dir)), Case::new(|dir| fixture.good(dir)));
    let (one, two) = tokio::join!(one.build(fixture), two.build(fixture));
    assert_eq!(one.expect("a build").digest, alone.digest, "the same input gives the same digest");
    assert_eq!(
        two.expect("a build").digest,
        alone.digest,
        "the same input gives the same digest side by side"
    );
}

async fn a_secret_is_neither_in_the_log_nor_in_the_artifact(fixture: &dyn BuilderFixture) {
    let case = Case::new(|dir| fixture.good(dir));
    let artifact = case.build(fixture).await.expect("a good app builds");
    let log = case.texts().await.join("\n");
    assert!(log.contains("[redacted]"), "the good app's build prints its config var: {log}");
    assert!(!log.contains(CANARY), "a config var's value is in the log");
    assert!(!format!("{artifact:?}").contains(CANARY), "a config var's value is in the artifact's facts");
    if artifact.kind == ArtifactKind::Slug {
        let slug = unpacked(fixture, &artifact).await;
        assert!(!holds(slug.path(), CANARY.as_bytes()), "a config var's value is in the slug");
    }
}

async fn a_failed_build_shows_its_last_lines(fixture: &dyn BuilderFixture) {
    let case = Case::new(|dir| fixture.broken(dir));
    let error = case.build(fixture).await.expect_err("a broken app doesn't build");
    assert_eq!(error.code(), ErrorCode::BuildFailed, "{error:?}");
    let shown = error.output().iter().any(|line| line.contains("about to fail"));
    assert!(shown, "the error carries the last lines: {error:?}");
}

async fn a_cancelled_build_ends(fixture: &dyn BuilderFixture) {
    if !fixture.builder().capabilities().cancel {
        return;
    }
    let case = Case::new(|dir| fixture.endless(dir));
    let context = case.context();
    let cancel = context.cancel.clone();
    let lines = case.logs.read(&case.request.app, LogQuery::all().follow()).await.expect("a log");
    let waiting = async {
        let mut lines = lines;
        while let Some(line) = lines.next().await {
            if line.text.contains("waiting") {
                break;
            }
        }
        cancel.cancel(CancelReason::User);
    };
    let build = fixture.builder();
    let both = async { tokio::join!(build.build(&context, &case.request), waiting).0 };
    // Far more than it takes, so that a busy machine fails nothing.
    let built = tokio::time::timeout(Duration::from_secs(60), both).await.expect("a cancelled build ends");
    let error = built.expect_err("a cancelled build gives no artifact");
    assert_eq!(error.code(), ErrorCode::Cancelled, "{error:?}");
}

async fn forgetting_is_repeatable(fixture: &dyn BuilderFixture) {
    let case = Case::new(|dir| fixture.good(dir));
    case.build(fixture).await.expect("a good app builds");
    let context = case.context();
    for _ in 0..2 {
        fixture.builder().forget(&context, case.request.app_id).await.expect("forgetting is repeatable");
    }
}

async fn unpacked(fixture: &dyn BuilderFixture, artifact: &Artifact) -> TempDir {
    let into = tempfile::tempdir().expect("a temporary folder");
    let mut archive = Vec::new();
    let mut slug = fixture.blobs().get(artifact.digest).await.expect("the slug can be read");
    slug.read_to_end(&mut archive).await.expect("the slug can be read");
    assert_eq!(Digest::of(&archive), artifact.digest, "a slug's digest is its content's");
    assert_eq!(archive.len() as u64, artifact.size, "a slug's size is its content's");
    let limits = archive::Limits::default().with_links_out();
    archive::unpack(archive.as_slice(), into.path(), limits).expect("a slug can be unpacked");
    assert!(!into.path().join(".git").exists(), "a slug has no .git");
    into
}

/// Whether a file of the tree holds these bytes.
fn holds(dir: &Path, wanted: &[u8]) -> bool {
    fs::read_dir(dir).expect("a folder").any(|entry| {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            return holds(&entry.path(), wanted);
        }
        let content = if kind.is_file() { fs::read(entry.path()).expect("a file") } else { Vec::new() };
        content.windows(wanted.len()).any(|window| window == wanted)
    })
}
