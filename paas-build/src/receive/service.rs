//! The HTTP side: git's smart protocol, five kinds of requests.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body;
use paas_core::access::Action;
use paas_core::disk::ensure_room;
use paas_core::{App, AppName, Credentials, Error, ErrorCode, Principal, Result};
use tower::{BoxError, Service};

use super::body::{Incoming, ReceiveBody};
use super::git::Git;
use super::session::Session;
use super::transfer::{self, Program};
use super::{GitReceive, Inner};

impl<B> Service<Request<B>> for GitReceive
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<ReceiveBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, std::result::Result<Response<ReceiveBody>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = self.inner.clone();
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        Box::pin(async move {
            Ok(inner.answer(request).await.unwrap_or_else(|error| {
                if error.code() == ErrorCode::Internal {
                    tracing::error!(error = %error, "a git request failed");
                }
                refusal(&error)
            }))
        })
    }
}

/// What a request asks for.
pub(super) struct Asked {
    pub(super) app: AppName,
    pub(super) program: Program,
    /// Only what there is, which git asks first.
    pub(super) advertise: bool,
}

/// Reads `/APP.git/info/refs?service=…` and `/APP.git/git-…-pack`.
pub(super) fn asked<B>(request: &Request<B>) -> Result<Asked> {
    let nothing = |what: &str| Error::new(ErrorCode::NotFound, what.to_owned());
    let path = request.uri().path().trim_start_matches('/');
    let (name, rest) = path.split_once('/').ok_or_else(|| nothing("the address of an app is /APP.git"))?;
    let (program, advertise) = match rest {
        "info/refs" => match request.uri().query() {
            Some("service=git-receive-pack") => (Program::Receive, true),
            Some("service=git-upload-pack") => (Program::Upload, true),
            _ => return Err(nothing("only git's smart protocol is spoken here; use a newer git")),
        },
        "git-receive-pack" => (Program::Receive, false),
        "git-upload-pack" => (Program::Upload, false),
        _ => return Err(nothing("there is nothing here; the address of an app is /APP.git")),
    };
    let method = if advertise { Method::GET } else { Method::POST };
    if *request.method() != method {
        return Err(Error::new(ErrorCode::InvalidParams, format!("this address takes {method} only")));
    }
    let app = AppName::new(name.strip_suffix(".git").unwrap_or(name))?;
    Ok(Asked { app, program, advertise })
}

/// Who asks, by HTTP's Basic or Bearer.
pub(super) fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    let shown = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, value) = shown.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Credentials::Bearer(value.trim().to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(Credentials::Basic { user: user.to_owned(), password: password.to_owned() })
}

impl Inner {
    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<ReceiveBody>> {
        let asked = asked(&request)?;
        let shown = credentials(request.headers()).ok_or_else(|| {
            Error::new(ErrorCode::Unauthorized, "use any user name, and your token as the password")
        })?;
        let by = self.engine.access().authenticate(&shown).await?;
        let app = self.app(&asked, &by).await?;
        if self.stop.is_cancelled() {
            return Err(Error::new(ErrorCode::Unavailable, "the platform is shutting down; try again later"));
        }
        if asked.advertise {
            self.advertise(&asked, app.as_ref(), protocol(request.headers())?.as_deref()).await
        } else {
            self.transfer(asked, app, by, request).await
        }
    }

    /// The app, if this principal may do this to it; `None` where a push will make it.
    async fn app(&self, asked: &Asked, by: &Principal) -> Result<Option<App>> {
        let access = self.engine.access();
        let app = match self.engine.app(&asked.app).await {
            Ok(app) => Some(app),
            Err(error) if error.code() == ErrorCode::NotFound => None,
            Err(error) => return Err(error),
        };
        let action = match (asked.program, &app) {
            (Program::Upload, _) => Action::Read,
            (Program::Receive, Some(_)) => Action::Deploy,
            (Program::Receive, None) => Action::Create,
        };
        access.authorize(by, action, &asked.app).await?;
        match app {
            Some(app) if app.destroying => {
                Err(Error::new(ErrorCode::Conflict, format!("the app {} is being destroyed", app.name)))
            }
            None if asked.program == Program::Upload => {
                Err(Error::new(ErrorCode::NotFound, format!("there is no app {}", asked.app)))
            }
            app => Ok(app),
        }
    }

    async fn advertise(
        &self,
        asked: &Asked,
        app: Option<&App>,
        protocol: Option<&str>,
    ) -> Result<Response<ReceiveBody>> {
        if asked.program == Program::Receive {
            // git would only say that it can't make a folder.
            ensure_room(self.repos.root(), 1 << 20)?;
        }
        let repo = match app.and_then(|app| self.repos.find(app.id)) {
            Some(repo) => repo,
            None => self.repos.empty().await?,
        };
        let mut command = asked.program.command(self, &repo.path, protocol);
        command.args(["--http-backend-info-refs", "."]);
        let refs = Git::output(command, "list what there is").await?;
        let name = asked.program.name();
        let service = format!("# service={name}\n");
        let mut body = format!("{:04x}{service}0000", service.len() + 4).into_bytes();
        body.extend_from_slice(&refs);
        Ok(answer(&format!("application/x-{name}-advertisement"), ReceiveBody::whole(body)))
    }

    async fn transfer(
        self: &Arc<Self>,
        asked: Asked,
        app: Option<App>,
        by: Principal,
        request: Request<Incoming>,
    ) -> Result<Response<ReceiveBody>> {
        let result = format!("application/x-{}-result", asked.program.name());
        let Sent { probe, gzip, protocol } = sent(request.headers(), asked.program)?;
        if probe {
            return Ok(answer(&result, ReceiveBody::whole(Bytes::new())));
        }
        let place = self.places.take(&by.name, self.options.at_once).ok_or_else(|| {
            let what = format!("{by} has {} pushes under way already: let one end", self.options.at_once);
            Error::new(ErrorCode::LimitExceeded, what)
        })?;
        let (repo, session) = match asked.program {
            Program::Upload => {
                let repo = match app.and_then(|app| self.repos.find(app.id)) {
                    Some(repo) => repo,
                    None => self.repos.empty().await?,
                };
                (repo, None)
            }
            Program::Receive => {
                let is_first = app.is_none();
                let app = match app {
                    Some(app) => app,
                    None => self.create(&asked.app, &by).await?,
                };
                let repo = self.repos.find_or_make(app.id, &app.name).await?;
                let session = Session::new((app.name, app.id), by, repo.clone(), is_first);
                (repo, Some(Arc::new(session)))
            }
        };
        let request = transfer::Request { body: request.into_body(), gzip, protocol, place };
        let body = transfer::start(self, &repo.path, session, request)?;
        Ok(answer(&result, body))
    }

    async fn create(&self, app: &AppName, by: &Principal) -> Result<App> {
        match self.engine.create_app(app, by).await {
            // Another push to it was faster.
            Err(error) if error.code() == ErrorCode::Exists => {
                self.engine.access().authorize(by, Action::Deploy, app).await?;
                // Where it is something else of that name, that is what to say.
                self.engine.app(app).await.map_err(|_| error)
            }
            made => made,
        }
    }
}

/// What the head says of what a client sends to git.
pub(super) struct Sent {
    /// git looks whether it is let in before it sends a lot.
    pub(super) probe: bool,
    pub(super) gzip: bool,
    pub(super) protocol: Option<String>,
}

pub(super) fn sent(headers: &HeaderMap, program: Program) -> Result<Sent> {
    let expected = format!("application/x-{}-request", program.name());
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != expected.as_str()) {
        let what = format!("this address takes {expected} only");
        return Err(Error::new(ErrorCode::InvalidParams, what));
    }
    let encoding = headers.get(header::CONTENT_ENCODING);
    let gzip = encoding.is_some_and(|encoding| encoding == "gzip" || encoding == "x-gzip");
    if encoding.is_some() && !gzip {
        return Err(Error::new(ErrorCode::InvalidParams, "bodies may be encoded by gzip only"));
    }
    let probe = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "4");
    Ok(Sent { probe, gzip, protocol: protocol(headers)? })
}

/// The version of git's protocol that the client asks for, which becomes a variable of git's environment.
pub(super) fn protocol(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = headers.get("git-protocol") else { return Ok(None) };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'=' | b':' | b'.' | b'-' | b'_');
    match value.to_str() {
        Ok(text) if text.len() <= 200 && text.bytes().all(plain) => Ok(Some(text.to_owned())),
        _ => Err(Error::new(ErrorCode::InvalidParams, "the Git-Protocol header can't be read")),
    }
}

pub(super) fn answer(content_type: &str, body: ReceiveBody) -> Response<ReceiveBody> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    if let Ok(value) = content_type.parse() {
        headers.insert(header::CONTENT_TYPE, value);
    }
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache, max-age=0"));
    response
}

/// An error as git shows it: `remote: …`, a line for each line.
pub(super) fn refusal(error: &Error) -> Response<ReceiveBody> {
    let status = match error.code() {
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::InvalidParams | ErrorCode::BadSource => StatusCode::BAD_REQUEST,
        ErrorCode::Conflict | ErrorCode::Exists => StatusCode::CONFLICT,
        ErrorCode::LimitExceeded => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut text = String::new();
    let shown = if status.is_server_error() && error.code() == ErrorCode::Internal {
        "the platform failed; its log says how".to_owned()
    } else {
        error.to_string()
    };
    for line in shown.lines() {
        // Writing to a String can't fail.
        let _ = writeln!(text, " !     {line}");
    }
    let mut response = answer("text/plain; charset=utf-8", ReceiveBody::whole(text));
    *response.status_mut() = status;
    if status == StatusCode::UNAUTHORIZED {
        let ask = header::HeaderValue::from_static("Basic realm=\"paas\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
    }
    response
}
