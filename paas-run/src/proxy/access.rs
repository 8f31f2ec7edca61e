//! One line in the app's log for each request, in Heroku's format.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, HOST};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, StatusCode};
use paas_core::{LogLine, LogSource};
use tokio::time::Instant;

use super::Shared;
use super::backend::{Claim, Upstream};
use super::client::Peer;
use super::fault::Fault;
use super::headers::Marks;
use super::route::Route;

/// A request from its head to its last byte. It holds the claim, so a request is in flight until its line is written.
/// One that is dropped before it is done was abandoned by its client.
#[derive(Debug)]
pub(super) struct Record {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    pub(super) route: Arc<Route>,
    method: Method,
    target: Option<PathAndQuery>,
    host: Option<HeaderValue>,
    accept: Option<HeaderValue>,
    marks: Option<Marks>,
    claim: Option<Claim>,
    pub(super) began: Instant,
    connect: Option<Duration>,
    sent: Option<Instant>,
    pub(super) status: Option<StatusCode>,
    pub(super) bytes: u64,
    told: bool,
}

impl Record {
    pub(super) fn begin(shared: &Arc<Shared>, peer: &Arc<Peer>, route: Arc<Route>, parts: &Parts) -> Self {
        Self {
            shared: Arc::clone(shared),
            peer: Arc::clone(peer),
            route,
            method: parts.method.clone(),
            target: parts.uri.path_and_query().cloned(),
            host: parts.headers.get(HOST).cloned(),
            accept: parts.headers.get(ACCEPT).cloned(),
            marks: None,
            claim: None,
            began: Instant::now(),
            connect: None,
            sent: None,
            status: None,
            bytes: 0,
            told: false,
        }
    }

    pub(super) fn mark(&mut self, marks: Marks) {
        self.marks = Some(marks);
    }

    pub(super) fn id(&self) -> Option<&HeaderValue> {
        self.marks.as_ref().map(|marks| &marks.id)
    }

    pub(super) fn accept(&self) -> Option<&HeaderValue> {
        self.accept.as_ref()
    }

    /// This backend is tried now; one that was tried before is let go.
    pub(super) fn claimed(&mut self, claim: Claim) {
        self.claim = Some(claim);
    }

    pub(super) fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.claim.as_ref().map(|claim| &claim.upstream)
    }

    /// The request goes out now, over a connection that took this long to make.
    pub(super) fn connected(&mut self, connect: Duration, now: Instant) {
        self.connect = Some(connect);
        self.sent = Some(now);
    }

    /// The connection couldn't be made in this time.
    pub(super) fn unconnected(&mut self, connect: Duration) {
        self.connect = Some(connect);
    }

    /// The app has answered, and the client has it all.
    pub(super) fn done(&mut self) {
        self.tell(None);
    }

    /// The request ended otherwise.
    pub(super) fn fail(&mut self, fault: Fault) {
        self.tell(Some(fault));
    }

    fn tell(&mut self, fault: Option<Fault>) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let text = self.line(fault);
        let line = LogLine::new(self.shared.clock.now(), LogSource::Platform, "router", text);
        self.shared.logs.append(&self.route.app, line);
    }

    fn line(&self, fault: Option<Fault>) -> String {
        let mut text = String::with_capacity(320);
        let status = match fault.map(Fault::facts) {
            None => {
                text.push_str("at=info");
                self.status
            }
            Some(facts) => {
                text.push_str(facts.at);
                if !facts.code.is_empty() {
                    put(&mut text, format_args!(" code={} desc=\"{}\"", facts.code, facts.desc));
                }
                if let Fault::BadRequest(cause) = fault.unwrap_or(Fault::Platform) {
                    put(&mut text, format_args!(" cause=\"{cause}\""));
                }
                Some(facts.status)
            }
        };
        put(&mut text, format_args!(" method={} path=\"", self.method));
        escape(&mut text, self.target.as_ref().map_or("*", PathAndQuery::as_str));
        text.push_str("\" host=");
        escape(&mut text, self.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default());
        text.push_str(" request_id=");
        text.push_str(self.id().and_then(|id| id.to_str().ok()).unwrap_or_default());
        text.push_str(" fwd=\"");
        let forwarded_for = self.marks.as_ref().map_or(&self.peer.address, |marks| &marks.forwarded_for);
        escape(&mut text, forwarded_for.to_str().unwrap_or_default());
        text.push_str("\" dyno=");
        text.push_str(self.upstream().map_or("", |upstream| upstream.backend.instance.as_str()));
        text.push_str(" connect=");
        if let Some(connect) = self.connect {
            put(&mut text, format_args!("{}ms", connect.as_millis()));
        }
        text.push_str(" service=");
        if let Some(sent) = self.sent {
            put(&mut text, format_args!("{}ms", sent.elapsed().as_millis()));
        }
        text.push_str(" status=");
        if let Some(status) = status {
            text.push_str(status.as_str());
        }
        put(&mut text, format_args!(" bytes={} protocol={}", self.bytes, self.peer.scheme));
        text
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Some(self.peer.ending()));
        }
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = text.write_fmt(arguments);
}

/// Quotes can't end a field, nor spaces begin one.
fn escape(text: &mut String, value: &str) {
    if !value.contains(['"', '\\']) {
        text.push_str(value);
        return;
    }
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
}
