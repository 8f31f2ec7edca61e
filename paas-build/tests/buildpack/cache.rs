//! What one build leaves to the next.

use std::fs;
use std::path::Path;
use std::process::Command;

use paas_core::{Builder, ErrorCode};

use crate::have;
use crate::world::{World, text};

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
