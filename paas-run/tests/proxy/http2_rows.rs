//! What RFC 9113 says a server does about each break of it, as a client by frames sees it.

use std::sync::{Arc, Mutex};

use crate::python::{Python, said};
use crate::support::origin;
use crate::tls::Secure;

#[tokio::test]
async fn each_break_of_http2_is_answered_as_its_rfc_says_and_malformed_requests_reach_no_app() {
    let Some(python) = Python::with_packages() else { return };
    let paths = Arc::new(Mutex::new(Vec::new()));
    let app = origin({
        let paths = Arc::clone(&paths);
        move |mut conn, _| {
            let paths = Arc::clone(&paths);
            async move {
                while let Some(head) = conn.head().await {
                    paths.lock().expect("whole").extend(head.split(' ').nth(1).map(str::to_owned));
                    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        }
    })
    .await;
    let secure = Secure::serving(&[app]).await;
    let ca = secure.folder.path().join("ca.pem");
    for (address, ca) in [(secure.address, Some(&ca)), (secure.world.address, None)] {
        let mut rows = python.script("http2_rows.py");
        rows.arg(address.to_string()).arg("hello.test").args(ca);
        let output = tokio::task::spawn_blocking(move || rows.output()).await.expect("no panic");
        let rows = said(&output.expect("Python starts"));
        let rows: Vec<(String, bool, String)> =
            rows.lines().map(|row| serde_json::from_str(row).expect("a row")).collect();
        let wrong: Vec<_> = rows.iter().filter(|(_, right, _)| !right).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert_eq!(rows.len(), 64);
    }
    let paths = paths.lock().expect("whole");
    assert!(
        paths.iter().any(|path| path == "/good") && !paths.iter().any(|path| path == "/bad"),
        "{paths:?}"
    );
}
