//! Packs by name, folder, git and tarball, and what pins them.

use std::fs;
use std::process::Command;

use paas_core::{Builder, Digest, ErrorCode};

use crate::world::World;

#[tokio::test]
async fn a_pack_by_git_is_pinned_to_its_commit_and_fetched_once_by_it() {
    let world = World::new().await;
    let folder = world.compiling("git", "echo 1 >$1/version");
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=A", "-c", "user.email=a@b.c", "-C", &folder])
            .args(args)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "-A"]);
    git(&["commit", "-qm", "1"]);
    let commit = git(&["rev-parse", "HEAD"]);
    let url = format!("file://{folder}");
    let artifact = world.app(&[]).packs(&[&format!("{url}#main")]).build().await.unwrap();
    assert_eq!(artifact.metadata["buildpack.1"], format!("{url}#{commit}"));
    let pinned = format!("{url}#{commit}");
    let first = world.app(&[]).packs(&[&pinned]).build().await.unwrap();
    fs::rename(&folder, format!("{folder}-moved")).unwrap();
    let again = world.app(&[]).packs(&[&pinned]).build().await.unwrap();
    assert_eq!(first.digest, again.digest);
    let gone = world.app(&[]).packs(&[&format!("{url}#main")]).build().await.unwrap_err();
    assert!(matches!(gone.code(), ErrorCode::BadSource | ErrorCode::Unavailable), "{gone:?}");
}

#[tokio::test]
async fn a_pack_by_tarball_is_pinned_to_its_content() {
    let world = World::new().await;
    let folder = world.compiling("tarball", "touch $1/built");
    let archive = format!("{folder}.tgz");
    assert!(Command::new("tar").args(["-czf", &archive, "-C", &folder, "."]).status().unwrap().success());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/pack.tgz", listener.local_addr().unwrap());
    let content = fs::read(&archive).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            use std::io::{Read, Write};
            let mut stream = stream.unwrap();
            // What is asked for is known.
            let _ = stream.read(&mut [0; 4096]);
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                content.len()
            )
            .unwrap();
            stream.write_all(&content).unwrap();
        }
    });
    let artifact = world.app(&[]).packs(&[&url]).build().await.unwrap();
    let pin = artifact.metadata["buildpack.1"].clone();
    assert!(pin.starts_with(&format!("{url}#sha256:")), "{pin}");
    world.app(&[]).packs(&[&pin]).build().await.unwrap();
    let other = format!("{url}#{}", Digest::of("other"));
    let error = world.app(&[]).packs(&[&other]).build().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::BadSource);
}

#[tokio::test]
async fn what_a_moving_pack_made_is_not_taken_for_what_it_would_make_today() {
    let world = World::new().await;
    let (commit, digest) = ("0123456789abcdef0123456789abcdef01234567", Digest::of("a pack's tree"));
    let fixed = [
        "nodejs".to_owned(),
        format!("https://example.com/pack#{commit}"),
        format!("https://example.com/pack.tgz#{digest}"),
    ];
    let moving = [
        "https://example.com/pack".to_owned(),
        "https://example.com/pack#main".to_owned(),
        format!("https://example.com/pack#{}", &commit[..7]),
        "https://example.com/pack.tgz".to_owned(),
        world.compiling("folder", "true"),
    ];
    for (name, same) in fixed.iter().map(|name| (name, true)).chain(moving.iter().map(|name| (name, false))) {
        let json = format!(r#"{{"buildpacks": ["nodejs", "{name}"]}}"#);
        for app in [world.app(&[("a", "")]).packs(&[name]), world.app(&[("app.json", &*json)])] {
            let request = app.request();
            let inputs = [(); 2].map(|()| world.builder.inputs(&request));
            assert_eq!(inputs[0] == inputs[1], same, "{name}");
        }
    }
}

#[tokio::test]
async fn a_name_that_is_no_pack_says_which_there_are() {
    let world = World::with(|config| config).await;
    let nothing = world.dir.path().join("data").display().to_string();
    for (name, told) in
        [("heroku/cobol", "nodejs"), ("/etc", "not in a folder"), (nothing.as_str(), "not in a folder")]
    {
        let error = world.app(&[]).packs(&[&name.to_owned()]).build().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadSource);
        assert!(error.message().contains(told), "{error}");
    }
    let native = world.pack("native", &[("bin/build", ""), ("bin/detect", ""), ("buildpack.toml", "")]);
    let error = world.app(&[]).packs(&[&native]).build().await.unwrap_err();
    assert!(error.message().contains("Cloud Native Buildpack"), "{error}");
}
