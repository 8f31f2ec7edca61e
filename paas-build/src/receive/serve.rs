//! A server for those who have none.

use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use paas_core::Cancel;
use tokio::net::TcpListener;

use super::GitReceive;

/// How long answers may still take to be read when the server stops.
const GRACE: Duration = Duration::from_secs(10);

impl GitReceive {
    /// Serves HTTP/1.1 on this listener until `cancel`, then [shuts down](GitReceive::shutdown); or until it is to
    /// [finish](GitReceive::finish). In the open internet it belongs behind something that speaks TLS.
    pub async fn serve(&self, listener: TcpListener, cancel: &Cancel) {
        let connections = GracefulShutdown::new();
        let mut http = http1::Builder::new();
        // Slow headers hold a connection for at most hyper's 30 seconds.
        http.timer(TokioTimer::new());
        // A connection that was just accepted is counted before this is not.
        let accepting = self.inner.connections.token();
        let finishes = loop {
            let accepted = tokio::select! {
                _ = cancel.cancelled() => break false,
                () = self.inner.finishing.cancelled() => break true,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(error = %error, "a connection can't be accepted");
                    // Out of files, most likely: others must end first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(error = %error, "small packets may wait");
            }
            let service = TowerToHyperService::new(self.clone());
            let connection = http.serve_connection(TokioIo::new(stream), service);
            let connection = connections.watch(connection);
            self.inner.connections.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %error, "a connection ended early");
                }
            });
        };
        drop((listener, accepting));
        let mut closing = std::pin::pin!(connections.shutdown());
        if finishes {
            tokio::select! {
                () = &mut closing => return,
                _ = self.inner.stop.cancelled() => {}
            }
        } else {
            self.shutdown().await;
        }
        if tokio::time::timeout(GRACE, closing).await.is_err() {
            tracing::warn!("clients did not read their answers in time");
        }
    }
}
