//! The sources, each through the suite of its trait, and what is its own.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use paas_build::{DirectorySource, GitSource, TarballSource};
use paas_core::archive::Limits;
use paas_core::testkit::source::{SourceFixture, conformance};
use paas_core::{
    Context, DirBlobs, ErrorCode, MemoryLogs, ProviderName, Revision, Source, SourceRef, archive,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn context() -> Context {
    paas_core::testkit::context(&Arc::new(MemoryLogs::new()), &"sources".parse().unwrap(), "fetch")
}

fn location(source: &str, place: impl std::fmt::Display) -> SourceRef {
    SourceRef::new(ProviderName::new(source).unwrap(), place.to_string())
}

async fn fetched(source: &dyn Source, place: &str) -> (TempDir, paas_core::Result<Revision>) {
    let into = tempfile::tempdir().unwrap();
    let result = source.fetch(&context(), &location(source.name().as_str(), place), into.path()).await;
    (into, result)
}

async fn refusal(source: &dyn Source, place: &str) -> String {
    let (into, result) = fetched(source, place).await;
    assert_eq!(fs::read_dir(into.path()).unwrap().count(), 0, "{place} left something");
    let error = result.expect_err(place);
    assert_eq!(error.code(), ErrorCode::BadSource, "{place}: {error:?}");
    error.to_string()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

struct Folders;

#[async_trait]
impl SourceFixture for Folders {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(DirectorySource::new())
    }

    async fn publish(&self, tree: &Path) -> SourceRef {
        location("directory", tree.display())
    }

    fn nothing(&self) -> SourceRef {
        location("directory", "/no/such/folder")
    }
}

#[tokio::test]
async fn a_directory_conforms() {
    conformance(&Folders).await;
}

#[tokio::test]
async fn what_git_and_heroku_leave_out_of_a_folder_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(".git/config", "");
    write(".gitignore", "node_modules/\n*.log\n!keep.log\n");
    write(".slugignore", "/docs\n");
    write("node_modules/a/index.js", "");
    write("debug.log", "");
    write("keep.log", "");
    write("docs/a.md", "");
    write(".env.example", "");
    write("src/.gitignore", "out\n");
    write("src/out/x", "");
    write("src/docs/x", "");
    let (into, result) = fetched(&DirectorySource::new(), dir.path().to_str().unwrap()).await;
    result.unwrap();
    assert_eq!(names(into.path()), [".env.example", ".gitignore", ".slugignore", "keep.log", "src"]);
    assert_eq!(names(&into.path().join("src")), [".gitignore", "docs"]);
}

#[tokio::test]
async fn a_folder_outside_of_the_allowed_one_is_refused_also_through_a_link() {
    let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret"), "").unwrap();
    std::os::unix::fs::symlink(outside.path(), inside.path().join("link")).unwrap();
    fs::create_dir(inside.path().join("app")).unwrap();
    let source = DirectorySource::new().within(inside.path());
    refusal(&source, outside.path().to_str().unwrap()).await;
    refusal(&source, inside.path().join("link").to_str().unwrap()).await;
    refusal(&source, inside.path().join("app/../../..").to_str().unwrap()).await;
    refusal(&source, "relative").await;
    fetched(&source, inside.path().join("app").to_str().unwrap()).await.1.unwrap();
}

#[tokio::test]
async fn a_folder_beyond_the_limits_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("big"), vec![0; 5000]).unwrap();
    let source = DirectorySource::new().with_limits(Limits::new(4999, 10));
    let (_into, result) = fetched(&source, dir.path().to_str().unwrap()).await;
    assert_eq!(result.unwrap_err().code(), ErrorCode::LimitExceeded);
}

/// Archives in a folder.
struct Archives(TempDir, AtomicUsize);

impl Archives {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap(), AtomicUsize::new(0))
    }

    fn pack(&self, tree: &Path) -> PathBuf {
        let file = self.0.path().join(format!("{}.tar.zst", self.1.fetch_add(1, Ordering::Relaxed)));
        archive::pack(tree, &file, &|_, _| true).unwrap();
        file
    }
}

#[async_trait]
impl SourceFixture for Archives {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(TarballSource::new())
    }

    async fn publish(&self, tree: &Path) -> SourceRef {
        location("tarball", self.pack(tree).display())
    }

    fn nothing(&self) -> SourceRef {
        location("tarball", "/no/such/file.tgz")
    }
}

#[tokio::test]
async fn a_tarball_conforms() {
    conformance(&Archives::new()).await;
}

fn tar_of(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn plain_gzip_and_zstd_are_recognised_and_others_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("archive");
    let place = file.to_str().unwrap();
    let tar = tar_of(&[("Procfile", "web: x"), ("a/b", "")]);
    for bytes in [tar.clone(), gz(&tar), zstd::encode_all(tar.as_slice(), 1).unwrap()] {
        fs::write(&file, bytes).unwrap();
        let (into, result) = fetched(&TarballSource::new(), place).await;
        result.unwrap();
        assert_eq!(names(into.path()), ["Procfile", "a"]);
    }
    let others = [
        (&b"PK\x03\x04..."[..], "zip"),
        (b"\xfd7zXZ\x00", "xz"),
        (b"hello", "no archive"),
        (b"", "no archive"),
    ];
    for (bytes, told) in others {
        fs::write(&file, bytes).unwrap();
        assert!(refusal(&TarballSource::new(), place).await.contains(told));
    }
}

#[tokio::test]
async fn the_folder_that_code_hosts_put_around_an_app_is_taken_off() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.tgz");
    fs::write(&file, gz(&tar_of(&[("app-1f2e/Procfile", ""), ("app-1f2e/app-1f2e/x", "")]))).unwrap();
    let (into, result) = fetched(&TarballSource::new(), file.to_str().unwrap()).await;
    result.unwrap();
    assert_eq!(names(into.path()), ["Procfile", "app-1f2e"]);
    fs::write(&file, gz(&tar_of(&[("public/index.html", "")]))).unwrap();
    let (into, result) = fetched(&TarballSource::new(), file.to_str().unwrap()).await;
    result.unwrap();
    assert_eq!(names(into.path()), ["public"]);
}

#[tokio::test]
async fn an_uploaded_archive_becomes_a_tree_in_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = DirBlobs::open(dir.path().join("blobs")).unwrap();
    let bytes = gz(&tar_of(&[("Procfile", "web: x"), ("b", "")]));
    let source = TarballSource::new().with_limits(Limits::new(10_000, 10));
    let reference = source.take(&blobs, bytes.as_slice()).await.unwrap();
    assert_eq!(reference.source.as_str(), SourceRef::ARCHIVED);
    assert!(paas_core::Blobs::has(&blobs, reference.location.parse().unwrap()).await.unwrap());
    let error = source.take(&blobs, tokio::io::repeat(0)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::LimitExceeded);
}

/// A server that gives each request the answer for its path.
async fn serve(answers: Vec<(&'static str, Vec<u8>)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answers = answers.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..read]).into_owned();
                let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                let missing =
                    || b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".to_vec();
                let found = answers.into_iter().find(|(at, _)| *at == path);
                // A client that hangs up early is what some tests are about.
                let _ = stream.write_all(&found.map_or_else(missing, |(_, answer)| answer)).await;
            });
        }
    });
    format!("http://{address}")
}

fn ok(body: &[u8]) -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len())
            .into_bytes();
    answer.extend_from_slice(body);
    answer
}

fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nconnection: close\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
        .into_bytes()
}

#[tokio::test]
async fn a_tarball_is_downloaded_where_private_addresses_are_allowed() {
    let body = gz(&tar_of(&[("Procfile", ""), ("x", "")]));
    let answers = vec![("/a.tgz", ok(&body)), ("/moved", redirect("/a.tgz")), ("/loop", redirect("/loop"))];
    let base = serve(answers).await;
    let source = TarballSource::new().allow_private();
    for path in ["/a.tgz", "/moved"] {
        let (into, result) = fetched(&source, &format!("{base}{path}")).await;
        result.unwrap();
        assert_eq!(names(into.path()), ["Procfile", "x"]);
    }
    assert!(refusal(&source, &format!("{base}/missing")).await.contains("404"));
    assert!(refusal(&source, &format!("{base}/loop")).await.contains("redirected"));
    let small = source.with_limits(Limits::new(20, 10));
    let (_into, result) = fetched(&small, &format!("{base}/a.tgz")).await;
    assert_eq!(result.unwrap_err().code(), ErrorCode::LimitExceeded);
}

#[tokio::test]
async fn a_url_never_leads_to_what_only_this_machine_should_reach() {
    let body = gz(&tar_of(&[("x", "")]));
    let base = serve(vec![("/a.tgz", ok(&body))]).await;
    let port = base.rsplit(':').next().unwrap().to_owned();
    let hosts = [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "127.1",
        "0x7f000001",
        "2130706433",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ];
    for host in hosts {
        let told = refusal(&TarballSource::new(), &format!("http://{host}:{port}/a.tgz")).await;
        assert!(told.contains("not on the public internet"), "{host}: {told}");
    }
    refusal(&TarballSource::new(), "http://169.254.169.254/latest/meta-data/x.tgz").await;
    refusal(&TarballSource::new(), "file:///etc/passwd").await;
    let told = refusal(&TarballSource::new(), "https://me:hunter2hunter2@example.com/a.tgz").await;
    assert!(!told.contains("hunter2"));
}

struct Repositories(TempDir, AtomicUsize);

impl Repositories {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap(), AtomicUsize::new(0))
    }

    /// A repository with this tree, and its commit.
    fn commit(&self, tree: &Path) -> (PathBuf, String) {
        let dir = self.0.path().join(self.1.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&dir).unwrap();
        let from = format!("{}/.", tree.display());
        assert!(Command::new("cp").arg("-a").arg(from).arg(&dir).status().unwrap().success());
        git(&dir, &["init", "--quiet", "-b", "main"]);
        git(&dir, &["add", "--all", "--force"]);
        git(&dir, &["commit", "--quiet", "-m", "Say hello\n\nAnd more."]);
        let commit = git(&dir, &["rev-parse", "HEAD"]);
        (dir, commit)
    }
}

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .expect("git must be installed to test the git source");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[async_trait]
impl SourceFixture for Repositories {
    fn source(&self) -> Arc<dyn Source> {
        Arc::new(GitSource::new().allow_any())
    }

    async fn publish(&self, tree: &Path) -> SourceRef {
        let (dir, commit) = self.commit(tree);
        location("git", format!("file://{}#{commit}", dir.display()))
    }

    fn nothing(&self) -> SourceRef {
        location("git", format!("file://{}/nothing", self.0.path().display()))
    }
}

#[tokio::test]
async fn a_git_repository_conforms() {
    conformance(&Repositories::new()).await;
}

#[tokio::test]
async fn a_branch_a_tag_and_a_short_commit_lead_to_the_commit_that_is_recorded() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("a"), "1").unwrap();
    let repositories = Repositories::new();
    let (dir, first) = repositories.commit(tree.path());
    git(&dir, &["tag", "v1"]);
    git(&dir, &["checkout", "--quiet", "-b", "feature/x"]);
    fs::write(dir.join("a"), "2").unwrap();
    git(&dir, &["commit", "--quiet", "-am", "Change"]);
    let second = git(&dir, &["rev-parse", "HEAD"]);
    git(&dir, &["checkout", "--quiet", "main"]);
    let source = GitSource::new().allow_any();
    for (reference, commit, content) in [
        ("", &first, "1"),
        ("#main", &first, "1"),
        ("#v1", &first, "1"),
        ("#feature/x", &second, "2"),
        (&format!("#{first}"), &first, "1"),
        (&format!("#{}", &second[..8]), &second, "2"),
    ] {
        let (into, result) = fetched(&source, &format!("{}{reference}", dir.display())).await;
        let revision = result.expect(reference);
        assert_eq!(revision.id.as_ref(), Some(commit), "{reference}");
        assert_eq!(fs::read_to_string(into.path().join("a")).unwrap(), content);
        assert_eq!(revision.author.as_deref(), Some("Ada <ada@example.com>"));
    }
    let (_into, result) = fetched(&source, &format!("{}#main", dir.display())).await;
    assert_eq!(result.unwrap().message.as_deref(), Some("Say hello"));
}

#[tokio::test]
async fn what_a_repository_asks_git_to_do_is_not_done() {
    let tree = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| fs::write(tree.path().join(path), text).unwrap();
    write(".gitattributes", "secret export-ignore\nversion export-subst\n");
    write("secret", "kept");
    write("version", "$Format:%H$");
    let repositories = Repositories::new();
    let (dir, _) = repositories.commit(tree.path());
    let (into, result) = fetched(&GitSource::new().allow_any(), dir.to_str().unwrap()).await;
    result.unwrap();
    assert_eq!(names(into.path()), [".gitattributes", "secret", "version"]);
    assert_eq!(fs::read_to_string(into.path().join("version")).unwrap(), "$Format:%H$");
}

#[tokio::test]
async fn only_https_and_ssh_to_public_hosts_and_nothing_that_is_an_option() {
    let source = GitSource::new();
    for place in [
        "file:///etc",
        "/etc",
        "http://github.com/x/y",
        "git://github.com/x/y",
        "ext::sh -c touch% /tmp/x",
        "--upload-pack=touch /tmp/x",
        "ssh://-oProxyCommand=x/y",
        "-x@host:path",
        "https://127.0.0.1/x/y",
        "https://localhost/x",
        "ssh://git@10.0.0.1/x",
        "git@169.254.169.254:x/y",
        "https://127.1/x/y",
        "https://0x7f000001/x/y",
        "https://2130706433/x/y",
        "https://[::1]/x/y",
        "https://%31%32%37.0.0.1/x/y",
        "https://github.com\\@127.0.0.1/x/y",
        "https://token@github.com/x/y",
        "https://user:password@github.com/x/y",
        "ssh://git:password@github.com/x/y",
        "ssh://a@b@github.com/x/y",
        "ssh://-l@github.com/x/y",
        "https://github.com/x/y#--upload-pack=x",
        "https://github.com/x/y#a..b",
        "https://github.com/x/y#+a:b",
        "https://github.com/x/y#a b",
        "nonsense",
    ] {
        refusal(&source, place).await;
    }
}
