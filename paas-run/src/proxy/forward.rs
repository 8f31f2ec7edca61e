//! A request's way: from its head over the claim of a backend to the answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, COOKIE, HOST, LOCATION, SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::access::Record;
use paas_core::BackendProtocol;

use super::body::{BoxError, Carried, ProxyBody, RequestBody, Upload, UploadState};
use super::client::Peer;
use super::fault::Fault;
use super::reach::Carrier;
use super::route::Route;
use super::rules::{self, LONG, Rules, SECURED};
use super::upstream::Failed;
use super::{Shared, headers, page, tunnel};

/// What a page tells of a request.
struct Told {
    accept: Option<HeaderValue>,
    id: Option<HeaderValue>,
}

/// The app that is asked.
struct Found {
    route: Arc<Route>,
    /// Only over TLS.
    secured: bool,
}

/// Where an authority asks by HTTP (RFC 8555 section 8.3).
#[cfg(feature = "tls")]
const CHALLENGES: &str = "/.well-known/acme-challenge/";

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
        #[cfg(feature = "tls")]
        if let Some(token) = parts.uri.path().strip_prefix(CHALLENGES)
            && let Some(answer) = self.certificates.token(token).await
        {
            // Before any redirect, and for apps that aren't up.
            return Response::new(ProxyBody::page(answer.into()));
        }
        let target = parts.uri.path_and_query().map_or("*", PathAndQuery::as_str);
        let found = match headers::host(&parts) {
            Ok(host) => self.find(&host, target).await,
            Err(fault) => Err(fault),
        };
        let Found { route, secured } = match found {
            Ok(found) => found,
            // Nobody's log: there is no app.
            Err(fault) => return error(fault, parts.headers.get(ACCEPT), None, None),
        };
        let said = || parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = parts.uri.authority().map(Authority::as_str).or_else(said).unwrap_or_default();
        let record = Record::begin(&self, &peer, Arc::clone(&route), parts.method.as_str(), target, host);
        let mut told = Told { accept: parts.headers.get(ACCEPT).cloned(), id: None };
        let mut record = Some(Box::new(record));
        let rules = route.heeded();
        let proto = headers::proto(&parts.headers, &peer);
        if secured && proto == "http" {
            let moved = self.secured(&parts, host, target);
            return told_of(record, moved);
        }
        let request = Request::from_parts(parts, body);
        let rule = rules.as_deref();
        let forwarded = self.forward(&mut record, &mut told, &peer, request, rule, on_upgrade).await;
        let mut response = forwarded.unwrap_or_else(|fault| {
            if let Some(mut record) = record {
                record.fail(fault);
            }
            let all = route.rules();
            let own = all.as_ref().and_then(|rules| rules.page(fault));
            error(fault, told.accept.as_ref(), told.id.as_ref(), own)
        });
        if let Some(hsts) = rules.as_ref().and_then(|rules| rules.hsts.as_ref()).filter(|_| proto == "https")
        {
            response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        response
    }

    /// The same address over TLS.
    fn secured(&self, parts: &Parts, host: &str, target: &str) -> Response<ProxyBody> {
        let host = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let to = match self.config.https_port {
            443 => format!("https://{host}{target}"),
            port => format!("https://{host}:{port}{target}"),
        };
        let mut response = Response::new(ProxyBody::page(Bytes::new()));
        // A form that is sent to the wrong address is sent again, and not forgotten.
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        *response.status_mut() =
            if reads { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
        if let Ok(to) = HeaderValue::try_from(to) {
            response.headers_mut().insert(LOCATION, to);
        }
        response
    }

    async fn find(&self, host: &str, target: &str) -> Result<Found, Fault> {
        loop {
            if let Some(route) = self.table.find(host) {
                return self.lead(route, target);
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

    /// The app that a path of this host leads to.
    fn lead(&self, route: Arc<Route>, target: &str) -> Result<Found, Fault> {
        let secured = route.marks() & SECURED != 0;
        let rules = if route.marks() & LONG == 0 { None } else { route.rules() };
        let Some(app) = rules.as_ref().and_then(|rules| rules.lead(target)) else {
            return Ok(Found { route, secured });
        };
        let route = self.table.app(app).ok_or(Fault::NoSuchApp)?;
        let secured = secured || route.marks() & SECURED != 0;
        Ok(Found { route, secured })
    }

    /// The app's answer. It takes the record along; where there is none, the record stays.
    async fn forward<B>(
        self: &Arc<Self>,
        record: &mut Option<Box<Record>>,
        told: &mut Told,
        peer: &Arc<Peer>,
        request: Request<B>,
        rules: Option<&Rules>,
        on_upgrade: Option<OnUpgrade>,
    ) -> Result<Response<ProxyBody>, Fault>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Some(open) = record else { return Err(Fault::Platform) };
        let (mut parts, body) = request.into_parts();
        headers::check(&parts, peer)?;
        if !peer.may_ask(&headers::host(&parts)?) {
            return Err(Fault::Misdirected);
        }
        self.admit(peer, rules)?;
        let (body, upload) = RequestBody::new(body);
        let settings = rules.map(|rules| &rules.settings);
        let shares = settings.is_some_and(|settings| settings.protocol == BackendProtocol::H2c);
        let on_upgrade = on_upgrade.filter(|_| !shares && upload.is_none() && headers::wants_upgrade(&parts));
        if settings.is_some_and(|settings| settings.affinity) {
            open.wants = rules::wanted(parts.headers.get_all(COOKIE).iter()).map(Into::into);
        }
        let start = self.clock.now().timestamp_millis();
        let marks = headers::to_backend(&mut parts, peer, on_upgrade.is_some(), upload.is_some(), start);
        let forwarded_for = marks.forwarded_for.to_str().unwrap_or_default();
        open.mark(marks.id.to_str().unwrap_or_default(), forwarded_for, marks.proto);
        told.id = Some(marks.id);
        let request = Request::from_parts(parts, body);

        let (mut response, carried) = if shares {
            let (response, mux) = self.exchange(open, request, upload.as_ref(), true).await?;
            (response, Carried::Shared(mux))
        } else {
            let pooled = on_upgrade.is_none();
            let (response, connection) = self.exchange(open, request, upload.as_ref(), pooled).await?;
            (response, Carried::Alone(connection))
        };
        let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        // A protocol that nobody asked for is no answer.
        let on_upgrade = match (switching, on_upgrade) {
            (true, None) => return Err(Fault::MalformedResponse),
            (true, asked) => asked,
            (false, _) => None,
        };
        open.status = Some(response.status());
        headers::to_client(response.headers_mut(), switching);
        *response.version_mut() = Version::HTTP_11;
        if settings.is_some_and(|settings| settings.affinity)
            && let Some(upstream) = open.upstream()
            && open.wants.as_deref() != Some(upstream.token.as_str())
            && let Some(cookie) = rules::cookie(upstream, marks.proto == "https")
        {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        let Some(record) = record.take() else { return Err(Fault::Platform) };
        match (on_upgrade, carried) {
            (Some(client_side), Carried::Alone(connection)) => {
                let app_side = hyper::upgrade::on(&mut response);
                let is_websocket = headers::is_websocket(response.headers());
                let ends = tunnel::Ends { client_side, app_side, connection, is_websocket };
                let (shared, peer) = (Arc::clone(self), Arc::clone(peer));
                peer.tunnels.clone().spawn(tunnel::run(ends, record, peer, shared));
                Ok(response.map(|_| ProxyBody::page(Bytes::new())))
            }
            (_, carried) => {
                let idle = self.config.idle;
                Ok(response.map(|body| ProxyBody::answer(body, carried, upload, idle, record)))
            }
        }
    }

    /// Whether this client may send another request.
    pub(super) fn admit(&self, peer: &Peer, rules: Option<&Rules>) -> Result<(), Fault> {
        let of_app = rules.and_then(|rules| rules.buckets.as_ref());
        if self.buckets.is_none() && of_app.is_none() {
            return Ok(());
        }
        let now = Instant::now();
        for buckets in [self.buckets.as_ref(), of_app].into_iter().flatten() {
            buckets.take(peer.ip, now).map_err(|wait| {
                let seconds = wait.as_millis().div_ceil(1000).max(1);
                Fault::TooMany(u16::try_from(seconds).unwrap_or(u16::MAX))
            })?;
        }
        Ok(())
    }

    /// Sends the request and gets the answer's head, over as many connections as that takes.
    async fn exchange<C: Carrier>(
        &self,
        record: &mut Record,
        mut request: Request<RequestBody>,
        upload: Option<&Arc<Upload>>,
        mut pooled: bool,
    ) -> Result<(Response<Incoming>, C), Fault> {
        loop {
            let mut connection: C = self.reach(record, pooled).await?;
            if let Some(upstream) = record.upstream() {
                connection.begin(upstream);
            }
            connection.deadline().set(Instant::now() + self.config.first_byte);
            let reused = Carrier::age(&mut connection).reused;
            // The app may be closing an idle connection just now. A request that may be done twice is sent once more then.
            let again =
                (reused && upload.is_none() && is_idempotent(request.method())).then(|| copy(&request));
            let late = || self.later(upload);
            match connection.send(request, late).await {
                Ok(response) => {
                    if let Some(seconds) = headers::keep_alive_seconds(response.headers()) {
                        Carrier::age(&mut connection).keep_at_most(seconds);
                    }
                    return Ok((response, connection));
                }
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

fn error(
    fault: Fault,
    accept: Option<&HeaderValue>,
    id: Option<&HeaderValue>,
    own: Option<&str>,
) -> Response<ProxyBody> {
    page::page(fault, page::wants_html(accept), id, own).map(ProxyBody::page)
}

/// An answer of our own, which the log tells.
fn told_of(record: Option<Box<Record>>, response: Response<ProxyBody>) -> Response<ProxyBody> {
    if let Some(mut record) = record {
        record.status = Some(response.status());
        record.done();
    }
    response
}
