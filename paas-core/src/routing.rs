//! How requests are brought to an app, beside where its instances are.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{AppName, Error, ErrorCode, Result};

/// How requests are brought to an app. The default is what a plain app wants, and costs nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RouteSettings {
    /// Requests that come without TLS are sent to `https://`.
    pub https_only: bool,
    /// Browsers are told over TLS to come by nothing else (RFC 6797).
    pub hsts: Option<Hsts>,
    /// A client that has been at an instance comes to it again, as long as it is there: by a cookie.
    pub affinity: bool,
    /// Which instance gets a request.
    pub balance: Balance,
    /// What instances speak.
    pub protocol: BackendProtocol,
    /// For so many seconds an instance that has just come gets fewer requests than the others, ever more of them.
    pub slow_start: u32,
    /// How many requests instances get at a time; without a limit where `None`.
    pub concurrency: Option<Concurrency>,
    /// How many requests one client may send; without a limit where `None`.
    pub client_rate: Option<Rate>,
    /// Paths of this app's hosts that lead to other apps; the longest prefix counts.
    pub paths: Vec<PathRoute>,
    /// What people see instead of the router's own page when the app doesn't answer: the URL of a page that is shown in a
    /// frame. Heroku's `ERROR_PAGE_URL`; a config var of that name goes before.
    pub error_page: Option<String>,
    /// The same for maintenance mode: `MAINTENANCE_PAGE_URL`.
    pub maintenance_page: Option<String>,
}

/// What `Strict-Transport-Security` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Hsts {
    /// For how many seconds browsers remember it.
    pub max_age: u32,
    /// For all names below the host, too.
    #[serde(default)]
    pub include_subdomains: bool,
    /// Browsers may know it before they come.
    #[serde(default)]
    pub preload: bool,
}

impl Hsts {
    /// For so long, for this host alone.
    pub fn new(max_age: Duration) -> Self {
        let max_age = u32::try_from(max_age.as_secs()).unwrap_or(u32::MAX);
        Self { max_age, include_subdomains: false, preload: false }
    }

    /// The header's value.
    pub fn value(&self) -> String {
        let mut value = format!("max-age={}", self.max_age);
        for (says, word) in [(self.include_subdomains, "; includeSubDomains"), (self.preload, "; preload")] {
            if says {
                value.push_str(word);
            }
        }
        value
    }
}

/// Which instance gets a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Balance {
    /// The less busy of two: nearly as even as the least busy of all, and never a herd on one that is new.
    #[default]
    TwoChoices,
    /// Any, as Heroku's router does it.
    Random,
    /// The one with the fewest requests in flight.
    LeastConnections,
}

/// What instances speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BackendProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge (RFC 9113 section 3.3): what gRPC servers speak.
    H2c,
}

/// How many requests instances get at a time, and how many wait for their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Concurrency {
    /// At most so many at a time for each instance.
    pub per_instance: u32,
    /// At most so many of the app wait at each proxy; those beyond are refused (H11).
    pub queue: u32,
}

impl Concurrency {
    /// So many for each instance, and so many that wait.
    pub fn new(per_instance: u32, queue: u32) -> Self {
        Self { per_instance, queue }
    }
}

/// How many in how much time: a bucket of `burst` that fills at `per_second`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rate {
    /// So many in each second on average.
    pub per_second: u32,
    /// So many at once.
    pub burst: u32,
}

impl Rate {
    /// So many in each second, and as many at once.
    pub fn per_second(per_second: u32) -> Self {
        Self { per_second, burst: per_second }
    }

    /// So many at once.
    #[must_use]
    pub fn burst(mut self, burst: u32) -> Self {
        self.burst = burst;
        self
    }
}

/// A path that leads to another app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PathRoute {
    /// `/api` is for `/api`, `/api/…` and `/api?…`, and not for `/apiary`. The app sees the whole path.
    pub prefix: String,
    /// The app.
    pub app: AppName,
}

impl PathRoute {
    /// Requests for this path and all below go to this app.
    pub fn new(prefix: impl Into<String>, app: AppName) -> Self {
        Self { prefix: prefix.into(), app }
    }

    /// Whether it leads there.
    pub fn matches(&self, path: &str) -> bool {
        let prefix = self.prefix.trim_end_matches('/');
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
    }
}

impl RouteSettings {
    /// Whether they can be carried out.
    ///
    /// # Errors
    /// `invalid_params`, which says what can't.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::new(ErrorCode::InvalidParams, what));
        for PathRoute { prefix, .. } in &self.paths {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
            if !prefix.starts_with('/')
                || !prefix.bytes().all(plain)
                || prefix.split('/').any(|part| part == "..")
            {
                return wrong(format!(
                    "the path {prefix:?} must begin with / and be of letters, digits, - . _ and ~"
                ));
            }
        }
        for page in [&self.error_page, &self.maintenance_page].into_iter().flatten() {
            if !is_page(page) {
                return wrong(
                    "a page's URL must begin with https:// or http:// and be of plain characters".to_owned(),
                );
            }
        }
        if self.concurrency.is_some_and(|limit| limit.per_instance == 0) {
            return wrong("an app whose instances get no request at a time would never answer".to_owned());
        }
        if self.client_rate.is_some_and(|rate| rate.per_second == 0 || rate.burst == 0) {
            return wrong("a client that may send no request would never be answered".to_owned());
        }
        Ok(())
    }
}

/// Whether this is a URL that can stand in a page as it is.
pub(crate) fn is_page(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$*+,;=%&".contains(&byte);
    url.len() <= 2000 && rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_of_whole_parts_of_a_path() {
        let route = |prefix: &str| PathRoute::new(prefix, "api".parse().unwrap());
        for (prefix, path, leads) in [
            ("/api", "/api", true),
            ("/api", "/api/users?x=1", true),
            ("/api", "/api?x=1", true),
            ("/api/", "/api/users", true),
            ("/api", "/apiary", false),
            ("/api", "/", false),
            ("/", "/anything", true),
        ] {
            assert_eq!(route(prefix).matches(path), leads, "{prefix} {path}");
        }
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused() {
        let app: AppName = "api".parse().unwrap();
        let with = |change: &dyn Fn(&mut RouteSettings)| {
            let mut settings = RouteSettings::default();
            change(&mut settings);
            settings.check()
        };
        assert!(with(&|_| {}).is_ok());
        assert!(with(&|settings| settings.paths = vec![PathRoute::new("/api", app.clone())]).is_ok());
        assert!(with(&|settings| settings.error_page = Some("https://example.com/x?a=b&c=d".into())).is_ok());
        for prefix in ["api", "", "/a b", "/../etc", "/a\"b"] {
            assert!(
                with(&|settings| settings.paths = vec![PathRoute::new(prefix, app.clone())]).is_err(),
                "{prefix}"
            );
        }
        for page in ["ftp://x", "javascript:alert(1)", "https://", "https://x/\"onload", "https://x/<b>"] {
            assert!(with(&|settings| settings.error_page = Some(page.into())).is_err(), "{page}");
        }
        assert!(with(&|settings| settings.concurrency = Some(Concurrency::new(0, 5))).is_err());
        assert!(with(&|settings| settings.client_rate = Some(Rate::per_second(0))).is_err());
    }

    #[test]
    fn browsers_are_told_what_was_said() {
        let mut hsts = Hsts::new(Duration::from_secs(31_536_000));
        assert_eq!(hsts.value(), "max-age=31536000");
        (hsts.include_subdomains, hsts.preload) = (true, true);
        assert_eq!(hsts.value(), "max-age=31536000; includeSubDomains; preload");
    }
}
