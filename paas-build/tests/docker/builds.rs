//! What a build makes, shows and leaves.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use paas_core::{ArtifactKind, Builder, CancelReason, Detection, ErrorCode, LogQuery, Logs};
use paas_docker::label;

use super::world::World;

const FROM: &str = "FROM paas-test/busybox:1\n";

#[tokio::test]
async fn the_pusher_reads_along_step_by_step() {
    let Some(world) = World::new().await else { return };
    let dockerfile =
        format!("{FROM}WORKDIR /app\nRUN echo one; echo two\nCOPY . .\nCMD [\"httpd\", \"-f\"]\n");
    let app = world.app(&[("Dockerfile", &dockerfile), ("index.html", "hello")]);
    let artifact = app.build().await.unwrap();

    let log = world.log().await;
    assert!(log.starts_with("-----> Building Dockerfile with Docker\n-----> [1/4] FROM "), "{log}");
    assert!(
        log.contains(
            "\n-----> [3/4] RUN echo one; echo two\n       one\n       two\n-----> [4/4] COPY . .\n"
        ),
        "{log}"
    );
    assert!(log.contains("\n       The image's own command     -> web\n-----> Image\n"), "{log}");
    let name = &artifact.metadata["image"];
    assert!(log.contains(name) && name.contains("/sample:"), "{log}");

    app.build().await.unwrap();
    let log = world.log().await;
    assert_eq!(log.matches("\n-----> [3/4] RUN echo one; echo two").count(), 2, "{log}");
    assert_eq!(
        log.matches("\n       one\n").count(),
        1,
        "nothing has changed, so it didn't run again: {log}"
    );
}

#[tokio::test]
async fn an_unchanged_step_is_not_run_again_and_a_changed_file_runs_what_follows_it() {
    let Some(world) = World::new().await else { return };
    let note = |file: &str| format!("RUN cat /proc/sys/kernel/random/uuid >/{file}\n");
    let steps = [note("early"), "COPY index.html /\n".to_owned(), note("late")].concat();
    let dockerfile = format!("{FROM}{steps}CMD [\"httpd\", \"-f\"]\n");
    let app = world.app(&[("Dockerfile", &dockerfile), ("index.html", "hello")]);
    let built = async || {
        let artifact = app.build().await.unwrap();
        let (early, late) = (world.file(&artifact, "early").await, world.file(&artifact, "late").await);
        (early.unwrap(), late.unwrap())
    };
    let first = built().await;
    assert_eq!(built().await, first, "nothing has changed");
    app.write("index.html", "hello again");
    let changed = built().await;
    assert_eq!(changed.0, first.0, "it comes before what has changed");
    assert_ne!(changed.1, first.1, "it follows what has changed");
}

#[tokio::test]
async fn an_image_is_pinned_and_says_whose_it_is_and_of_what() {
    let Some(world) = World::new().await else { return };
    let app = world.app(&[("Dockerfile", &format!("{FROM}CMD [\"true\"]\n"))]);
    let artifact = app.build().await.unwrap();
    assert_eq!(artifact.kind, ArtifactKind::Image);
    assert_eq!(artifact.reference, Some(artifact.digest.to_string()));
    assert!(artifact.size > 1_000_000);
    let facts = world.docker.client().inspect_image(artifact.reference.as_deref().unwrap()).await.unwrap();
    let labels = facts.config.unwrap().labels.unwrap();
    assert_eq!(labels[label::PLATFORM], world.docker.platform().as_str());
    assert_eq!(labels[label::APP], "sample");
    assert_eq!(labels[label::APP_ID], app.id.to_string());
    assert_eq!(labels[label::SOURCE], app.request().checkout.digest.to_string());
    assert_eq!(labels[label::REVISION], "c0ffee0000000000000000000000000000000000");
    let again = app.build().await.unwrap();
    assert_eq!(again.digest, artifact.digest, "nothing has changed");
}

#[tokio::test]
async fn processes_are_the_procfiles_else_the_images_own_command() {
    let Some(world) = World::new().await else { return };
    let dockerfile = format!("{FROM}ENTRYPOINT [\"httpd\"]\n");
    let table = async |files: &[(&str, &str)]| {
        let artifact = world.app(files).build().await.unwrap();
        let rows = artifact.processes.iter();
        rows.map(|(process, entry)| format!("{process}={}", entry.command)).collect::<Vec<_>>()
    };
    assert_eq!(table(&[("Dockerfile", &dockerfile)]).await, ["web="]);
    let procfile = "web: httpd -f -p $PORT\nworker: sleep 1000\n";
    let declared = table(&[("Dockerfile", &dockerfile), ("Procfile", procfile)]).await;
    assert_eq!(declared, ["web=httpd -f -p $PORT", "worker=sleep 1000"]);
    let error = world.app(&[("Dockerfile", FROM)]).build().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::BuildFailed);
    assert!(error.message().contains("CMD") && error.message().contains("Procfile"), "{error}");
}

#[tokio::test]
async fn an_app_names_the_dockerfile_and_the_stage() {
    let Some(world) = World::new().await else { return };
    let dockerfile =
        format!("{FROM}AS base\nRUN echo base > /stage\nCMD [\"true\"]\nFROM base\nRUN exit 1\n")
            .replace("1\nAS", "1 AS");
    let wish = r#"{"docker": {"dockerfile": "deploy/app.docker", "target": "base"}}"#;
    let app =
        world.app(&[("deploy/app.docker", &dockerfile), ("app.json", wish), (".dockerignore", "deploy")]);
    let detected = world.builder.detect(&world.context(), &app.request()).await.unwrap();
    assert_eq!(detected, Detection::Yes("Dockerfile".to_owned()));
    let artifact = app.build().await.unwrap();
    assert_eq!(world.file(&artifact, "stage").await.unwrap(), "base\n");
    assert!(world.log().await.contains("-----> Building deploy/app.docker, stage base with Docker"));
    let lost = world.app(&[("app.json", wish)]).build().await.unwrap_err();
    assert_eq!(
        (lost.code(), lost.message()),
        (ErrorCode::NotDetected, "there is no deploy/app.docker in the code")
    );
}

#[tokio::test]
async fn what_dockerignore_names_is_not_in_the_image() {
    let Some(world) = World::new().await else { return };
    let dockerfile = format!("{FROM}COPY . /app\nCMD [\"true\"]\n");
    let ignored = "secrets\n*.log\n!keep.log\n[bad\n";
    let files = [
        ("Dockerfile", &*dockerfile),
        (".dockerignore", ignored),
        ("secrets/key", "x"),
        ("a.log", "x"),
        ("keep.log", "x"),
    ];
    let artifact = world.app(&files).build().await.unwrap();
    assert_eq!(world.file(&artifact, "app/keep.log").await.as_deref(), Some("x"));
    assert_eq!(world.file(&artifact, "app/a.log").await, None);
    assert_eq!(world.file(&artifact, "app/secrets/key").await, None);
    assert!(world.log().await.contains(" !     .dockerignore: \"[bad\" is no pattern"));
}

#[tokio::test]
async fn what_is_copied_is_the_apps_folder_as_it_is_now_whoever_builds() {
    let Some(world) = World::new().await else { return };
    let classic = world.another(paas_build::DockerfileConfig::classic).await;
    let step = "RUN cd /app && find . | sort > /tree && find . -type f | sort | xargs sha256sum >> /tree && \
        find . | sort | xargs stat -c '%a %N' >> /tree";
    let dockerfile = format!("{FROM}COPY . /app\n{step}\nCMD [\"true\"]\n");
    let files = [("Dockerfile", &*dockerfile), (".dockerignore", "vendor\n!vendor/kept/*\n")];
    let apps = [world.app(&files), classic.app(&files)];
    for app in &apps {
        for n in 0..300 {
            app.write(&format!("src/{}/file-{n}", n % 7), &format!("content {n}"));
        }
        for (path, text) in [("a", "x"), ("c/x", "x"), ("c-d/x", "x"), ("c.e", ""), ("vendor/kept/y", "y")] {
            app.write(path, text);
        }
        app.write("vendor/z", "z");
        app.write("large", &"0123456789abcdef".repeat(200_000));
        app.write("run.sh", "true");
        fs::set_permissions(app.path("run.sh"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("../src", app.path("vendor/kept/link")).unwrap();
    }
    let trees = async || {
        let [one, two] = [apps[0].build().await.unwrap(), apps[1].build().await.unwrap()];
        [world.file(&one, "tree").await.unwrap(), classic.file(&two, "tree").await.unwrap()]
    };
    let [one, two] = trees().await;
    assert_eq!(one, two);
    for there in ["./vendor/kept/y", "./vendor/kept/link", "./src/6/file-6", "755 ./run.sh"] {
        assert!(one.contains(there), "{there}: {one}");
    }
    assert!(!one.contains("vendor/z"), "{one}");

    // As large as before, and of the same second.
    for app in &apps {
        app.write("src/3/file-3", "CONTENT 3");
        fs::remove_file(app.path("a")).unwrap();
    }
    let [next, two] = trees().await;
    assert_eq!(next, two);
    assert_ne!(next, one, "what changed is another image");
}

#[tokio::test]
async fn a_failed_step_is_told_with_its_words_and_its_exit_code() {
    let Some(world) = World::new().await else { return };
    let app = world.app(&[("Dockerfile", &format!("{FROM}RUN echo no such module; exit 7\n"))]);
    let error = app.build().await.unwrap_err();
    assert_eq!(error.message(), "[2/2] RUN echo no such module; exit 7 ended with 7");
    assert_eq!(error.output(), ["no such module"]);
    let error = world.app(&[("Dockerfile", &format!("{FROM}RUM x\n"))]).build().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::BuildFailed);
    assert!(error.message().contains("RUM"), "{error}");
}

#[tokio::test]
async fn a_copied_file_is_as_old_as_its_layer() {
    let Some(world) = World::new().await else { return };
    let step = "RUN stat -c %Y /index.html > /time";
    let app = world.app(&[("Dockerfile", &format!("{FROM}COPY index.html /\n{step}\nCMD [\"true\"]\n"))]);
    let time = async || {
        let artifact = app.build().await.unwrap();
        world.file(&artifact, "time").await.unwrap().trim().parse::<i64>().unwrap()
    };
    // A file that was copied before, by whomever, is that layer again.
    app.write("index.html", &uuid::Uuid::new_v4().to_string());
    let before = paas_core::Clock::now(&paas_core::SystemClock::new()).timestamp();
    let one = time().await;
    assert!(one >= before, "web servers tell by it whether a file has changed");
    assert_eq!(time().await, one, "the same file is the same layer");
}

/// Whether a process with this word runs.
fn runs(word: &str) -> bool {
    let listed = Command::new("ps").args(["-eo", "args"]).output().unwrap().stdout;
    String::from_utf8_lossy(&listed).lines().any(|line| line.contains(word))
}

#[tokio::test]
async fn nothing_of_a_cancelled_build_runs_when_the_call_returns() {
    let Some(world) = World::new().await else { return };
    let seconds = format!("1000.{}", uuid::Uuid::new_v4().as_u128() % 1_000_000_007);
    let step = format!("RUN echo waiting; sleep {seconds}");
    let app = world.app(&[("Dockerfile", &format!("{FROM}{step}\n"))]);
    let context = world.context();
    let mut lines = world.logs.read(&World::name(), LogQuery::all().follow()).await.unwrap();
    let cancelling = async {
        while !lines.next().await.unwrap().text.ends_with("       waiting") {}
        while !runs(&format!("sleep {seconds}")) {
            tokio::task::yield_now().await;
        }
        context.cancel.cancel(CancelReason::User);
    };
    let request = app.request();
    let (built, ()) = tokio::join!(world.builder.build(&context, &request), cancelling);
    assert_eq!(built.unwrap_err().code(), ErrorCode::Cancelled);
    assert!(!runs(&format!("sleep {seconds}")));
}

#[tokio::test]
async fn a_build_that_takes_too_long_is_stopped_and_says_so() {
    let Some(world) = World::with(|config| config.timeout(Duration::from_secs(3))).await else { return };
    let app = world.app(&[("Dockerfile", &format!("{FROM}RUN echo begun; sleep 1000\n"))]);
    let error = app.build().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Timeout);
    assert!(error.message().contains("was stopped"), "{error}");
}

#[tokio::test]
async fn a_step_that_needs_more_memory_than_it_may_use_is_killed_and_it_is_said_why() {
    let Some(world) = World::with(|config| config.classic().memory(32 << 20).millicpus(500)).await else {
        return;
    };
    // `tail` keeps the last line, which never ends.
    let app = world
        .app(&[("Dockerfile", &format!("{FROM}RUN head -c 300000000 /dev/zero | tail -n 1 > /dev/null\n"))]);
    let error = app.build().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::BuildFailed);
    assert!(error.message().contains("for want of memory"), "{error}");
}

#[tokio::test]
async fn a_discarded_image_is_gone_and_nobody_elses_is() {
    let Some(world) = World::new().await else { return };
    let client = world.docker.client();
    let there = async |name: &str| client.inspect_image(name).await.is_ok();
    let app = world.app(&[("Dockerfile", &format!("{FROM}RUN echo mine > /mine\nCMD [\"true\"]\n"))]);
    let artifact = app.build().await.unwrap();
    let image = artifact.reference.clone().unwrap();
    // Another platform's name for a foreign image, and one that a person gave to ours.
    let foreign = paas_docker::bollard::query_parameters::TagImageOptionsBuilder::new();
    let named = format!("by-hand/{}", world.docker.platform());
    client.tag_image(&image, Some(foreign.repo(&named).tag("1").build())).await.unwrap();

    world.builder.discard(&world.context(), &artifact).await.unwrap();
    assert!(there(&image).await, "somebody else has a name for it");
    assert!(!there(&artifact.metadata["image"]).await);

    client
        .remove_image(
            &format!("{named}:1"),
            None::<paas_docker::bollard::query_parameters::RemoveImageOptions>,
            None,
        )
        .await
        .unwrap();
    for _ in 0..2 {
        world.builder.discard(&world.context(), &artifact).await.unwrap();
    }
    assert!(!there(&image).await);
    let mut base = artifact.clone();
    let busybox = client.inspect_image("paas-test/busybox:1").await.unwrap();
    base.reference = busybox.id;
    world.builder.discard(&world.context(), &base).await.unwrap();
    assert!(there("paas-test/busybox:1").await, "what we did not make is not ours to remove");
}
