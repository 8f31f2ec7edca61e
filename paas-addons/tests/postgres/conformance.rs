use std::sync::Arc;

use paas_addons::postgres::{Postgres, PostgresServer};
use paas_core::testkit::addon::conformance;

use crate::support::{Notes, TestServer, database, password_key};

#[tokio::test(flavor = "multi_thread")]
async fn a_managed_server_conforms() {
    let Some(server) = TestServer::start().await else { return };
    conformance(Arc::new(server.provider.clone()), &Notes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_server_conforms_to_a_superuser() {
    let Some(server) = TestServer::start().await else { return };
    database(&server.provider).await;
    server.admin().await;
    let external = PostgresServer::external(&server.admin_url(), password_key()).unwrap();
    conformance(Arc::new(Postgres::new(external)), &Notes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_external_server_conforms_to_a_user_who_may_only_make_databases_and_roles() {
    let Some(server) = TestServer::start().await else { return };
    database(&server.provider).await;
    let admin = server.admin().await;
    let make = "CREATE ROLE maker LOGIN CREATEDB CREATEROLE PASSWORD 'maker'; GRANT CONNECT ON DATABASE postgres TO maker";
    admin.batch_execute(make).await.unwrap();
    let url = server.admin_url().replace("test_admin:test", "maker:maker");
    let external = PostgresServer::external(&url, password_key()).unwrap();
    conformance(Arc::new(Postgres::new(external)), &Notes).await;
}
