use std::time::Duration;

use paas_addons::postgres::{PasswordKey, Postgres, PostgresServer};
use paas_core::{AddonId, AddonProvider, ErrorCode};
use tokio_postgres::Client;

use crate::support::{TestServer, bind, connect, context, database, name, url};

async fn rotate(provider: &Postgres, addon: AddonId) -> String {
    provider.rotate(&context().0, addon).await.unwrap();
    url(&bind(provider, addon).await.unwrap())
}

async fn who(client: &Client) -> String {
    client.query_one("SELECT current_user::text", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_password_works_until_it_is_revoked_and_then_its_sessions_end_too() {
    let Some(server) = TestServer::start().await else { return };
    let (addon, before) = database(&server.provider).await;
    let (_, neighbour) = database(&server.provider).await;
    let (ctx, _) = context();
    server.provider.rotate(&ctx, addon).await.unwrap();
    let after = url(&bind(&server.provider, addon).await.unwrap());
    assert_ne!(before, after);
    let (old, new) = (connect(&before).await.unwrap(), connect(&after).await.unwrap());
    let other = connect(&neighbour).await.unwrap();
    assert_eq!(who(&new).await, name(addon), "it acts as the role that owns everything");

    // The same call, made again after a crash by another engine, changes nothing.
    server.another().rotate(&ctx, addon).await.unwrap();
    assert_eq!(url(&bind(&server.provider, addon).await.unwrap()), after);

    server.provider.revoke(&context().0, addon).await.unwrap();
    assert!(connect(&before).await.is_err(), "the old password opens nothing");
    assert!(old.batch_execute("SELECT 1").await.is_err(), "and nobody stays who came with it");
    new.batch_execute("SELECT 1").await.unwrap();
    other.batch_execute("SELECT 1").await.unwrap();

    let third = rotate(&server.provider, addon).await;
    assert!(third != after && third != before);
    connect(&after).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_no_app_took_over_does_not_end_what_apps_run_with() {
    let Some(server) = TestServer::start().await else { return };
    let (addon, before) = database(&server.provider).await;
    let abandoned = rotate(&server.provider, addon).await;
    let after = rotate(&server.provider, addon).await;
    for works in [&before, &after] {
        connect(works).await.unwrap();
    }
    assert!(connect(&abandoned).await.is_err());
    server.provider.revoke(&context().0, addon).await.unwrap();
    assert!(connect(&before).await.is_err());
    connect(&after).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_login_makes_the_other_may_use_change_and_remove() {
    let Some(server) = TestServer::start().await else { return };
    let (addon, first) = database(&server.provider).await;
    connect(&first).await.unwrap().batch_execute("CREATE TABLE first ()").await.unwrap();
    let second = connect(&rotate(&server.provider, addon).await).await.unwrap();
    second.batch_execute("CREATE TABLE second (); ALTER TABLE first ADD COLUMN a int").await.unwrap();
    // Connection pools do this between their clients.
    second.batch_execute("DISCARD ALL").await.unwrap();
    assert_eq!(who(&second).await, name(addon));
    second.batch_execute("SET ROLE NONE").await.unwrap();
    assert_ne!(who(&second).await, name(addon));
    second.batch_execute("CREATE TABLE third (); INSERT INTO first VALUES (1)").await.unwrap();
    server.provider.revoke(&context().0, addon).await.unwrap();

    let again = connect(&rotate(&server.provider, addon).await).await.unwrap();
    again.batch_execute("ALTER TABLE third ADD COLUMN a int; DROP TABLE second, third").await.unwrap();
    assert_eq!(again.query_one("SELECT a FROM first", &[]).await.unwrap().get::<_, i32>(0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_cut_off_at_any_moment_can_be_made_again() {
    let Some(server) = TestServer::start().await else { return };
    let (addon, mut before) = database(&server.provider).await;
    for milliseconds in [0, 2, 4, 8, 16, 32] {
        let limit = Duration::from_millis(milliseconds);
        let (rotating, revoking) = (context().0, context().0);
        // Not waiting for anything: the moment is the point, and any will do.
        let _ = tokio::time::timeout(limit, server.provider.rotate(&rotating, addon)).await;
        server.another().rotate(&rotating, addon).await.unwrap();
        let after = url(&bind(&server.provider, addon).await.unwrap());
        for works in [&before, &after] {
            connect(works).await.unwrap();
        }
        let held = connect(&before).await.unwrap();
        let _ = tokio::time::timeout(limit, server.provider.revoke(&revoking, addon)).await;
        server.another().revoke(&revoking, addon).await.unwrap();
        assert!(connect(&before).await.is_err());
        assert!(held.batch_execute("SELECT 1").await.is_err());
        connect(&after).await.unwrap();
        before = after;
    }
    server.provider.deprovision(&context().0, addon).await.unwrap();
    let left = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname, $1)";
    let left = server.admin().await.query_one(left, &[&name(addon)]).await.unwrap();
    assert_eq!(left.get::<_, i64>(0), 0, "both logins are gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_is_said_to_be_another_key_and_rotating_heals_it() {
    let Some(server) = TestServer::start().await else { return };
    database(&server.provider).await;
    server.admin().await;
    let with = |byte| {
        let key = PasswordKey::new([byte; 32]);
        Postgres::new(PostgresServer::external(&server.admin_url(), key).unwrap())
    };
    let (one, other) = (with(1), with(2));
    let (addon, before) = database(&one).await;
    assert_eq!(bind(&other, addon).await.unwrap_err().code(), ErrorCode::WrongKey);
    connect(&before).await.unwrap();
    connect(&rotate(&other, addon).await).await.unwrap();
    for gone in
        [other.rotate(&context().0, AddonId::new()).await, other.revoke(&context().0, AddonId::new()).await]
    {
        assert_eq!(gone.unwrap_err().code(), ErrorCode::NotFound);
    }
}
