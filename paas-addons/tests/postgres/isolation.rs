use paas_addons::postgres::{CONNECTIONS, Postgres, PostgresServer};
use paas_core::{AddonId, AddonProvider, AddonStatus};
use tokio_postgres::error::SqlState;

use crate::support::{TestServer, connect, context, database, name, password_key, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_can_neither_connect_nor_look_inside() {
    let Some(server) = TestServer::start().await else { return };
    let (one, one_url) = database(&server.provider).await;
    let (two, two_url) = database(&server.provider).await;
    let mine = connect(&one_url).await.unwrap();
    mine.batch_execute("CREATE TABLE secrets (s text); GRANT ALL ON secrets TO PUBLIC").await.unwrap();

    for elsewhere in [name(one), "postgres".into(), "template1".into()] {
        let url = format!("{}{elsewhere}", two_url.strip_suffix(&name(two)).unwrap());
        let refused = connect(&url).await;
        let refused = refused.err().unwrap_or_else(|| panic!("{elsewhere} let a neighbour in"));
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{elsewhere}: {refused}");
    }
    let theirs = connect(&two_url).await.unwrap();
    let found = "SELECT count(*) FROM pg_class WHERE relname = 'secrets'";
    assert_eq!(theirs.query_one(found, &[]).await.unwrap().get::<_, i64>(0), 0, "no name of a table");
    let size = theirs.query_one("SELECT pg_database_size($1::text::name)", &[&name(one)]).await;
    assert_eq!(size.unwrap_err().code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "no size");
    let queries = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1::text::name AND (state IS NOT NULL OR client_addr IS NOT NULL)";
    assert_eq!(
        theirs.query_one(queries, &[&name(one)]).await.unwrap().get::<_, i64>(0),
        0,
        "no query or address"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_owns_its_database_and_nothing_beyond() {
    let Some(server) = TestServer::start().await else { return };
    let (addon, url) = database(&server.provider).await;
    let (neighbour, _) = database(&server.provider).await;
    let client = connect(&url).await.unwrap();
    for may in [
        "CREATE TABLE t (id int)",
        "CREATE SCHEMA s",
        "CREATE EXTENSION IF NOT EXISTS pgcrypto",
        "CREATE TEMP TABLE x (id int)",
        "DROP SCHEMA public CASCADE",
        "CREATE SCHEMA public",
    ] {
        client.batch_execute(may).await.unwrap_or_else(|e| panic!("{may}: {e:?}"));
    }
    let (own, theirs) = (name(addon), name(neighbour));
    for may_not in [
        "CREATE ROLE x".to_owned(),
        "CREATE DATABASE x".to_owned(),
        "COPY (SELECT 1) TO PROGRAM 'true'".to_owned(),
        "SELECT pg_read_file('postgresql.conf')".to_owned(),
        "SELECT * FROM pg_authid".to_owned(),
        "CREATE EXTENSION file_fdw".to_owned(),
        "ALTER SYSTEM SET port = 1".to_owned(),
        "SET temp_file_limit = -1".to_owned(),
        format!("ALTER ROLE {own} SUPERUSER"),
        format!("ALTER ROLE {own} CONNECTION LIMIT 1000"),
        format!("COMMENT ON ROLE {own} IS 'mine'"),
        format!("ALTER ROLE {theirs} PASSWORD 'x'"),
        format!("SET ROLE {theirs}"),
        "SET ROLE paas".to_owned(),
        format!("DROP DATABASE {theirs}"),
        format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> '{own}' OR usename IS NULL"
        ),
    ] {
        let refused = client.batch_execute(&may_not).await.err();
        assert!(refused.is_some(), "{may_not} was allowed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platforms_own_role_is_not_reachable_over_tcp_and_connections_are_limited() {
    let Some(server) = TestServer::start().await else { return };
    let (addon, url) = database(&server.provider).await;
    let role = url.split("://").nth(1).unwrap().split('@').next().unwrap();
    let own = url.replace(role, "paas:x");
    let refused = connect(&own).await.err().unwrap();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION), "{refused:?}");

    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(connect(&url).await.unwrap());
    }
    let refused = connect(&url).await.err().unwrap();
    assert_eq!(refused.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    // The neighbours' room is not used up, nor the platform's.
    let (_, neighbour) = database(&server.provider).await;
    connect(&neighbour).await.unwrap();
    server.provider.deprovision(&context().0, addon).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn provisioning_says_aloud_where_an_external_server_is_open_to_all() {
    let Some(server) = TestServer::start().await else { return };
    database(&server.provider).await;
    let admin = server.admin().await;
    admin.batch_execute("CREATE DATABASE payroll").await.unwrap();
    let external = PostgresServer::external(&server.admin_url(), password_key()).unwrap();
    let (provider, (ctx, heard)) = (Postgres::new(external), context());
    let status = provider.provision(&ctx, &request(AddonId::new())).await.unwrap();
    assert_eq!(status, AddonStatus::Ready);
    assert!(heard.all().contains("every role connect to: payroll."), "{}", heard.all());
    // What isn't ours keeps its privileges.
    let open = "SELECT has_database_privilege('public', 'payroll', 'CONNECT')";
    assert!(admin.query_one(open, &[]).await.unwrap().get::<_, bool>(0));
}
