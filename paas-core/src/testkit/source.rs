//! The conformance suite of [`Source`].
//!
//! Implement [`SourceFixture`] and call [`conformance`] from a test of yours; it panics with a sentence that says
//! what does not hold.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use tempfile::TempDir;

use crate::{AppName, CancelReason, Context, Digest, ErrorCode, MemoryLogs, Source, SourceRef, archive};

/// What the suite needs of an implementation.
#[async_trait]
pub trait SourceFixture: Send + Sync {
    /// The source under test.
    fn source(&self) -> Arc<dyn Source>;

    /// Makes the tree in this folder available as a fixed version, and says where. The folder lives as long as the test;
    /// its files are those that the author wants to be seen.
    async fn publish(&self, tree: &Path) -> SourceRef;

    /// A location of the right form where nothing is.
    fn nothing(&self) -> SourceRef;
}

/// Checks everything.
///
/// # Panics
/// With what does not hold.
pub async fn conformance(fixture: &dyn SourceFixture) {
    a_tree_arrives_as_its_author_sees_it(fixture).await;
    a_fixed_version_is_the_same_tree_every_time(fixture).await;
    a_link_that_leads_out_never_arrives(fixture).await;
    what_is_not_there_is_an_error(fixture).await;
    a_cancelled_fetch_ends(fixture).await;
}

fn context() -> Context {
    let app: AppName = "source-conformance".parse().expect("a constant");
    super::context(&Arc::new(MemoryLogs::new()), &app, "fetch")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn sample() -> TempDir {
    let dir = folder();
    let write = || {
        fs::create_dir_all(dir.path().join("lib/deep"))?;
        fs::write(dir.path().join("Procfile"), "web: bin/serve\n")?;
        fs::write(dir.path().join("lib/deep/ä file"), [0, 159, 146, 150])?;
        fs::create_dir(dir.path().join("bin"))?;
        fs::write(dir.path().join("bin/serve"), "#!/bin/sh\n")?;
        fs::set_permissions(dir.path().join("bin/serve"), fs::Permissions::from_mode(0o755))?;
        symlink("../bin/serve", dir.path().join("lib/serve"))
    };
    write().expect("a sample tree");
    dir
}

fn digest(tree: &Path) -> Digest {
    let aside = folder();
    archive::pack(tree, &aside.path().join("tree"), &|_, _| true).expect("a tree that can be packed").digest
}

async fn a_tree_arrives_as_its_author_sees_it(fixture: &dyn SourceFixture) {
    let (tree, into) = (sample(), folder());
    let location = fixture.publish(tree.path()).await;
    assert_eq!(location.source, fixture.source().name(), "a published location names its source");
    fixture
        .source()
        .fetch(&context(), &location, into.path())
        .await
        .expect("a published tree can be fetched");
    assert!(!into.path().join(".git").exists(), "a fetched tree has no .git");
    let read = |path: &str| fs::read(into.path().join(path)).unwrap_or_default();
    assert_eq!(read("Procfile"), b"web: bin/serve\n", "a file's content arrives");
    assert_eq!(read("lib/deep/ä file"), [0, 159, 146, 150], "any bytes arrive, under any name");
    assert_eq!(read("lib/serve"), b"#!/bin/sh\n", "a link within the tree arrives");
    let mode = fs::metadata(into.path().join("bin/serve")).expect("a program").permissions().mode();
    assert_eq!(mode & 0o111, 0o111, "a program can be executed");
}

async fn a_fixed_version_is_the_same_tree_every_time(fixture: &dyn SourceFixture) {
    let (tree, one, two) = (sample(), folder(), folder());
    let location = fixture.publish(tree.path()).await;
    let source = fixture.source();
    let first = source.fetch(&context(), &location, one.path()).await.expect("a fetch");
    let second = source.fetch(&context(), &location, two.path()).await.expect("a second fetch");
    assert_eq!(first, second, "a fixed version is described the same every time");
    assert_eq!(digest(one.path()), digest(two.path()), "a fixed version is the same tree every time");
}

async fn a_link_that_leads_out_never_arrives(fixture: &dyn SourceFixture) {
    for target in ["/etc/passwd", "../../outside", "lib/../../.."] {
        let (tree, home) = (sample(), folder());
        let into = home.path().join("into");
        fs::create_dir(&into).expect("a folder");
        symlink(target, tree.path().join("out")).expect("a link");
        let location = fixture.publish(tree.path()).await;
        if let Err(error) = fixture.source().fetch(&context(), &location, &into).await {
            assert_eq!(
                error.code(),
                ErrorCode::BadSource,
                "a link that leads out is the source's fault: {error}"
            );
        }
        assert!(
            fs::symlink_metadata(into.join("out")).is_err(),
            "the link to {target} leads out, but arrived"
        );
        let beside = fs::read_dir(home.path()).expect("a folder").count();
        assert_eq!(beside, 1, "nothing is written outside of the given folder");
    }
}

async fn what_is_not_there_is_an_error(fixture: &dyn SourceFixture) {
    let into = folder();
    let fetched = fixture.source().fetch(&context(), &fixture.nothing(), into.path()).await;
    let error = fetched.expect_err("a location where nothing is can't be fetched");
    let right = matches!(error.code(), ErrorCode::BadSource | ErrorCode::NotFound | ErrorCode::Unavailable);
    assert!(right, "a location where nothing is gives bad_source, not_found or unavailable, but {error:?}");
}

async fn a_cancelled_fetch_ends(fixture: &dyn SourceFixture) {
    let (tree, into) = (sample(), folder());
    let location = fixture.publish(tree.path()).await;
    let context = context();
    context.cancel.cancel(CancelReason::User);
    let fetched = fixture.source().fetch(&context, &location, into.path()).await;
    let error = fetched.expect_err("a cancelled fetch gives no tree");
    assert_eq!(error.code(), ErrorCode::Cancelled, "a cancelled fetch says so: {error:?}");
}
