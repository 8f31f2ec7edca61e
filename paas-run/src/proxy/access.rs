//! One line in the app's log for each request, in Heroku's format.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use paas_core::{LogLine, LogSource};
use tokio::time::Instant;

use super::Shared;
use super::backend::{Claim, Upstream};
use super::client::Peer;
use super::fault::Fault;
use super::route::Route;

/// A request from its head to its last byte. It holds the claim, so a request is in flight until its line is written.
/// One that is dropped before it is done was abandoned by its client.
#[derive(Debug)]
pub(super) struct Record {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    pub(super) route: Arc<Route>,
    /// The line as far as it is known.
    line: String,
    scheme: &'static str,
    claim: Option<Claim>,
    /// The backend that the client was at before, where it is to come to it again.
    pub(super) wants: Option<Box<str>>,
    pub(super) began: Instant,
    connect: Option<Duration>,
    sent: Option<Instant>,
    pub(super) status: Option<StatusCode>,
    pub(super) bytes: u64,
    told: bool,
}

/// How the line of a request begins that was answered.
const ANSWERED: &str = "at=info";

impl Record {
    pub(super) fn begin(
        shared: &Arc<Shared>,
        peer: &Arc<Peer>,
        route: Arc<Route>,
        method: &str,
        target: &str,
        host: &str,
    ) -> Self {
        let mut line = String::with_capacity(320);
        line.push_str(ANSWERED);
        line.push_str(" method=");
        line.push_str(method);
        line.push_str(" path=\"");
        escape(&mut line, target);
        line.push_str("\" host=");
        escape(&mut line, host);
        line.push_str(" request_id=");
        Self {
            shared: Arc::clone(shared),
            peer: Arc::clone(peer),
            route,
            line,
            scheme: peer.scheme,
            claim: None,
            wants: None,
            began: Instant::now(),
            connect: None,
            sent: None,
            status: None,
            bytes: 0,
            told: false,
        }
    }

    /// It goes on under this id, for these, who came in this way.
    pub(super) fn mark(&mut self, id: &str, forwarded_for: &str, scheme: &'static str) {
        self.scheme = scheme;
        self.line.push_str(id);
        self.line.push_str(" fwd=\"");
        escape(&mut self.line, forwarded_for);
        self.line.push('"');
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

    /// It goes to nobody for now.
    pub(super) fn unclaimed(&mut self) {
        self.claim = None;
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
        let now = Instant::now();
        let status = fault.map(|fault| fault.facts().status).or(self.status);
        self.route.count(status, now - self.began, self.bytes);
        let text = self.line(fault, now);
        let line = LogLine::new(self.shared.clock.now(), LogSource::Platform, "router", text);
        self.shared.logs.append(&self.route.app, line);
    }

    /// The whole line. It can be made once.
    fn line(&mut self, fault: Option<Fault>, now: Instant) -> String {
        let mut line = std::mem::take(&mut self.line);
        if line.ends_with('=') {
            // It was never marked.
            line.push_str(" fwd=\"");
            escape(&mut line, self.peer.address.to_str().unwrap_or_default());
            line.push('"');
        }
        let status = match fault {
            None => self.status,
            Some(fault) => {
                let facts = fault.facts();
                line.replace_range(..ANSWERED.len(), &facts.as_said(fault));
                Some(facts.status)
            }
        };
        line.push_str(" dyno=");
        line.push_str(self.upstream().map_or("", |upstream| upstream.backend.instance.as_str()));
        line.push_str(" connect=");
        if let Some(connect) = self.connect {
            put(&mut line, format_args!("{}ms", connect.as_millis()));
        }
        line.push_str(" service=");
        if let Some(sent) = self.sent {
            put(&mut line, format_args!("{}ms", (now - sent).as_millis()));
        }
        line.push_str(" status=");
        if let Some(status) = status {
            line.push_str(status.as_str());
        }
        put(&mut line, format_args!(" bytes={} protocol={}", self.bytes, self.scheme));
        line
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
