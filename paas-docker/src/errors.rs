//! The client's errors in the platform's words.

use std::io;

use bollard::errors::Error as Client;
use paas_core::{Error, ErrorCode, Retry};

/// What the daemon's answer means, said of what was being done: `can't start a container`.
///
/// ```
/// use paas_core::ErrorCode;
/// use paas_docker::bollard::errors::Error as Client;
///
/// let answer = Client::DockerResponseServerError { status_code: 404, message: "No such image: x".into() };
/// let error = paas_docker::failed("can't start a container", answer);
/// assert_eq!(error.code(), ErrorCode::NotFound);
/// assert_eq!(error.to_string(), "can't start a container: Docker says: No such image: x");
/// ```
pub fn failed(doing: impl AsRef<str>, error: Client) -> Error {
    let doing = doing.as_ref();
    let passing = |code, text: String| Error::new(code, text).with_retry(Retry::Backoff);
    match error {
        Client::DockerResponseServerError { status_code, message } => answered(doing, status_code, &message),
        Client::DockerStreamError { error } => answered(doing, 500, &error),
        Client::RequestTimeoutError => {
            let text = format!("{doing}: Docker gave no answer in time; it is looked at again");
            passing(ErrorCode::Unavailable, text)
        }
        Client::SocketNotFoundError(path) => {
            let text =
                format!("{doing}: there is no socket {path}; is Docker running? `systemctl start docker`");
            passing(ErrorCode::Unavailable, text)
        }
        other if is_cut_off(&other) => {
            let text = format!("{doing}: Docker doesn't answer; is it running?");
            passing(ErrorCode::Unavailable, text).with_source(other)
        }
        other => Error::new(ErrorCode::Internal, doing).with_source(other),
    }
}

/// What an answer of the daemon means. It has few statuses, so the text decides where it must.
fn answered(doing: &str, status: u16, message: &str) -> Error {
    let message = message.trim();
    let text = format!("{doing}: Docker says: {message}");
    let lower = message.to_ascii_lowercase();
    let says = |what: &str| lower.contains(what);
    let (code, retry) = match status {
        _ if says("no space left on device") || says("disk quota exceeded") => {
            (ErrorCode::DiskFull, Retry::Backoff)
        }
        404 => (ErrorCode::NotFound, Retry::Never),
        409 if says("already in use") => (ErrorCode::Exists, Retry::Never),
        401 | 403 if says("unauthorized") || says("denied") => (ErrorCode::Unauthorized, Retry::Never),
        400 => (ErrorCode::InvalidParams, Retry::Never),
        // Docker forbids what somebody else's doing stands against: a network that is in use.
        403 | 409 => (ErrorCode::Conflict, Retry::Backoff),
        501 => (ErrorCode::Unsupported, Retry::Never),
        _ if says("shutting down") || says("context canceled") || says("connection refused") => {
            (ErrorCode::Unavailable, Retry::Backoff)
        }
        // A registry that answers so is not the daemon's fault.
        _ if says("unauthorized") || says("access denied") || says("no basic auth credentials") => {
            (ErrorCode::Unauthorized, Retry::Never)
        }
        _ if says("no such image") || says("manifest unknown") => (ErrorCode::NotFound, Retry::Never),
        _ => (ErrorCode::Internal, Retry::Backoff),
    };
    Error::new(code, text).with_retry(retry)
}

/// Whether nobody spoke at the other end, or stopped in the middle.
fn is_cut_off(error: &Client) -> bool {
    match error {
        Client::HyperLegacyError { .. } | Client::HyperResponseError { .. } => true,
        Client::IOError { err } => matches!(
            err.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotFound
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::TimedOut
                // What the client makes of an answer that stops in the middle.
                | io::ErrorKind::Other
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status_code: u16, message: &str) -> Error {
        failed("can't do it", Client::DockerResponseServerError { status_code, message: message.into() })
    }

    #[test]
    fn each_answer_has_the_code_that_says_what_to_do() {
        for (status, message, code, again) in [
            (404, "No such container: x", ErrorCode::NotFound, false),
            (409, "Conflict. The container name \"/x\" is already in use by …", ErrorCode::Exists, false),
            (409, "removal of container x is already in progress", ErrorCode::Conflict, true),
            (500, "write /data: no space left on device", ErrorCode::DiskFull, true),
            (500, "something odd", ErrorCode::Internal, true),
            (400, "invalid reference format", ErrorCode::InvalidParams, false),
            (403, "network x has active endpoints", ErrorCode::Conflict, true),
            (500, "unauthorized: authentication required", ErrorCode::Unauthorized, false),
            (
                500,
                "Head \"http://x/v2/y/manifests/1\": no basic auth credentials",
                ErrorCode::Unauthorized,
                false,
            ),
            (503, "daemon is shutting down", ErrorCode::Unavailable, true),
        ] {
            let error = answer(status, message);
            assert_eq!((error.code(), error.retry() != Retry::Never), (code, again), "{status} {message}");
            assert!(error.to_string().contains(message), "{error}");
        }
    }

    #[test]
    fn a_daemon_that_goes_away_is_worth_another_try() {
        for kind in
            [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset, io::ErrorKind::NotFound]
        {
            let error = failed("can't do it", Client::IOError { err: kind.into() });
            assert_eq!((error.code(), error.retry()), (ErrorCode::Unavailable, Retry::Backoff), "{kind}");
        }
        let late = failed("can't do it", Client::RequestTimeoutError);
        assert_eq!(late.code(), ErrorCode::Unavailable);
    }
}
