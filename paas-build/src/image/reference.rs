//! How an image is named.

use std::fmt;
use std::str::FromStr;

use paas_core::{Digest, Error, ErrorCode};

/// An image's name in a registry: `ghcr.io/acme/shop:1.4`, `nginx` (Docker Hub's), `localhost:5000/shop@sha256:…`.
///
/// ```
/// use paas_build::ImageReference;
///
/// let image: ImageReference = "nginx".parse()?;
/// assert_eq!(image.to_string(), "docker.io/library/nginx:latest");
/// assert_eq!(image.registry(), "docker.io");
/// let error = "ghcr.io/Acme/shop".parse::<ImageReference>().unwrap_err();
/// assert!(error.to_string().contains("ghcr.io/acme/shop:1.4"));
/// # Ok::<(), paas_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageReference {
    registry: String,
    path: String,
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Version {
    /// May mean another image tomorrow.
    Tag(String),
    Digest(Digest),
}

const HUB: &str = "docker.io";

impl ImageReference {
    /// The registry's host, with its port where it has one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The same repository at this digest.
    #[must_use]
    pub fn at(mut self, digest: Digest) -> Self {
        self.version = Version::Digest(digest);
        self
    }

    /// Whether it can never mean another image.
    pub fn is_pinned(&self) -> bool {
        matches!(self.version, Version::Digest(_))
    }
}

impl FromStr for ImageReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            let shown: String = text.chars().take(200).collect();
            let message = format!(
                "{shown:?} names no image; write it as ghcr.io/acme/shop:1.4, with small letters, or with @sha256:… and 64 \
                 hexadecimal digits"
            );
            Error::new(ErrorCode::BadSource, message)
        };
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        // A colon in the last part is a tag's, one in the first a port's.
        let last = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name[last..].split_once(':') {
            Some((part, tag)) => (&name[..last + part.len()], Some(tag)),
            None => (name, None),
        };
        // As Docker tells a registry from the beginning of a path.
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path.to_owned()),
            Some(_) => (HUB, name.to_owned()),
            None => (HUB, format!("library/{name}")),
        };
        let is_tag = |tag: &str| {
            tag.len() <= 128
                && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
                && tag.bytes().next().is_some_and(|b| b != b'.' && b != b'-')
        };
        let is_host = |host: &str| {
            let (name, port) = host.split_once(':').unwrap_or((host, "0"));
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            name.split('.').all(|part| !part.is_empty() && part.bytes().all(inner))
                && port.parse::<u16>().is_ok()
        };
        let is_part = |part: &str| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
            let (first, last) = (part.bytes().next(), part.bytes().next_back());
            first.is_some_and(inner)
                && last.is_some_and(inner)
                && part.bytes().all(|b| inner(b) || b"._-".contains(&b))
        };
        let fine =
            path.len() <= 255 && path.split('/').all(is_part) && is_host(registry) && tag.is_none_or(is_tag);
        if !fine {
            return Err(wrong());
        }
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest),
            (None, tag) => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), path, version })
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, path, version } = self;
        match version {
            Version::Tag(tag) => write!(f, "{registry}/{path}:{tag}"),
            Version::Digest(digest) => write!(f, "{registry}/{path}@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let hex = "ab".repeat(32);
        for (text, whole) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("acme/shop:1.4", "docker.io/acme/shop:1.4".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("127.0.0.1:5000/a/b:c", "127.0.0.1:5000/a/b:c".to_owned()),
            (&format!("ghcr.io/a:1@sha256:{hex}"), format!("ghcr.io/a@sha256:{hex}")),
        ] {
            assert_eq!(text.parse::<ImageReference>().unwrap().to_string(), whole);
        }
        let upper = "A/b";
        for bad in [
            "",
            "/",
            upper,
            "a b",
            "a:",
            "a:-x",
            "a@sha256:12",
            "a//b",
            "host:x/y",
            "../x",
            "a?b=c",
            "a/b%2f",
        ] {
            assert_eq!(bad.parse::<ImageReference>().unwrap_err().code(), ErrorCode::BadSource, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_shown_is_read_again(text in "[a-zA-Z0-9.:/@_-]{0,40}|\\PC{0,20}") {
            if let Ok(image) = text.parse::<ImageReference>() {
                prop_assert_eq!(image.to_string().parse::<ImageReference>().unwrap(), image);
            }
        }
    }
}
