//! A build's session: the connection on which BuildKit asks for the files of the context, for a secret when a step mounts
//! it, and for a registry's password when a base image needs it. The latter two are never part of the build's request, of
//! a layer or of the history.
//!
//! ```text
//! POST /session, Upgrade: h2c  ->  the daemon is the client now: gRPC over HTTP/2, a call a request
//! ```

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, server};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use paas_core::{AppId, ConfigVars, Result};
use paas_docker::{Docker, nothing};
use tokio_util::task::AbortOnDropHandle;

use super::context::BuildContext;
use super::daemon::DOING;
use super::sending;
use super::wire::{Value, fields, put};
use crate::docker::registries::Registries;

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
/// A request of these calls is a name; a longer one is none, in bytes.
const REQUEST: usize = 64 * 1024;

/// The daemon asks for each file in a frame of its own, for thousands at once. That may take so much memory, in bytes.
const ASKING: usize = 16 << 20;

/// Where gRPC has an error's text.
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// gRPC's codes.
const NOT_FOUND: &str = "5";
const INVALID: &str = "3";
const UNIMPLEMENTED: &str = "12";
const INTERNAL: &str = "13";

/// What a build may ask for.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) context: Arc<BuildContext>,
    /// By the names that `RUN --mount=type=secret,id=NAME` gives.
    pub(super) secrets: ConfigVars,
    pub(super) registries: Registries,
}

/// An open session; dropping it closes it.
#[derive(Debug)]
pub(super) struct Session {
    id: String,
    _serving: AbortOnDropHandle<()>,
}

impl Session {
    pub(super) async fn open(docker: &Docker, app: AppId, offer: Offer) -> Result<Self> {
        let (id, app) = (uuid::Uuid::new_v4().to_string(), app.to_string());
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "h2c"),
            ("x-docker-expose-session-uuid", id.as_str()),
            ("x-docker-expose-session-name", "paas"),
            // One copy of its files is kept for each app, and no other's is touched.
            ("x-docker-expose-session-sharedkey", app.as_str()),
            ("x-docker-expose-session-grpc-method", sending::METHOD),
            ("x-docker-expose-session-grpc-method", SECRET),
            ("x-docker-expose-session-grpc-method", CREDENTIALS),
        ];
        let (io, connection) =
            docker.ask(DOING, "/session", &headers, nothing()).await?.upgraded(DOING).await?;
        let serving = tokio::spawn(async move {
            let _connection = connection;
            // The daemon closes it when the build has ended.
            if let Err(e) = serve(io, &offer).await {
                tracing::debug!(error = %e, "a build's session ended");
            }
        });
        Ok(Self { id, _serving: AbortOnDropHandle::new(serving) })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

async fn serve<T>(io: T, offer: &Offer) -> std::result::Result<(), h2::Error>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut calls = server::Builder::new().data_frame_budget(ASKING).handshake(io).await?;
    let mut answering = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            call = calls.accept() => {
                let Some(call) = call else { return Ok(()) };
                let (request, respond) = call?;
                let offer = offer.clone();
                answering.spawn(async move {
                    // A call that breaks off is the daemon's to make again.
                    if let Err(e) = answer(request, respond, &offer).await {
                        tracing::debug!(error = %e, "a call of a build's session broke off");
                    }
                });
            }
            Some(_) = answering.join_next() => {}
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    offer: &Offer,
) -> std::result::Result<(), h2::Error> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(response, false)?;
    let mut trailers = HeaderMap::new();
    let status = if head.uri.path() == sending::METHOD {
        match sending::send(&head.headers, body, &mut stream, Arc::clone(&offer.context)).await {
            Ok(()) => "0",
            Err(e) => {
                tracing::debug!(error = %e, "a build's files can't be sent");
                trailers.extend(printable(&e.to_string()).map(|text| (MESSAGE, text)));
                INTERNAL
            }
        }
    } else {
        match reply(head.uri.path(), &whole(body).await?, offer) {
            Ok(message) => {
                let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
                let framed = [&[0][..], &length.to_be_bytes()[..], message.as_slice()].concat();
                stream.send_data(framed.into(), false)?;
                "0"
            }
            Err(code) => code,
        }
    };
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    stream.send_trailers(trailers)
}

/// A request that is one message.
async fn whole(mut body: RecvStream) -> std::result::Result<BytesMut, h2::Error> {
    let mut asked = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part?;
        body.flow_control().release_capacity(part.len())?;
        if asked.len() + part.len() <= REQUEST {
            asked.extend_from_slice(&part);
        }
    }
    Ok(asked)
}

/// An error's text as gRPC takes it.
fn printable(text: &str) -> Option<HeaderValue> {
    let plain = |c: char| if c == ' ' || (c.is_ascii_graphic() && c != '%') { c } else { '?' };
    HeaderValue::from_str(&text.chars().map(plain).collect::<String>()).ok()
}

/// What is answered to a call: a message, or an error's code.
fn reply(method: &str, framed: &[u8], offer: &Offer) -> std::result::Result<Vec<u8>, &'static str> {
    // One byte says that it isn't compressed, four how long it is.
    let mut framed = framed;
    if framed.len() < 5 || framed.get_u8() != 0 || framed.get_u32() as usize != framed.len() {
        return Err(INVALID);
    }
    let named = fields(framed).find(|(field, _)| *field == 1).map(|(_, name): (u64, Value<'_>)| name.text());
    let named = named.unwrap_or_default();
    let mut message = Vec::new();
    match method {
        HEALTH => message.extend_from_slice(&[1 << 3, 1]),
        SECRET => put(&mut message, 1, offer.secrets.get(&named).ok_or(NOT_FOUND)?.expose().as_bytes()),
        CREDENTIALS => {
            // None is an answer, too: the registry is asked as anybody may.
            if let Some(login) = offer.registries.get(&named) {
                put(&mut message, 1, login.user().as_bytes());
                put(&mut message, 2, login.password().expose().as_bytes());
            }
        }
        _ => return Err(UNIMPLEMENTED),
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Arc<BuildContext> {
        let at = chrono::DateTime::UNIX_EPOCH;
        Arc::new(BuildContext::of(std::path::Path::new("/nowhere"), "Dockerfile", at).unwrap())
    }

    fn framed(name: &str) -> Vec<u8> {
        let mut message = Vec::new();
        put(&mut message, 1, name.as_bytes());
        [&[0, 0, 0, 0][..], &[u8::try_from(message.len()).unwrap()], &message].concat()
    }

    #[test]
    fn a_step_gets_the_secret_that_it_names_and_no_other() {
        let secrets = ConfigVars::new().with("TOKEN", "hunter2").unwrap().with("OTHER", "x").unwrap();
        let offer = Offer { context: empty(), secrets, registries: Registries::new() };
        assert_eq!(reply(SECRET, &framed("TOKEN"), &offer).unwrap(), b"\x0a\x07hunter2");
        assert_eq!(reply(SECRET, &framed("token"), &offer), Err(NOT_FOUND));
        assert_eq!(reply(SECRET, b"\0\0\0\0\x09", &offer), Err(INVALID));
        assert_eq!(reply("/moby.filesync.v1.FileSync/TarStream", &framed("x"), &offer), Err(UNIMPLEMENTED));
    }

    #[test]
    fn a_password_goes_to_its_registry_only() {
        let password = paas_core::ConfigValue::new("geheim").unwrap();
        let registries = Registries::new().login("registry.example.com:5000", "ci", password);
        let offer = Offer { context: empty(), secrets: ConfigVars::new(), registries };
        let login = reply(CREDENTIALS, &framed("registry.example.com:5000"), &offer).unwrap();
        assert_eq!(login, b"\x0a\x02ci\x12\x06geheim");
        assert_eq!(reply(CREDENTIALS, &framed("registry.example.com"), &offer).unwrap(), b"");
    }
}
