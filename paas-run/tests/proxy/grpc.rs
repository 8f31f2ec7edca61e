//! Calls by gRPC's own library on both sides.

use paas_core::{BackendProtocol, RouteSettings};

use crate::python::{Python, said};
use crate::tls::Secure;

#[tokio::test]
async fn grpc_calls_of_every_kind_go_through_with_their_status_and_a_call_that_is_given_up_ends_at_its_server()
 {
    let Some(python) = Python::with_packages() else { return };
    let mut server = python.serve("grpc_server.py");
    let secure = Secure::serving(&[server.address]).await;
    let mut settings = RouteSettings::default();
    settings.protocol = BackendProtocol::H2c;
    secure.world.settle(settings).await;
    let ca = secure.folder.path().join("ca.pem");
    for (address, ca) in [(secure.address, ca.as_path()), (secure.world.address, "-".as_ref())] {
        let mut calls = python.script("grpc_calls.py");
        calls.arg(address.to_string()).arg(ca).arg("hello.test");
        let output = tokio::task::spawn_blocking(move || calls.output()).await.expect("no panic");
        assert_eq!(said(&output.expect("Python starts")).trim(), "all calls ended as they should");
        let mut ended = [server.line().await, server.line().await];
        ended.sort();
        assert_eq!(ended, ["given up", "too late"]);
    }
}
