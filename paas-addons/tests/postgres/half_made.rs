//! Whatever was cut off anywhere, the same call again makes it whole, and destroying leaves nothing.

use paas_core::{AddonId, AddonProvider, AddonStatus, ErrorCode};
use tokio_postgres::Client;

use crate::support::{TestServer, bind, connect, context, database, name, provision, url};

/// Takes away what provisioning did, from its end: what is left is what a crash leaves. `{}` is the name.
const TAKE_AWAY: [&str; 3] = [
    "COMMENT ON ROLE {} IS '{\"paas_addon\":\"making\",\"key\":\"KEY\",\"rotation\":0}'",
    "ALTER DATABASE {} ALLOW_CONNECTIONS false; GRANT ALL ON DATABASE {} TO PUBLIC",
    "DROP DATABASE {}",
];

/// What destroying does before it is done.
const DESTROY: [&str; 2] = [
    "ALTER ROLE {} NOLOGIN; COMMENT ON ROLE {} IS '{\"paas_addon\":\"dropping\",\"key\":\"KEY\",\"rotation\":0}'",
    "DROP DATABASE {}",
];

async fn half_made(server: &TestServer, admin: &Client, steps: &[&str]) -> AddonId {
    let (addon, _) = database(&server.provider).await;
    let query =
        "SELECT shobj_description(oid, 'pg_authid')::json->>'key' FROM pg_roles WHERE rolname = $1::text";
    let key: String = admin.query_one(query, &[&name(addon)]).await.unwrap().get(0);
    for step in steps {
        admin.batch_execute(&step.replace("{}", &name(addon)).replace("KEY", &key)).await.unwrap();
    }
    addon
}

async fn left(admin: &Client, addon: AddonId) -> i64 {
    let query = "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = $1::text)
                      + (SELECT count(*) FROM pg_database WHERE datname = $1::text)";
    admin.query_one(query, &[&name(addon)]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_is_made_whole() {
    let Some(server) = TestServer::start().await else { return };
    database(&server.provider).await;
    let admin = server.admin().await;
    for steps in 1..=TAKE_AWAY.len() {
        let addon = half_made(&server, &admin, &TAKE_AWAY[..steps]).await;
        let status = server.provider.status(&context().0, addon).await.unwrap();
        assert!(matches!(status, AddonStatus::Pending(_)), "without {steps} steps: {status:?}");
        assert_eq!(bind(&server.provider, addon).await.unwrap_err().code(), ErrorCode::Unavailable);
        assert_eq!(provision(&server.provider, addon).await.unwrap(), AddonStatus::Ready);
        can_be_used_by_its_app_alone(&server, &admin, addon).await;
    }
    for steps in 1..=DESTROY.len() {
        let addon = half_made(&server, &admin, &DESTROY[..steps]).await;
        assert_eq!(server.provider.status(&context().0, addon).await.unwrap(), AddonStatus::Gone);
        assert_eq!(bind(&server.provider, addon).await.unwrap_err().code(), ErrorCode::NotFound);
        assert_eq!(provision(&server.provider, addon).await.unwrap(), AddonStatus::Ready);
        can_be_used_by_its_app_alone(&server, &admin, addon).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_is_destroyed_without_a_trace() {
    let Some(server) = TestServer::start().await else { return };
    database(&server.provider).await;
    let admin = server.admin().await;
    for steps in [&TAKE_AWAY[..1], &TAKE_AWAY[..2], &TAKE_AWAY, &DESTROY[..1], &DESTROY] {
        let addon = half_made(&server, &admin, steps).await;
        server.provider.deprovision(&context().0, addon).await.unwrap();
        assert_eq!(left(&admin, addon).await, 0, "{steps:?}");
    }
}

async fn can_be_used_by_its_app_alone(server: &TestServer, admin: &Client, addon: AddonId) {
    let vars = bind(&server.provider, addon).await.unwrap();
    connect(&url(&vars)).await.unwrap().batch_execute("CREATE TABLE t ()").await.unwrap();
    let open = "SELECT has_database_privilege('public', $1::text, 'CONNECT')";
    assert!(!admin.query_one(open, &[&name(addon)]).await.unwrap().get::<_, bool>(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_platform_did_not_make_is_not_touched() {
    let Some(server) = TestServer::start().await else { return };
    database(&server.provider).await;
    let (admin, addon) = (server.admin().await, AddonId::new());
    admin.batch_execute(&format!("CREATE ROLE {}", name(addon))).await.unwrap();
    assert_eq!(provision(&server.provider, addon).await.unwrap_err().code(), ErrorCode::Conflict);
    let error = server.provider.deprovision(&context().0, addon).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict);
    assert_eq!(left(&admin, addon).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_cut_off_at_any_moment_can_be_made_again() {
    let Some(server) = TestServer::start().await else { return };
    database(&server.provider).await;
    let admin = server.admin().await;
    for polls in (0..300).step_by(17) {
        let addon = AddonId::new();
        cut_after(polls, provision(&server.provider, addon)).await;
        assert_eq!(provision(&server.another(), addon).await.unwrap(), AddonStatus::Ready, "{polls} polls");
        let vars = bind(&server.provider, addon).await.unwrap();
        connect(&url(&vars)).await.unwrap();
        let (ctx, _) = context();
        cut_after(polls, server.provider.deprovision(&ctx, addon)).await;
        server.provider.deprovision(&ctx, addon).await.unwrap();
        assert_eq!(left(&admin, addon).await, 0, "{polls} polls");
    }
}

/// Drops the future after it was polled so often: the engine died there, as far as the server can tell.
async fn cut_after<F: Future>(polls: usize, future: F) {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(move |cx| {
        if left == 0 || future.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(());
        }
        left -= 1;
        std::task::Poll::Pending
    })
    .await;
}
