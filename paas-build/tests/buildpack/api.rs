//! What a pack is given, and what is made of what it says.

use paas_core::{Builder, Detection, ErrorCode};

use crate::world::{World, text};

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
