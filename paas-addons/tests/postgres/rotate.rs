use paas_addons::postgres::{PasswordKey, Postgres, PostgresServer};
use paas_core::{AddonId, ErrorCode};

use crate::support::{TestServer, bind, connect, context, database, url};

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_opens_and_the_one_before_does_not() {
    let Some(server) = TestServer::start().await else { return };
    let (addon, before) = database(&server.provider).await;
    let held = connect(&before).await.unwrap();
    let (ctx, _) = context();
    server.provider.rotate(&ctx, addon).await.unwrap();
    let after = url(&bind(&server.provider, addon).await.unwrap());
    assert_ne!(before, after);
    connect(&after).await.unwrap();
    assert!(connect(&before).await.is_err(), "the old password opens nothing");
    held.batch_execute("SELECT 1").await.unwrap();

    // The same call, made again after a crash by another engine, changes nothing; another call does.
    server.another().rotate(&ctx, addon).await.unwrap();
    assert_eq!(url(&bind(&server.provider, addon).await.unwrap()), after);
    server.provider.rotate(&context().0, addon).await.unwrap();
    assert_ne!(url(&bind(&server.provider, addon).await.unwrap()), after);
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
    other.rotate(&context().0, addon).await.unwrap();
    connect(&url(&bind(&other, addon).await.unwrap())).await.unwrap();
    let gone = other.rotate(&context().0, AddonId::new()).await.unwrap_err();
    assert_eq!(gone.code(), ErrorCode::NotFound);
}
