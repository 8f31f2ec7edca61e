use std::sync::Arc;

use paas_core::testkit::router::{LoopbackClient, conformance};
use paas_core::{Cancel, CancelReason, SystemClock};
use paas_run::logs::{FileLogs, LogBounds};
use paas_run::proxy::{Proxy, ProxyConfig};

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Arc::new(FileLogs::open(folder.path(), LogBounds::default()).unwrap());
    let mut config = ProxyConfig::default();
    config.short_way = crate::SHORT_WAY;
    config.trust_timeout = std::time::Duration::from_millis(100);
    let proxy = Proxy::new(config, logs, Arc::new(SystemClock::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = LoopbackClient::new(listener.local_addr().unwrap());
    let cancel = Cancel::new();
    let serving = tokio::spawn({
        let (proxy, cancel) = (proxy.clone(), cancel.clone());
        async move { proxy.serve(listener, cancel).await }
    });
    conformance(Arc::new(proxy), Arc::new(client)).await;
    cancel.cancel(CancelReason::Shutdown);
    serving.await.unwrap().unwrap();
}
