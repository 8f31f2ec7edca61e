//! An app's settings for its requests, prepared once, and a mark that tells in one look whether there are any.

use std::time::Duration;

use http::HeaderValue;
use paas_core::{AppName, BackendProtocol, RouteSettings};

use super::backend::Upstream;
use super::fault::Fault;
use super::limit::Buckets;

/// How the cookie is called by which a client comes to the same instance again.
pub(super) const COOKIE: &str = "paas-session-affinity";

/// There are settings that every request has to heed.
pub(super) const RULED: u8 = 1;
/// Such that only the long way heeds.
pub(super) const LONG: u8 = 2;
/// Requests without TLS are sent elsewhere.
pub(super) const SECURED: u8 = 4;

/// The settings of one app, as its requests need them.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) settings: RouteSettings,
    /// What `Strict-Transport-Security` says.
    pub(super) hsts: Option<HeaderValue>,
    pub(super) buckets: Option<Buckets>,
}

impl Rules {
    /// `None` for what is as it always is. Buckets stay as they are where their rate does.
    pub(super) fn new(settings: &RouteSettings, before: Option<&Self>) -> Option<Self> {
        if *settings == RouteSettings::default() {
            return None;
        }
        let hsts = settings.hsts.and_then(|hsts| HeaderValue::from_str(&hsts.value()).ok());
        let buckets = settings.client_rate.map(|rate| {
            let known =
                before.and_then(|before| before.buckets.as_ref()).filter(|known| known.rate() == rate);
            known.cloned().unwrap_or_else(|| Buckets::new(rate))
        });
        Some(Self { settings: settings.clone(), hsts, buckets })
    }

    /// What is to be known of them without asking.
    pub(super) fn marks(&self) -> u8 {
        let Self { settings, .. } = self;
        let long =
            settings.affinity || settings.protocol != BackendProtocol::Http1 || !settings.paths.is_empty();
        let ruled = long || self.hsts.is_some() || self.buckets.is_some();
        u8::from(ruled) * RULED + u8::from(long) * LONG + u8::from(settings.https_only) * SECURED
    }

    /// The other app that this path leads to.
    pub(super) fn lead(&self, path: &str) -> Option<&AppName> {
        let there = self.settings.paths.iter().filter(|route| route.matches(path));
        there.max_by_key(|route| route.prefix.len()).map(|route| &route.app)
    }

    /// The page that its owner shows instead of ours.
    pub(super) fn page(&self, fault: Fault) -> Option<&str> {
        let page = match fault {
            Fault::Maintenance => &self.settings.maintenance_page,
            // The app has nothing to do with these.
            Fault::BlankApp | Fault::Misdirected => &None,
            _ if fault.facts().status.is_server_error() => &self.settings.error_page,
            _ => &None,
        };
        page.as_deref()
    }

    /// For how long an instance that has just come gets fewer requests, if it does.
    pub(super) fn slow_start(&self) -> Option<Duration> {
        let seconds = self.settings.slow_start;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }
}

/// What the cookie says of a backend, if the client brings one.
pub(super) fn wanted<'a>(cookies: impl Iterator<Item = &'a HeaderValue>) -> Option<&'a str> {
    let cookies = cookies.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    cookies
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value)
}

/// The cookie that leads to this backend again.
pub(super) fn cookie(upstream: &Upstream, secure: bool) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    HeaderValue::from_str(&format!("{COOKIE}={}; Path=/; HttpOnly; SameSite=Lax{secure}", upstream.token))
        .ok()
}
