//! Whatever was cut off anywhere, the same call again makes it whole, and destroying leaves nothing.

use paas_core::{AddonId, AddonProvider, AddonStatus, ErrorCode};
use tokio_postgres::Client;

use crate::support::{TestServer, bind, connect, context, database, name, provision, url};

/// What provisioning does on the server, a prefix of which a crash leaves behind. `{}` is the name.
const STEPS: [&str; 5] = [
    "CREATE ROLE {} LOGIN CONNECTION LIMIT 20;
     COMMENT ON ROLE {} IS '{\"paas_addon\":\"making\",\"key\":\"KEY\",\"rotation\":0}'",
    "CREATE DATABASE {} OWNER {} TEMPLATE template0 ALLOW_CONNECTIONS false",
    "REVOKE ALL ON DATABASE {} FROM PUBLIC",
    "ALTER DATABASE {} ALLOW_CONNECTIONS true",
    "COMMENT ON ROLE {} IS '{\"paas_addon\":\"dropping\",\"key\":\"KEY\",\"rotation\":0}'",
];

async fn half_made(admin: &Client, key: &str, password: &str, steps: usize) -> AddonId {
    let addon = AddonId::new();
    for (index, step) in STEPS[..steps].iter().enumerate() {
        let sql = step.replace("{}", &name(addon)).replace("KEY", key);
        admin.batch_execute(&sql).await.unwrap();
        if index == 0 {
            let set = format!("ALTER ROLE {} PASSWORD '{password}'", name(addon));
            admin.batch_execute(&set).await.unwrap();
        }
    }
    addon
}

async fn left(admin: &Client, addon: AddonId) -> i64 {
    let query = "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = $1::text)
                      + (SELECT count(*) FROM pg_database WHERE datname = $1::text)";
    admin.query_one(query, &[&name(addon)]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_is_made_whole_or_destroyed_without_a_trace() {
    let Some(server) = TestServer::start().await else { return };
    let (whole, _) = database(&server.provider).await;
    let admin = server.admin().await;
    let query =
        "SELECT shobj_description(oid, 'pg_authid')::json->>'key' FROM pg_roles WHERE rolname = $1::text";
    let key: String = admin.query_one(query, &[&name(whole)]).await.unwrap().get(0);

    for steps in 1..=STEPS.len() {
        let addon = half_made(&admin, &key, "nobody knows", steps).await;
        let status = server.provider.status(&context().0, addon).await.unwrap();
        let dropping = steps == STEPS.len();
        assert_eq!(matches!(status, AddonStatus::Pending(_)), !dropping, "after {steps} steps");
        let code = bind(&server.provider, addon).await.unwrap_err().code();
        let expected = if dropping { ErrorCode::NotFound } else { ErrorCode::Unavailable };
        assert_eq!(code, expected, "after {steps} steps");

        server.provider.deprovision(&context().0, addon).await.unwrap();
        assert_eq!(left(&admin, addon).await, 0, "after {steps} steps");
    }

    for steps in 0..=STEPS.len() {
        // The password that provisioning gives, so that what is adopted can be used.
        let addon = half_made(&admin, &key, "", steps).await;
        assert_eq!(provision(&server.provider, addon).await.unwrap(), AddonStatus::Ready);
        assert_eq!(left(&admin, addon).await, 2, "after {steps} steps");
        let vars = bind(&server.provider, addon).await.unwrap();
        if steps == 0 || steps == STEPS.len() {
            connect(&url(&vars)).await.unwrap();
        }
    }
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
    for polls in (0..400).step_by(9) {
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
