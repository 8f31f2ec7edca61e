//! Heroku's classic buildpack API, clause by clause, with packs that look at what they are given; and the suite
//! of the Builder trait.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

#[path = "buildpack/world.rs"]
mod world;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use paas_core::testkit::builder::{BuilderFixture, conformance};
use paas_core::{Blobs, Builder, CancelReason, Detection, Digest, ErrorCode, LogQuery, Logs};
use paas_sandbox::{Helper, Limits};
use world::{World, text};

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

#[tokio::test]
async fn a_pack_gets_the_arguments_the_folder_and_the_environment_of_the_api() {
    let world = World::new().await;
    let look = r#"
        { pwd; echo "$#"; echo "$1|$2|$3"; } >$1/seen-by-$(basename $0)
        env | sort >$1/env-of-$(basename $0); ls -ld "$1" "$2" "$3" . >>$1/seen-by-$(basename $0)"#;
    let pack = world.pack(
        "look",
        &[
            ("bin/detect", "pwd >&2; [ $# = 1 ] && [ -f $1/Procfile ] && echo Looking"),
            (
                "bin/compile",
                &format!(
                    "{look}\ntouch export; cat \"$3/MULTI\" >$1/multi; stat -c %a $3/MULTI $3 >$1/modes"
                ),
            ),
            ("bin/release", "[ $# = 1 ] && pwd >$1/release-pwd; env | sort >$1/env-of-release"),
        ],
    );
    let app = world
        .app(&[("Procfile", "web: run")])
        .packs(&[&pack])
        .config("MULTI", "one\ntwo")
        .config("EMPTY", "");
    let artifact = app.build().await.unwrap();
    let slug = world.unpacked(&artifact);
    assert_eq!(
        text(slug.path(), "seen-by-compile").lines().take(3).collect::<Vec<_>>(),
        ["/tmp/packs/0", "3", "/tmp/build|/tmp/cache|/dev/shm/env"]
    );
    assert_eq!(text(slug.path(), "multi"), "one\ntwo");
    assert_eq!(text(slug.path(), "modes"), "600\n700\n");
    let env = text(slug.path(), "env-of-compile");
    for line in [
        "HOME=/app",
        "STACK=heroku-24",
        "SOURCE_VERSION=c0ffee0000000000000000000000000000000000",
        "SOURCE_DATE_EPOCH=315532800",
    ] {
        assert!(env.lines().any(|found| found == line), "{line} is not in {env}");
    }
    assert!(!env.contains("MULTI") && !env.contains("CARGO"), "{env}");
    assert_eq!(text(slug.path(), "release-pwd"), "/tmp/packs/0\n");
    assert_eq!(artifact.description, "Looking");
    assert!(world.log().await.contains("-----> Looking app detected"));
    assert!(artifact.metadata["buildpack.1"].starts_with(&format!("{pack}#sha256:")));
}

#[tokio::test]
async fn several_packs_hand_over_what_they_export_and_the_last_release_counts() {
    let world = World::new().await;
    let first = world.pack("first", &[
        ("bin/detect", "echo First"),
        ("bin/compile", "echo 'export PATH=\"/first/bin:$PATH\" FIRST=1' >export; mkdir -p $1/.profile.d; echo x >$1/.profile.d/first.sh; echo 1 >$2/shared"),
        ("bin/release", "printf 'default_process_types:\\n  web: first\\n  old: first\\n'"),
    ]);
    let second = world.pack("second", &[
        ("bin/detect", "[ \"$FIRST\" = 1 ] && echo Second"),
        ("bin/compile", "echo \"$PATH\" >$1/path; cat $2/shared >$1/shared"),
        ("bin/release", "env >$1/env-of-release; printf -- '---\\naddons: [heroku-postgresql]\\ndefault_process_types:\\n  web: second\\n  console: irb\\nconfig_vars:\\n  A: b\\n'"),
        ("bin/report", "echo reported >$1/report; exit 1"),
    ]);
    let app = world.app(&[("Procfile", "web: mine"), ("package.json", "{}")]).packs(&[&first, &second]);
    let artifact = app.build().await.unwrap();
    let slug = world.unpacked(&artifact);
    assert!(text(slug.path(), "path").starts_with("/first/bin:"));
    assert_eq!(text(slug.path(), "shared"), "1\n");
    assert!(!text(slug.path(), "env-of-release").contains("FIRST"));
    assert_eq!(text(slug.path(), ".profile.d/first.sh"), "x\n");
    assert_eq!(text(slug.path(), "report"), "reported\n");
    let processes: Vec<_> = artifact
        .processes
        .iter()
        .map(|(process, entry)| (process.as_str(), entry.command.as_str(), entry.declared))
        .collect();
    assert_eq!(processes, [("console", "irb", false), ("web", "mine", true)]);
    assert_eq!(artifact.addons[0].service.as_str(), "heroku-postgresql");
    assert_eq!(artifact.manifest.env[&"A".parse().unwrap()].value.as_deref(), Some("b"));
    assert_eq!(artifact.description, "First + Second");
}

#[tokio::test]
async fn a_pack_that_says_no_fails_the_build_and_says_which() {
    let world = World::new().await;
    let no = world.pack("no", &[("bin/detect", "exit 7"), ("bin/compile", "")]);
    let error = world.app(&[]).packs(&[&no]).build().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotDetected);
    assert!(error.message().contains("packs/no") && error.message().contains('7'), "{error}");
    let none = world.app(&[("notes.txt", "")]).build().await.unwrap_err();
    assert_eq!(none.code(), ErrorCode::NotDetected);
    assert!(none.message().contains("package.json (Node.js)"), "{none}");
}

#[tokio::test]
async fn a_failed_compile_tells_the_pack_the_status_and_the_last_lines_and_is_reported() {
    let world = World::new().await;
    let fail = world.pack(
        "fail",
        &[
            ("bin/detect", "echo Failing"),
            (
                "bin/compile",
                "for i in {1..30}; do echo line $i; done; echo to stderr >&2; printf 'no newline'; exit 4",
            ),
            ("bin/report", "touch $2/reported"),
        ],
    );
    let error = world.app(&[]).packs(&[&fail]).build().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::BuildFailed);
    assert!(
        error.message().contains("failed to compile Failing app") && error.message().contains('4'),
        "{error}"
    );
    assert_eq!(error.output().len(), 20);
    assert_eq!(error.output()[18..], ["to stderr", "no newline"]);
}

#[tokio::test]
async fn the_cache_changes_only_when_a_build_succeeds() {
    let world = World::new().await;
    let pack = world.compiling(
        "counting",
        r#"cd "$2" || exit 1
        [ -f count ] && read -r n <count
        echo $((n + 1)) >count; mkdir -p a/b; echo $n >>a/b/grown; rm -rf gone; [ -n "$n" ] || { mkdir gone; touch gone/x; }
        rm -rf replaced; mkdir replaced; echo $n >replaced/$n; ln -sf /etc/passwd link
        cp -r . "$1/cache"; rm -f "$1/cache/link"; [ ! -f "$1/fail" ]"#,
    );
    let app = world.app(&[]).packs(&[&pack]);
    let seen = |slug: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(slug.join("cache")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        let names: Vec<_> = names.into_iter().map(|name| name.into_string().unwrap()).collect();
        (text(slug, "cache/count"), names)
    };
    let first = app.build().await.unwrap();
    assert_eq!(seen(world.unpacked(&first).path()).0, "1\n");
    app.write("fail", "");
    for _ in 0..2 {
        assert_eq!(app.build().await.unwrap_err().code(), ErrorCode::BuildFailed);
    }
    fs::remove_file(app.tree.join("fail")).unwrap();
    let second = app.build().await.unwrap();
    let slug = world.unpacked(&second);
    assert_eq!(seen(slug.path()), ("2\n".to_owned(), ["a", "count", "replaced"].map(str::to_owned).to_vec()));
    assert_eq!(text(slug.path(), "cache/a/b/grown"), "\n1\n");
    assert_eq!(text(slug.path(), "cache/replaced/1"), "1\n");
    let third = app.build().await.unwrap();
    assert_eq!(text(world.unpacked(&third).path(), "cache/replaced/1"), "");

    world.builder.forget(&world.context(), app.id).await.unwrap();
    let anew = app.build().await.unwrap();
    assert_eq!(anew.digest, first.digest);
}

#[tokio::test]
async fn a_pack_is_a_writable_copy_that_the_next_build_gets_fresh() {
    let world = World::new().await;
    let pack = world.compiling(
        "writing",
        "[ ! -e mark ] && touch mark && echo '#' >>bin/compile && touch /tmp/litter /app/litter",
    );
    let app = world.app(&[]).packs(&[&pack]);
    app.build().await.unwrap();
    app.build().await.unwrap();
    assert!(!Path::new("/tmp/litter").exists());
}

#[tokio::test]
async fn slugignore_applies_before_anything_is_compiled() {
    let world = World::new().await;
    let pack = world.compiling("listing", "cd $1; find . -type f | sort >/tmp/list; cp /tmp/list listed");
    let files = [
        (".slugignore", "*.psd\n/docs\n"),
        ("a.psd", ""),
        ("docs/x", ""),
        ("src/docs/y", ""),
        ("src/b.psd", ""),
    ];
    let artifact = world.app(&files).packs(&[&pack]).build().await.unwrap();
    assert_eq!(text(world.unpacked(&artifact).path(), "listed"), "./.slugignore\n./src/docs/y\n");
}

#[tokio::test]
async fn the_packs_that_app_json_names_are_used_and_its_mistakes_told() {
    let world = World::new().await;
    let pack = world.compiling("named", "touch $1/built");
    let json = format!(r#"{{"buildpacks": [{{"url": "{pack}"}}], "addons": ["postgres"]}}"#);
    let artifact = world.app(&[("app.json", &json)]).build().await.unwrap();
    assert!(world.unpacked(&artifact).path().join("built").exists());
    assert_eq!(artifact.manifest.addons[0].service.as_str(), "postgres");
    for (file, broken) in [("app.json", "{"), ("Procfile", "web node")] {
        let error = world.app(&[(file, broken), ("package.json", "{}")]).build().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidParams);
        assert!(error.message().contains(file), "{error}");
    }
}

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

#[tokio::test]
async fn a_build_that_takes_too_long_is_stopped_with_all_it_started() {
    let world = World::with(|config| config.with_timeout(Duration::from_secs(1))).await;
    let pack = world.compiling("slow", "(setsid sleep 987654 &) ; echo started; sleep 987654");
    let error = world.app(&[]).packs(&[&pack]).build().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Timeout);
    assert_eq!(error.output(), ["-----> slow app detected", "started"]);
    assert!(!runs("987654"));
}

#[tokio::test]
async fn a_build_that_needs_too_much_memory_is_killed_and_told_so() {
    let helper = Helper::at(env!("CARGO_BIN_EXE_paas-build-helper"));
    if !helper.abilities().unwrap().memory {
        assert!(std::env::var_os("CI").is_none(), "no memory controller");
        eprintln!("SKIPPED, it needs control groups that limit memory");
        return;
    }
    let world = World::with(|config| config.with_limits(Limits::new().memory(64 << 20))).await;
    let greedy = world.compiling("greedy", "set -o pipefail; head -c 1G /dev/zero | tail -c 512M | wc -c");
    let error = world.app(&[("a", "")]).packs(&[&greedy]).build().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::BuildFailed);
    assert!(error.message().ends_with("more memory than the 64 MB that a build may use"), "{error}");
    let modest = world.compiling("modest", "true");
    let built = world.app(&[("Procfile", "web: a")]).packs(&[&modest]).build().await;
    built.expect("one that needs less is built");
}

#[tokio::test]
async fn a_cancelled_build_leaves_neither_a_process_nor_a_changed_cache() {
    let world = World::new().await;
    let pack = world.compiling(
        "stuck",
        "(setsid sleep 876543 &); ls $2 >$1/had; touch $2/dirty; echo ready; [ -f $1/quick ] || sleep 876543",
    );
    let app = world.app(&[]).packs(&[&pack]);
    let context = world.context();
    let mut lines = world.logs.read(&"sample".parse().unwrap(), LogQuery::all().follow()).await.unwrap();
    let request = app.request();
    let watching = async {
        use futures_util::StreamExt;
        while lines.next().await.unwrap().text != "ready" {}
        context.cancel.cancel(CancelReason::User);
    };
    let (built, ()) = tokio::join!(world.builder.build(&context, &request), watching);
    assert_eq!(built.unwrap_err().code(), ErrorCode::Cancelled);
    assert!(!runs("876543"));
    app.write("quick", "");
    let artifact = app.build().await.unwrap();
    assert_eq!(text(world.unpacked(&artifact).path(), "had"), "");
}

/// Whether a process has this among its arguments.
fn runs(argument: &str) -> bool {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    processes.into_iter().any(|line| line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes()))
}

#[tokio::test]
async fn a_slug_beyond_the_limit_is_refused() {
    let world = World::with(|config| config.with_slug_bytes(10_000)).await;
    let random = world.compiling("random", "head -c 20000 /dev/urandom >$1/x");
    let sparse = world.compiling("sparse", "truncate -s 1T $1/x");
    for pack in [random, sparse] {
        let error = world.app(&[]).packs(&[&pack]).build().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::LimitExceeded, "{error}");
    }
}

#[tokio::test]
async fn what_detection_found_is_what_is_built() {
    let world = World::new().await;
    let app = world.app(&[("Procfile", "web: run")]);
    let request = app.request();
    let detection = world.builder.detect(&world.context(), &request).await.unwrap();
    assert_eq!(detection, Detection::Yes("Procfile".to_owned()));
    let artifact = world.builder.build(&world.context(), &request).await.unwrap();
    assert_eq!(artifact.description, "Procfile");
    assert!(artifact.metadata["buildpack.1"].starts_with("procfile@"));
}

#[tokio::test]
async fn a_toolchain_in_a_closed_home_builds_and_the_second_build_finds_what_the_first_kept() {
    if !have("cargo") {
        return;
    }
    let world = World::new().await;
    let app = world.app(&[]);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rust/.");
    assert!(Command::new("cp").arg("-a").arg(fixture).arg(&app.tree).status().unwrap().success());
    let cold = app.build().await.unwrap();
    let warm = app.build().await.unwrap();
    assert_eq!(cold.digest, warm.digest);
    assert_eq!(warm.description, "Rust");
}
