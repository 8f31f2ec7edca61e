//! The server that the platform looks after: it outlives engines, and comes back when it dies.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use paas_addons::postgres::{ManagedOptions, Postgres, PostgresServer};
use paas_core::{AddonId, AddonProvider, AddonStatus, ErrorCode};

use crate::support::{TestServer, bind, connect, context, database, main_process, provision, url};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_set_up_before_somebody_wants_a_database() {
    let Some(server) = TestServer::start().await else { return };
    let (ctx, addon) = (context().0, AddonId::new());
    server.provider.server().unwrap().resume().await.unwrap();
    assert_eq!(server.provider.status(&ctx, addon).await.unwrap(), AddonStatus::Gone);
    server.provider.deprovision(&ctx, addon).await.unwrap();
    assert_eq!(bind(&server.provider, addon).await.unwrap_err().code(), ErrorCode::NotFound);
    server.provider.server().unwrap().stop().await.unwrap();
    assert!(!server.path().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_engines_start_one_server() {
    let Some(server) = TestServer::start().await else { return };
    let engines: Vec<_> = (0..4).map(|_| server.another()).collect();
    let calls = engines.iter().map(database);
    let urls = futures_util::future::join_all(calls).await;
    let pid = server.pid().unwrap();
    for (_, url) in &urls {
        connect(url).await.unwrap();
    }
    assert_eq!(server.pid(), Some(pid));
    let mode = std::fs::metadata(server.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_started_again_by_itself_with_all_its_data() {
    let Some(server) = TestServer::start().await else { return };
    let (_, url) = database(&server.provider).await;
    let client = connect(&url).await.unwrap();
    client.batch_execute("CREATE TABLE t AS SELECT 1 AS one").await.unwrap();
    // A session that doesn't look up from its work keeps the dead server's memory in use.
    let busy = connect(&url).await.unwrap();
    let work = tokio::spawn(async move { busy.batch_execute("DO $$ BEGIN LOOP END LOOP; END $$").await });
    let working = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO %' AND state = 'active'";
    until(async || client.query_one(working, &[]).await.unwrap().get::<_, i64>(0) == 1).await;

    let pid = server.pid().unwrap();
    kill(pid, Signal::SIGKILL).unwrap();
    until(async || connect(&url).await.is_ok()).await;
    assert_ne!(server.pid(), Some(pid));
    let client = connect(&url).await.unwrap();
    assert_eq!(client.query_one("SELECT one FROM t", &[]).await.unwrap().get::<_, i32>(0), 1);
    assert!(work.await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_use_finds_a_killed_server_running_again() {
    let Some(server) = TestServer::start().await else { return };
    let (addon, url) = database(&server.provider).await;
    for _ in 0..3 {
        kill(server.pid().unwrap(), Signal::SIGKILL).unwrap();
        let again = server.another();
        assert_eq!(provision(&again, addon).await.unwrap(), AddonStatus::Ready);
        connect(&url).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_is_clean_and_the_next_use_starts_it_at_the_same_address() {
    let Some(server) = TestServer::start().await else { return };
    let (addon, before) = database(&server.provider).await;
    let held = connect(&before).await.unwrap();
    server.provider.server().unwrap().stop().await.unwrap();
    assert_eq!(server.pid(), None);
    assert!(!server.path().join("server/data/postmaster.pid").exists(), "it ended cleanly");
    assert!(held.batch_execute("SELECT 1").await.is_err());
    server.provider.server().unwrap().stop().await.unwrap();

    let next = server.another();
    next.server().unwrap().resume().await.unwrap();
    connect(&before).await.unwrap();
    assert_eq!(url(&bind(&next, addon).await.unwrap()), before);
}

/// Not a test of its own: the process that [`the_server_outlives_a_killed_engine`] kills.
#[tokio::test]
async fn an_engine_to_be_killed() {
    let Some(folder) = std::env::var_os("PAAS_TEST_ENGINE_FOLDER") else { return };
    let provider = Postgres::new(PostgresServer::managed(std::path::PathBuf::from(folder)));
    database(&provider).await;
    println!("up");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_outlives_a_killed_engine() {
    let Some(server) = TestServer::start().await else { return };
    let mut engine = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "managed::an_engine_to_be_killed", "--nocapture"])
        .env("PAAS_TEST_ENGINE_FOLDER", server.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(engine.stdout.take().unwrap());
    let mut line = String::new();
    while !line.ends_with("up\n") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut out, &mut line).unwrap(), 0, "the engine ended");
    }
    let pid = server.pid().unwrap();
    engine.kill().unwrap();
    engine.wait().unwrap();
    let (_, url) = database(&server.provider).await;
    connect(&url).await.unwrap();
    assert_eq!(server.pid(), Some(pid), "it was adopted, not started");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_at_any_moment_of_the_first_start_leaves_a_folder_that_works() {
    let Some(server) = TestServer::start().await else { return };
    for milliseconds in [100, 800, 1600, 2400] {
        let folder = server.folder.path().join(format!("killed-{milliseconds}"));
        let mut engine = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "managed::an_engine_to_be_killed"])
            .env("PAAS_TEST_ENGINE_FOLDER", &folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Not waiting for anything: the moment is the point, and any will do.
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        engine.kill().unwrap();
        engine.wait().unwrap();
        let provider = Postgres::new(PostgresServer::managed(&folder));
        let (_, url) = database(&provider).await;
        connect(&url).await.unwrap();
        provider.server().unwrap().stop().await.unwrap();
        assert_eq!(main_process(&folder), None);
    }
}

#[tokio::test]
async fn a_machine_without_postgresql_says_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    let options = ManagedOptions::default().binaries(folder.path().join("none"));
    let provider = Postgres::new(PostgresServer::managed_with(folder.path().join("postgres"), options));
    let why = provider.catalog().await.unavailable.unwrap();
    assert!(why.contains("apt-get install postgresql"), "{why}");
    let error = provision(&provider, AddonId::new()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert_eq!(error.to_string(), why);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_version_is_left_alone_and_named() {
    let Some(server) = TestServer::start().await else { return };
    database(&server.provider).await;
    server.provider.server().unwrap().stop().await.unwrap();
    let version = server.path().join("server/data/PG_VERSION");
    let real = std::fs::read(&version).unwrap();
    std::fs::write(&version, "9.6\n").unwrap();
    let error = server.another().server().unwrap().resume().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(error.to_string().contains("apt-get install postgresql-9.6"), "{error}");
    std::fs::write(&version, real).unwrap();
    server.another().server().unwrap().resume().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_start_says_why() {
    let Some(server) = TestServer::start().await else { return };
    database(&server.provider).await;
    server.provider.server().unwrap().stop().await.unwrap();
    let local = server.path().join("server/data/local.conf");
    std::fs::write(&local, "shared_buffers = 'plenty'\n").unwrap();
    std::fs::set_permissions(&local, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = server.another().server().unwrap().resume().await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(error.output().iter().any(|line| line.contains("plenty")), "{error:?}");
    std::fs::remove_file(&local).unwrap();

    // Its address is taken: apps know it, so it isn't changed behind their backs.
    let port: u16 = std::fs::read_to_string(server.path().join("port")).unwrap().trim().parse().unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = server.another().server().unwrap().resume().await.unwrap_err();
    assert!(error.to_string().contains(&format!("port {port}")), "{error}");
    drop(taken);
    server.another().server().unwrap().resume().await.unwrap();
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
