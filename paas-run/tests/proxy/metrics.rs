//! What the proxy tells Prometheus.

use std::net::SocketAddr;

use paas_core::{Cancel, CancelReason, RouteState};
use paas_run::proxy::Metrics;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::python::{Python, said};
use crate::support::{Answer, Conn, World, echo, within};

fn length(answer: &Answer) -> u64 {
    u64::try_from(answer.body.len()).expect("a short answer")
}

/// What a reader of others' making has from this page.
async fn samples(python: &Python, at: SocketAddr) -> Vec<(String, String, Value, Value)> {
    let mut read = python.script("read_metrics.py");
    read.arg(format!("http://{at}/metrics"));
    let output = tokio::task::spawn_blocking(move || read.output()).await.expect("no panic");
    let samples = said(&output.expect("Python starts"));
    samples.lines().map(|line| serde_json::from_str(line).expect("a sample")).collect()
}

#[tokio::test]
async fn prometheus_reads_the_requests_of_all_apps_and_of_several_proxies_as_one() {
    let Some(python) = Python::with_packages() else { return };
    let worlds =
        [World::serving(&[echo().await], |_| {}).await, World::serving(&[echo().await], |_| {}).await];
    let metrics = Metrics::of(worlds.iter().map(|world| world.proxy.clone()));
    let page = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = page.local_addr().expect("an address");
    let cancel = Cancel::new();
    let serving = tokio::spawn({
        let (metrics, cancel) = (metrics.clone(), cancel.clone());
        async move { metrics.serve(page, cancel).await }
    });
    assert_eq!(metrics.text().lines().last(), Some("# EOF"));
    assert_eq!(samples(&python, at).await, []);

    let mut bytes = 0;
    for world in &worlds {
        bytes += length(&world.get("/").await);
        world.logged("at=info").await;
    }
    worlds[0].route(2, RouteState::Stopped, &[]).await;
    // The router's own pages are no bytes of the app's.
    worlds[0].get("/").await;
    worlds[0].logged("code=H14").await;
    let samples = samples(&python, at).await;
    let value = |kind: &str, name: &str, labels: Value| {
        let found = samples
            .iter()
            .find(|sample| (sample.0.as_str(), sample.1.as_str(), &sample.2) == (kind, name, &labels));
        found.unwrap_or_else(|| panic!("{name} {labels} is missing in {samples:#?}")).3.as_u64()
    };
    let requests = |class: &str| {
        value("counter", "paas_router_requests_total", json!({ "app": "hello", "class": class }))
    };
    assert_eq!(["1xx", "2xx", "3xx", "4xx", "5xx"].map(requests), [0, 2, 0, 0, 1].map(Some));
    let app = || json!({ "app": "hello" });
    assert_eq!(value("counter", "paas_router_response_bytes_total", app()), Some(bytes));
    assert_eq!(value("gauge", "paas_router_in_flight", app()), Some(0));
    assert_eq!(value("gauge", "paas_router_waiting", app()), Some(0));
    assert_eq!(value("histogram", "paas_router_duration_seconds_count", app()), Some(3));
    for bound in ["30.0", "+Inf"] {
        let bucket = json!({ "app": "hello", "le": bound });
        assert_eq!(value("histogram", "paas_router_duration_seconds_bucket", bucket), Some(3));
    }

    for (request, status) in
        [("GET / HTTP/1.1", 404), ("POST /metrics HTTP/1.1", 405), ("HEAD /metrics HTTP/1.1", 200)]
    {
        let mut conn = Conn::to(at).await;
        conn.send(format!("{request}\r\nHost: metrics\r\nConnection: close\r\n\r\n")).await;
        let head = conn.head().await.expect("an answer");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
    }
    cancel.cancel(CancelReason::Shutdown);
    within(serving).await.expect("no panic");
}
