//! A request's way: from its head over the claim of a backend to the answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::access::Record;
use super::body::{BoxError, ProxyBody, RequestBody, Upload, UploadState};
use super::client::Peer;
use super::fault::Fault;
use super::route::Route;
use super::upstream::{Connection, Failed};
use super::{Shared, headers, page, tunnel};

/// What a page tells of a request.
struct Told {
    accept: Option<HeaderValue>,
    id: Option<HeaderValue>,
}

impl Shared {
    /// Answers a request, whatever happens.
    pub(super) async fn answer<B>(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: Request<B>,
    ) -> Result<Response<ProxyBody>, Infallible>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let says_close = request.version() != Version::HTTP_2;
        let mut response = Arc::clone(&self).find_answer(peer, request).await;
        if self.leaving.is.load(Ordering::Relaxed)
            && says_close
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn find_answer<B>(self: Arc<Self>, peer: Arc<Peer>, mut request: Request<B>) -> Response<ProxyBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let on_upgrade =
            request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let found = match headers::host(&parts) {
            Ok(host) => self.find(&host).await,
            Err(fault) => Err(fault),
        };
        let route = match found {
            Ok(route) => route,
            // Nobody's log: there is no app.
            Err(fault) => return error(fault, parts.headers.get(ACCEPT), None),
        };
        let target = parts.uri.path_and_query().map_or("*", PathAndQuery::as_str);
        let said = || parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = parts.uri.authority().map(Authority::as_str).or_else(said).unwrap_or_default();
        let record = Record::begin(&self, &peer, route, parts.method.as_str(), target, host);
        let mut told = Told { accept: parts.headers.get(ACCEPT).cloned(), id: None };
        let mut record = Some(Box::new(record));
        let request = Request::from_parts(parts, body);
        let forwarded = self.forward(&mut record, &mut told, &peer, request, on_upgrade).await;
        forwarded.unwrap_or_else(|fault| {
            if let Some(mut record) = record {
                record.fail(fault);
            }
            error(fault, told.accept.as_ref(), told.id.as_ref())
        })
    }

    async fn find(&self, host: &str) -> Result<Arc<Route>, Fault> {
        loop {
            if let Some(route) = self.table.find(host) {
                return Ok(route);
            }
            if self.trust.holds(Instant::now()) {
                return Err(Fault::NoSuchApp);
            }
            // It may have been made meanwhile.
            if !self.trust.regained(self.config.trust_timeout).await {
                return Err(Fault::Platform);
            }
        }
    }

    /// The app's answer. It takes the record along; where there is none, the record stays.
    async fn forward<B>(
        self: &Arc<Self>,
        record: &mut Option<Box<Record>>,
        told: &mut Told,
        peer: &Arc<Peer>,
        request: Request<B>,
        on_upgrade: Option<OnUpgrade>,
    ) -> Result<Response<ProxyBody>, Fault>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Some(open) = record else { return Err(Fault::Platform) };
        let (mut parts, body) = request.into_parts();
        headers::check(&parts, peer)?;
        let (body, upload) = RequestBody::new(body);
        let on_upgrade = on_upgrade.filter(|_| upload.is_none() && headers::wants_upgrade(&parts));
        let start = self.clock.now().timestamp_millis();
        let marks = headers::to_backend(&mut parts, peer, on_upgrade.is_some(), upload.is_some(), start);
        let forwarded_for = marks.forwarded_for.to_str().unwrap_or_default();
        open.mark(marks.id.to_str().unwrap_or_default(), forwarded_for, marks.proto);
        told.id = Some(marks.id);
        let request = Request::from_parts(parts, body);

        let (mut response, mut connection) =
            self.exchange(open, request, upload.as_ref(), on_upgrade.is_none()).await?;
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        // A protocol that nobody asked for is no answer.
        let on_upgrade = match (switching, on_upgrade) {
            (true, None) => return Err(Fault::MalformedResponse),
            (true, asked) => asked,
            (false, _) => None,
        };
        open.status = Some(response.status());
        if let Some(seconds) = headers::keep_alive_seconds(response.headers()) {
            connection.age.keep_at_most(seconds);
        }
        headers::to_client(response.headers_mut(), switching);
        *response.version_mut() = Version::HTTP_11;
        let Some(record) = record.take() else { return Err(Fault::Platform) };
        if let Some(client_side) = on_upgrade {
            let app_side = hyper::upgrade::on(&mut response);
            let ends = tunnel::Ends { client_side, app_side, connection };
            let (config, peer) = (self.config.clone(), Arc::clone(peer));
            peer.tunnels.clone().spawn(tunnel::run(ends, record, peer, config));
            return Ok(response.map(|_| ProxyBody::page(Bytes::new())));
        }
        let idle = self.config.idle;
        Ok(response.map(|body| ProxyBody::answer(body, connection, upload, idle, record)))
    }

    /// Sends the request and gets the answer's head, over as many connections as that takes.
    async fn exchange(
        &self,
        record: &mut Record,
        mut request: Request<RequestBody>,
        upload: Option<&Arc<Upload>>,
        mut pooled: bool,
    ) -> Result<(Response<Incoming>, Connection), Fault> {
        loop {
            let mut connection: Connection = self.reach(record, pooled).await?;
            connection.deadline.set(Instant::now() + self.config.first_byte);
            let reused = connection.age.reused;
            // The app may be closing an idle connection just now. A request that may be done twice is sent once more then.
            let again =
                (reused && upload.is_none() && is_idempotent(request.method())).then(|| copy(&request));
            let late = || self.later(upload);
            match connection.send(request, late).await {
                Ok(response) => return Ok((response, connection)),
                Err(Failed::Closed(Some(unsent))) if reused => request = *unsent,
                Err(Failed::Closed(_)) => match again {
                    Some(again) => request = again,
                    None => return Err(interrupted(upload, Fault::ClosedWithoutResponse)),
                },
                Err(Failed::TimedOut) => {
                    let moving = upload.is_some_and(|upload| upload.state() == UploadState::Moving);
                    return Err(if moving { Fault::ClientIdle } else { Fault::RequestTimeout });
                }
                Err(Failed::Bad(fault)) => return Err(interrupted(upload, fault)),
            }
            pooled = false;
        }
    }

    /// When to look again for a first byte that is late; `None` if it is too late.
    fn later(&self, upload: Option<&Arc<Upload>>) -> Option<Instant> {
        let upload = upload?;
        let due = match upload.state() {
            UploadState::Moving => upload.moved() + self.config.idle,
            UploadState::Done => upload.moved() + self.config.first_byte,
            UploadState::Gone | UploadState::Malformed => return None,
        };
        (due > Instant::now()).then_some(due)
    }
}

/// The fault, unless the client's own body was the cause.
fn interrupted(upload: Option<&Arc<Upload>>, fault: Fault) -> Fault {
    match upload.map(|upload| upload.state()) {
        Some(UploadState::Gone) => Fault::ClientGone,
        Some(UploadState::Malformed) => Fault::BadRequest("Its body isn't framed as it says."),
        _ => fault,
    }
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    )
}

fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::EMPTY);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn error(fault: Fault, accept: Option<&HeaderValue>, id: Option<&HeaderValue>) -> Response<ProxyBody> {
    page::page(fault, page::wants_html(accept), id).map(ProxyBody::page)
}
