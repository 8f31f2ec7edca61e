//! Config vars reach a step that mounts them, and stay nowhere.

use super::world::World;

const SECRET: &str = "canary-0b9d6a1e-secret";

fn holds(all: &[u8], wanted: &str) -> bool {
    all.windows(wanted.len()).any(|part| part == wanted.as_bytes())
}

#[tokio::test]
async fn a_mounted_config_var_is_in_no_layer_and_not_in_the_history() {
    let Some(world) = World::new().await else { return };
    let step =
        "RUN --mount=type=secret,id=TOKEN wc -c < /run/secrets/TOKEN > /length; cat /run/secrets/TOKEN";
    let dockerfile = format!("FROM paas-test/busybox:1\n{step}\nCMD [\"true\"]\n");
    let app = world
        .app(&[("Dockerfile", &dockerfile)])
        .config("TOKEN", SECRET)
        .config("UNUSED", "canary-unused-secret");

    let artifact = app.build().await.unwrap();

    assert_eq!(world.file(&artifact, "length").await.unwrap().trim(), SECRET.len().to_string());
    let all = world.all_of(&artifact).await;
    assert!(holds(&all, "/length"), "the search sees the history");
    assert!(!holds(&all, SECRET) && !holds(&all, "canary-unused-secret"));
    let log = world.log().await;
    assert!(log.contains("[redacted]") && !log.contains(SECRET), "{log}");
}

#[tokio::test]
async fn a_config_var_is_a_build_arg_only_where_the_app_says_so() {
    let Some(world) = World::new().await else { return };
    let dockerfile = "FROM paas-test/busybox:1\nARG SHOWN\nARG HIDDEN=none\nARG PLAIN\nRUN echo $SHOWN $HIDDEN $PLAIN > /args\nCMD [\"true\"]\n";
    let wish = r#"{"docker": {"config_args": ["SHOWN", "UNSET"], "args": {"PLAIN": "in the code"}}}"#;
    let app = world
        .app(&[("Dockerfile", dockerfile), ("app.json", wish)])
        .config("SHOWN", "public")
        .config("HIDDEN", SECRET);

    let artifact = app.build().await.unwrap();

    assert_eq!(world.file(&artifact, "args").await.unwrap(), "public none in the code\n");
    assert!(!holds(&world.all_of(&artifact).await, SECRET));
}

#[tokio::test]
async fn what_one_apps_secret_opened_is_not_another_apps_cached_layer() {
    let Some(world) = World::new().await else { return };
    let step = "RUN --mount=type=secret,id=TOKEN cp /run/secrets/TOKEN /opened || echo nothing > /opened";
    let files = [("Dockerfile", &*format!("FROM paas-test/busybox:1\n{step}\nCMD [\"true\"]\n"))];
    let one = world.app(&files).config("TOKEN", SECRET).build().await.unwrap();
    assert_eq!(world.file(&one, "opened").await.unwrap(), SECRET, "the app itself may do that");

    let other = world.app(&files).build().await.unwrap();

    assert_eq!(world.file(&other, "opened").await.unwrap(), "nothing\n");
}

#[tokio::test]
async fn a_cache_mount_is_kept_for_the_app_and_shown_to_no_other() {
    let Some(world) = World::new().await else { return };
    let dockerfile = |number: u8| {
        let step = "RUN --mount=type=cache,target=/cache echo x >> /cache/builds; cp /cache/builds /builds";
        format!("FROM paas-test/busybox:1\n{step}; : {number}\nCMD [\"true\"]\n")
    };
    let app = world.app(&[("Dockerfile", &dockerfile(1))]);
    app.build().await.unwrap();
    app.write("Dockerfile", &dockerfile(2));
    let second = app.build().await.unwrap();
    assert_eq!(world.file(&second, "builds").await.unwrap(), "x\nx\n");

    let other = world.app(&[("Dockerfile", &dockerfile(3))]).build().await.unwrap();

    assert_eq!(world.file(&other, "builds").await.unwrap(), "x\n");
}
