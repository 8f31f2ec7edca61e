//! What Prometheus reads: the counters of all apps as text, and a page with it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use paas_core::{AppName, Cancel};
use tokio::net::TcpListener;

use super::Proxy;
use super::serve::{ACCEPT_PAUSE, is_of_one_connection};
use super::traffic::Traffic;

/// Where Prometheus looks, if nobody tells it otherwise.
const PATH: &str = "/metrics";
/// What the text is (`OpenMetrics` 1.0, section "Overall Structure").
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long a reader may take to ask, and to read the answer once the server is to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The bounds of the buckets that Prometheus is told, in milliseconds.
const BOUNDS: [u64; 13] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 30_000];

impl Proxy {
    /// The requests of all apps as `OpenMetrics` text.
    pub fn open_metrics(&self) -> String {
        Metrics::of([self.clone()]).text()
    }
}

/// What proxies tell of their requests, as if they were one: for Prometheus, and whatever else reads `OpenMetrics`.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<[Proxy]>);

impl Metrics {
    /// What these tell: one, or those of a process that has several.
    pub fn of(proxies: impl IntoIterator<Item = Proxy>) -> Self {
        Self(proxies.into_iter().collect())
    }

    /// The requests of all apps, as `OpenMetrics` text.
    pub fn text(&self) -> String {
        let mut apps = BTreeMap::<AppName, Traffic>::new();
        for route in self.0.iter().flat_map(|proxy| proxy.shared.table.all()) {
            let Some(traffic) = route.traffic() else { continue };
            let both = apps.get(&route.app).map(|known| known.with(&traffic));
            apps.insert(route.app.clone(), both.unwrap_or(traffic));
        }
        written(&apps)
    }

    /// Answers GET for `/metrics` on this listener with [`Metrics::text`] until cancelled. It asks nobody who they are, and
    /// tells the names of apps and how much they are used: let it listen where only Prometheus gets to.
    pub async fn serve(&self, listener: TcpListener, cancel: Cancel) {
        let connections = GracefulShutdown::new();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        loop {
            let accepted = tokio::select! {
                biased;
                _ = cancel.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    tracing::warn!(error = %error, "metrics can't be read for a moment: no connection can be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let metrics = self.clone();
            let service = service_fn(move |request| metrics.clone().answer(request));
            let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %error, "a reader of metrics ended early");
                }
            });
        }
        drop(listener);
        if tokio::time::timeout(PATIENCE, connections.shutdown()).await.is_err() {
            tracing::debug!("a reader of metrics did not read its answer in time");
        }
    }

    async fn answer<B>(self, request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
        if request.uri().path() != PATH {
            return Ok(refused(StatusCode::NOT_FOUND, "there is only /metrics here\n"));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = refused(StatusCode::METHOD_NOT_ALLOWED, "/metrics is only read\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Ok(refused);
        }
        // With many apps it takes longer than other requests should wait.
        let Ok(text) = tokio::task::spawn_blocking(move || self.text()).await else {
            return Ok(refused(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be read\n"));
        };
        let mut answer = Response::new(Full::from(text));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
        Ok(answer)
    }
}

fn refused(status: StatusCode, why: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(why));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn written(apps: &BTreeMap<AppName, Traffic>) -> String {
    let mut text = String::new();
    let mut put = |arguments: fmt::Arguments<'_>| {
        // Writing to a String can't fail.
        let _ = text.write_fmt(arguments);
    };
    put(format_args!(
        "# TYPE paas_router_requests counter\n# HELP paas_router_requests Requests by class of status.\n"
    ));
    for (app, traffic) in apps {
        for (class, count) in (1..).zip(traffic.classes) {
            put(format_args!("paas_router_requests_total{{app=\"{app}\",class=\"{class}xx\"}} {count}\n"));
        }
    }
    put(format_args!(
        "# TYPE paas_router_response_bytes counter\n# UNIT paas_router_response_bytes bytes\n\
         # HELP paas_router_response_bytes Bytes of the bodies that apps answered with.\n"
    ));
    for (app, traffic) in apps {
        put(format_args!("paas_router_response_bytes_total{{app=\"{app}\"}} {}\n", traffic.bytes));
    }
    put(format_args!(
        "# TYPE paas_router_in_flight gauge\n# HELP paas_router_in_flight Requests being answered.\n"
    ));
    for (app, traffic) in apps {
        put(format_args!("paas_router_in_flight{{app=\"{app}\"}} {}\n", traffic.in_flight));
    }
    put(format_args!(
        "# TYPE paas_router_waiting gauge\n# HELP paas_router_waiting Requests held until the app takes them.\n"
    ));
    for (app, traffic) in apps {
        put(format_args!("paas_router_waiting{{app=\"{app}\"}} {}\n", traffic.waiting));
    }
    put(format_args!(
        "# TYPE paas_router_duration_seconds histogram\n# UNIT paas_router_duration_seconds seconds\n\
         # HELP paas_router_duration_seconds From a request's head to its answer's last byte.\n"
    ));
    for (app, traffic) in apps {
        for millis in BOUNDS {
            let bound = format!("{}.{:03}", millis / 1000, millis % 1000);
            let bound = bound.trim_end_matches('0');
            let bound = if bound.ends_with('.') { format!("{bound}0") } else { bound.to_owned() };
            put(format_args!(
                "paas_router_duration_seconds_bucket{{app=\"{app}\",le=\"{bound}\"}} {}\n",
                traffic.within(millis * 1000)
            ));
        }
        let all = traffic.timed();
        put(format_args!("paas_router_duration_seconds_bucket{{app=\"{app}\",le=\"+Inf\"}} {all}\n"));
        put(format_args!("paas_router_duration_seconds_count{{app=\"{app}\"}} {all}\n"));
        put(format_args!(
            "paas_router_duration_seconds_sum{{app=\"{app}\"}} {}.{:06}\n",
            traffic.micros / 1_000_000,
            traffic.micros % 1_000_000
        ));
    }
    put(format_args!("# EOF\n"));
    text
}
