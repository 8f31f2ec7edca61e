//! What an object store's refusals mean, said so that somebody can act on them.

use std::error::Error as _;
use std::fmt;

use object_store::path::Path;

use crate::{Error, ErrorCode, Retry};

/// Where content is, for paths and messages.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) endpoint: String,
    pub(super) bucket: String,
    pub(super) prefix: Path,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bucket {} at {}", self.bucket, self.endpoint)?;
        if self.prefix.as_ref().is_empty() { Ok(()) } else { write!(f, " below {}", self.prefix) }
    }
}

impl Place {
    pub(super) fn at<const N: usize>(&self, parts: [&str; N]) -> Path {
        parts.into_iter().fold(self.prefix.clone(), Path::join)
    }

    /// Only the code of what the server said gets into the message: its text names access keys and what was signed.
    #[allow(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
    pub(super) fn failed(&self, doing: &str, error: object_store::Error) -> Error {
        let chain = texts(&error);
        let said = chain.iter().find_map(|text| between(text, "<Code>", "</Code>")).map(ToOwned::to_owned);
        let (code, why) = match (said.as_deref(), &error) {
            (Some("NoSuchBucket"), _) => {
                (ErrorCode::NotFound, "there is no such bucket: create it, or correct its name or the region")
            }
            (
                Some(
                    "InvalidAccessKeyId"
                    | "SignatureDoesNotMatch"
                    | "InvalidToken"
                    | "ExpiredToken"
                    | "NotSignedUp",
                ),
                _,
            )
            | (_, object_store::Error::Unauthenticated { .. }) => (
                ErrorCode::Unauthorized,
                "the server doesn't take the credentials: correct the access key and its secret",
            ),
            (Some("RequestTimeTooSkewed"), _) => {
                (ErrorCode::Unauthorized, "this machine's clock is too far from the server's: correct it")
            }
            (Some("AccessDenied" | "AllAccessDisabled"), _)
            | (_, object_store::Error::PermissionDenied { .. }) => (
                ErrorCode::Forbidden,
                "the credentials don't allow it: they need to list, read, write and delete there",
            ),
            (Some("PermanentRedirect" | "AuthorizationHeaderMalformed"), _) => (
                ErrorCode::InvalidParams,
                "the bucket is in another region: correct the region or the endpoint",
            ),
            (Some("QuotaExceeded" | "XMinioStorageFull"), _) => {
                (ErrorCode::DiskFull, "the object store is full")
            }
            (_, object_store::Error::NotFound { .. }) => {
                (ErrorCode::NotFound, "it isn't there: somebody removed it by another way than ours")
            }
            (None, object_store::Error::Generic { .. }) => {
                (ErrorCode::Unavailable, "nobody answers there as an object store does")
            }
            _ => (ErrorCode::Unavailable, "the object store failed"),
        };
        let mut message = format!("can't {doing} {self}: {why}");
        // What the connection met, such as a refusal; of what a server said, only the code.
        let cause = said.or_else(|| connection(&error));
        if let Some(cause) = cause {
            message = format!("{message} ({cause})");
        }
        let error = Error::new(code, message);
        if code == ErrorCode::Unavailable { error.with_retry(Retry::Backoff) } else { error }
    }
}

fn texts(error: &object_store::Error) -> Vec<String> {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts
}

/// The innermost cause, where it is one of ours: no server's text.
fn connection(error: &object_store::Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<object_store::client::HttpError>() {
            let mut inner = error;
            while let Some(deeper) = inner.source() {
                inner = deeper;
            }
            return Some(inner.to_string());
        }
        cause = error.source();
    }
    None
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    let (inner, _) = rest.split_once(to)?;
    // A code is one word.
    inner.bytes().all(|byte| byte.is_ascii_alphanumeric()).then_some(inner)
}
