//! A build is a stranger's program: what it tries, and what it gets.

#![allow(clippy::unwrap_used, reason = "a test ends by panicking")]

#[path = "buildpack/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use paas_core::ErrorCode;
use paas_sandbox::{Confined, Group, Helper, Limits, Profile};
use tokio::io::{AsyncBufReadExt, BufReader};
use world::{World, text};

#[tokio::test]
async fn a_build_reads_neither_the_platforms_key_nor_another_apps_files_nor_its_cache() {
    let world = World::new().await;
    let root = world.dir.path().to_owned();
    let key = root.join("data/key");
    fs::write(&key, "platform-key").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    // Another app has built before, left secrets in its cache, and lies on the disk.
    let victim = world.compiling("victim", "echo other-apps-secret >$2/token; chmod 644 $2/token");
    let other = world.app(&[("secret", "other-apps-secret")]).packs(&[&victim]);
    other.build().await.unwrap();
    let tries = format!(
        r"exec >$1/got 2>&1
        ls -A /root | sed 's/^/in-home /'
        for place in {key} {other} {data} {blobs} /home /var/lib; do cat $place; find $place -type f -exec cat {{}} +; done
        grep -r other-apps-secret {root} /app /dev/shm
        for process in /proc/[0-9]*; do cat $process/root{key} $process/root{other}/secret; done
        cat /proc/*/environ | tr '\0' '\n' | grep -i canary
        id -u; exit 0",
        key = key.display(),
        other = other.tree.display(),
        data = root.join("data").display(),
        blobs = root.join("blobs").display(),
        root = root.display(),
    );
    let thief = world.compiling("thief", &tries);
    let artifact = world.app(&[]).packs(&[&thief]).build().await.unwrap();
    let got = text(world.unpacked(&artifact).path(), "got");
    assert!(!got.is_empty());
    for secret in ["platform-key", "other-apps-secret", "token", "canary"] {
        let found: Vec<_> = got.lines().filter(|line| line.contains(secret)).collect();
        assert!(found.is_empty(), "{secret}: {found:?}");
    }
    // Of a closed home only toolchains are shown.
    let home = got.lines().filter_map(|line| line.strip_prefix("in-home "));
    let known = [
        ".cargo", ".rustup", ".pyenv", ".rbenv", ".nvm", ".volta", ".goenv", ".asdf", ".local", ".bun",
        "bin", "go",
    ];
    let shown: Vec<_> = home.filter(|name| !known.contains(name)).collect();
    assert!(shown.is_empty(), "{shown:?}");
    let root_user = rustix::process::geteuid().is_root();
    assert!(!root_user || got.lines().last() != Some("0"), "the build ran as root");
}

#[tokio::test]
async fn a_build_that_runs_beside_another_sees_nothing_of_it() {
    let world = World::new().await;
    let meet = |name: &str| {
        world.compiling(
            name,
            &format!("echo secret-of-{name} | tee $1/mine /tmp/mine $2/mine >/dev/null; sleep 1; cat /tmp/* $2/* /proc/*/cwd/* 2>/dev/null >$1/all; ps -ef >$1/ps; true"),
        )
    };
    let (one, two) = (meet("one"), meet("two"));
    let (one, two) = (world.app(&[]).packs(&[&one]), world.app(&[]).packs(&[&two]));
    let (one, two) = tokio::join!(one.build(), two.build());
    for (artifact, other) in [(one.unwrap(), "two"), (two.unwrap(), "one")] {
        let slug = world.unpacked(&artifact);
        assert!(!text(slug.path(), "all").contains(&format!("secret-of-{other}")));
    }
}

#[tokio::test]
async fn a_daemon_that_a_build_leaves_behind_is_gone_when_the_build_returns() {
    let world = World::new().await;
    let pack = world.compiling(
        "daemon",
        "for i in 1 2 3; do (setsid bash -c 'trap \"\" TERM; (sleep 765432 &) ; sleep 765432' >/dev/null 2>&1 &); done; (setsid sleep 765432 &); true",
    );
    world.app(&[]).packs(&[&pack]).build().await.unwrap();
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    assert_eq!(processes.filter(|line| line.windows(6).any(|part| part == b"765432")).count(), 0);
}

#[tokio::test]
async fn what_a_build_tells_the_platform_is_not_believed_to_be_a_plain_file() {
    let world = World::new().await;
    let secret = world.dir.path().join("secret.yml");
    fs::write(&secret, "default_process_types:\n  web: stolen\n").unwrap();
    let link = |what: &str, to: &str| format!("rm -f {what}; ln -s {to} {what}; exit 0");
    for (number, compile) in [
        link("/tmp/result/release", &secret.display().to_string()),
        link("$1/Procfile", "/etc/shadow"),
        link("$1/app.json", "/etc/shadow"),
        "rm -f $1/Procfile; mkfifo $1/Procfile".to_owned(),
        "mkfifo /tmp/result/release /tmp/result/failed".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let pack = world.compiling(&format!("liar{number}"), &compile);
        let error = world.app(&[]).packs(&[&pack]).build().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadSource, "{compile}: {error:?}");
        assert!(!error.to_string().contains("root:") && !error.to_string().contains("stolen"));
    }
}

#[tokio::test]
async fn a_secret_that_a_build_prints_is_taken_out_of_the_log_and_of_the_error() {
    let world = World::new().await;
    let pack = world.compiling("loud", "cat $3/TOKEN; echo; echo \"[$(cat $3/TOKEN)]\" >&2; exit 1");
    let app = world.app(&[]).packs(&[&pack]).config("TOKEN", "canary-8c1d77f2");
    let error = app.build().await.unwrap_err();
    assert_eq!(error.output()[1..], ["[redacted]", "[[redacted]]"]);
    assert!(!world.log().await.contains("canary-8c1d77f2"));
    // Nor does it lie on the disk, in a cache or in a folder that is still to be removed.
    let found = std::process::Command::new("grep")
        .args(["-r", "canary-8c1d77f2"])
        .arg(world.dir.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[tokio::test]
async fn a_slug_holds_nothing_that_a_link_in_it_leads_to() {
    let world = World::new().await;
    let pack = world
        .compiling("linker", "ln -s /etc/shadow $1/shadow; ln -s / $1/root; mkdir $1/d; ln -s .. $1/d/up");
    let artifact = world.app(&[]).packs(&[&pack]).build().await.unwrap();
    assert!(artifact.size < 2000);
    let slug = world.unpacked(&artifact);
    assert!(fs::symlink_metadata(slug.path().join("shadow")).unwrap().is_symlink());
}

#[tokio::test]
async fn a_build_that_a_killed_engine_left_running_is_ended_at_the_next_start_and_a_live_one_is_not() {
    let world = World::new().await;
    let helper = Helper::at(env!("CARGO_BIN_EXE_paas-build-helper"));
    let mut left = Vec::new();
    for _ in 0..2 {
        let name = uuid::Uuid::new_v4().to_string();
        let folder = world.dir.path().join("data/work").join(&name);
        fs::create_dir(&folder).unwrap();
        let lock = fs::File::create(folder.join("lock")).unwrap();
        let limits = Limits::new().memory(1 << 30).tasks(100);
        let profile = Profile::new().group(format!("build-{name}")).limits(limits);
        let mut child = Confined::new(&helper, profile, "bash")
            .args(["-c", "setsid sleep 1000000 & echo ready; sleep 1000000"])
            .env("PATH", "/usr/bin:/bin")
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
        left.push((child, folder, lock));
    }
    let (mut orphan, orphans_folder, _) = left.remove(0);
    let (mut alive, lives_folder, lock) = left.remove(0);
    lock.lock().unwrap();
    world.again().await;
    assert!(!orphan.wait().await.unwrap().success());
    assert!(!orphans_folder.exists());
    let group = |folder: &Path| Group::find(&format!("build-{}", folder.file_name().unwrap().display()));
    assert!(group(&orphans_folder).is_void(), "its control group is left");
    assert!(lives_folder.exists());
    assert!(Path::new(&format!("/proc/{}/exe", alive.id())).exists());
    alive.stop(std::time::Duration::ZERO).await.unwrap();
    group(&lives_folder).remove();
}
