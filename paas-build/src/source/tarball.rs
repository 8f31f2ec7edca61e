//! The `tarball` source: an archive of code, as a file of this machine, a stream of bytes or an http(s) URL.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, Write};
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use http::Uri;
use paas_core::archive::{self, Limits};
use paas_core::{
    Blobs, Cancel, Context, Error, ErrorCode, ProviderName, Result, Retry, Revision, Source, SourceRef,
    blocking,
};
use tokio::io::{AsyncRead, AsyncReadExt};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use super::address::is_public;
use super::bad;

/// Unpacks a `.tar`, `.tar.gz` or `.tar.zst`.
///
/// The location is an absolute path or an http(s) URL. A single folder at the top, as code hosts put it into
/// their archives, is taken off. A URL leads to public addresses only, whatever its host name resolves to and
/// wherever it is redirected, unless [`allow_private`](Self::allow_private) says otherwise.
#[derive(Debug, Clone)]
pub struct TarballSource {
    within: Option<PathBuf>,
    limits: Limits,
    timeout: Duration,
    private: bool,
}

impl Default for TarballSource {
    fn default() -> Self {
        Self { within: None, limits: Limits::default(), timeout: Duration::from_secs(600), private: false }
    }
}

impl TarballSource {
    /// Up to [`Limits::default`]; a download may take ten minutes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only files in this folder; URLs are not concerned.
    #[must_use]
    pub fn within(mut self, folder: impl Into<PathBuf>) -> Self {
        self.within = Some(folder.into());
        self
    }

    /// With these limits; an archive may have no more bytes than its content.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// A download may take this long.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// URLs may lead to loopback, link-local and private addresses too: where all users are trusted.
    #[must_use]
    pub fn allow_private(mut self) -> Self {
        self.private = true;
        self
    }

    /// Takes an archive that arrives as bytes, such as an upload: checks it, keeps its tree and gives the
    /// reference to deploy.
    ///
    /// # Errors
    /// As [`Source::fetch`].
    pub async fn take(&self, blobs: &dyn Blobs, mut bytes: impl AsyncRead + Unpin) -> Result<SourceRef> {
        let failed = |e| Error::from_io("can't receive the archive", e);
        let temp = tempfile::tempdir().map_err(failed)?;
        let received = temp.path().join("received");
        let mut file = tokio::fs::File::create(&received).await.map_err(failed)?;
        let limit = self.limits.bytes;
        let size = tokio::io::copy(&mut (&mut bytes).take(limit.saturating_add(1)), &mut file).await;
        if size.map_err(failed)? > limit {
            return Err(too_large(limit));
        }
        tokio::io::AsyncWriteExt::flush(&mut file).await.map_err(failed)?;
        let (limits, dir) = (self.limits, temp.path().to_owned());
        let packed = blocking(move || {
            let tree = dir.join("tree");
            fs::create_dir(&tree).map_err(failed)?;
            unpack(File::open(&received).map_err(failed)?, &tree, limits, &Cancel::new())?;
            archive::pack(&tree, &dir.join("packed"), &|_, _| true)
        })
        .await?;
        blobs.put(packed.digest, &temp.path().join("packed")).await?;
        Ok(SourceRef::archived(packed.digest, Revision::default()))
    }

    fn open(&self, location: &str, cancel: &Cancel) -> Result<File> {
        if location.starts_with("http://") || location.starts_with("https://") {
            return self.download(location, cancel);
        }
        if location.contains("://") {
            return Err(bad(format!("{location} is neither an http(s) URL nor a file's path")));
        }
        let missing = |e: io::Error| bad(format!("can't read the archive {location}")).with_source(e);
        let path = Path::new(location);
        if !path.is_absolute() {
            return Err(bad(format!("{location:?} is not an absolute path of a file")));
        }
        let path = path.canonicalize().map_err(missing)?;
        if let Some(within) = &self.within
            && !path.starts_with(within.canonicalize().map_err(missing)?)
        {
            return Err(bad(format!("{location} is not in {}, where archives may lie", within.display())));
        }
        if !path.is_file() {
            return Err(bad(format!("{location} is not a file")));
        }
        File::open(path).map_err(missing)
    }

    /// Downloads into a file without a name.
    fn download(&self, location: &str, cancel: &Cancel) -> Result<File> {
        let url: Uri = location.parse().map_err(|e| bad(format!("{location} is not a URL: {e}")))?;
        if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(bad(
                "a URL with a password in it would show the password to everybody; use one without",
            ));
        }
        let config = ureq::Agent::config_builder()
            .proxy(None) // a proxy would resolve names by itself
            .max_redirects(5)
            .timeout_global(Some(self.timeout))
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .user_agent(concat!("paas/", env!("CARGO_PKG_VERSION")))
            .build();
        let resolver = Guard { private: self.private };
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), resolver);
        let mut answer = agent.get(&url).call().map_err(|e| refusal(&url, e))?;
        let failed = |e| Error::from_io("can't keep the downloaded archive", e);
        let mut file = tempfile::tempfile().map_err(failed)?;
        let mut body = answer.body_mut().as_reader();
        let (mut buffer, mut size) = (vec![0; 64 * 1024], 0_u64);
        loop {
            cancel.check()?;
            let read = body.read(&mut buffer).map_err(|e| refusal(&url, ureq::Error::Io(e)))?;
            if read == 0 {
                break;
            }
            size += read as u64;
            if size > self.limits.bytes {
                return Err(too_large(self.limits.bytes));
            }
            file.write_all(&buffer[..read]).map_err(failed)?;
        }
        file.rewind().map_err(failed)?;
        Ok(file)
    }
}

#[async_trait]
impl Source for TarballSource {
    fn name(&self) -> ProviderName {
        ProviderName::new("tarball").expect("a constant")
    }

    async fn fetch(&self, ctx: &Context, source: &SourceRef, into: &Path) -> Result<Revision> {
        let (this, location, cancel) = (self.clone(), source.location.clone(), ctx.cancel.clone());
        // A server that is silent holds the thread until the timeout, but not the caller.
        let opened = ctx.cancel.guard(blocking(move || this.open(&location, &cancel))).await??;
        let (into, limits, cancel) = (into.to_owned(), self.limits, ctx.cancel.clone());
        blocking(move || unpack(opened, &into, limits, &cancel)).await?;
        Ok(source.revision.clone())
    }
}

/// Unpacks an archive of any known kind into an empty folder.
pub(crate) fn unpack(file: File, into: &Path, limits: Limits, cancel: &Cancel) -> Result<()> {
    let unreadable = |e: io::Error| bad("the archive can't be read").with_source(e);
    let mut stream = BufReader::new(Cancellable { inner: file, cancel });
    let start = io::BufRead::fill_buf(&mut stream).map_err(unreadable)?;
    let unpacked = match start {
        [0x1f, 0x8b, ..] => archive::unpack_tar(flate2::bufread::MultiGzDecoder::new(stream), into, limits),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => archive::unpack(stream, into, limits),
        [b'P', b'K', 3, 4, ..] => return Err(unknown("a zip archive")),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(unknown("compressed by xz")),
        [b'B', b'Z', b'h', ..] => return Err(unknown("compressed by bzip2")),
        _ if start.get(257..262) == Some(b"ustar") => archive::unpack_tar(stream, into, limits),
        _ => return Err(unknown("no archive")),
    };
    cancel.check()?;
    unpacked?;
    take_off_top_folder(into).map_err(unreadable)
}

/// Code hosts put everything into one folder, `name-commit/`; the app is what is in it. A lone `public/` or `bin/`
/// is the app's own.
fn take_off_top_folder(tree: &Path) -> io::Result<()> {
    let entries = fs::read_dir(tree)?.take(2).collect::<io::Result<Vec<_>>>()?;
    let [only] = entries.as_slice() else { return Ok(()) };
    if !only.file_type()?.is_dir() || !only.file_name().as_encoded_bytes().contains(&b'-') {
        return Ok(());
    }
    // Aside first: the folder may hold an entry of its own name.
    let aside = tree.join(format!(".{}", uuid::Uuid::new_v4()));
    fs::rename(only.path(), &aside)?;
    for entry in fs::read_dir(&aside)? {
        let entry = entry?;
        fs::rename(entry.path(), tree.join(entry.file_name()))?;
    }
    fs::remove_dir(aside)
}

fn unknown(found: &str) -> Error {
    bad(format!("the file is {found}; send a .tar, .tar.gz or .tar.zst"))
}

fn too_large(limit: u64) -> Error {
    let limit = limit / 1_000_000;
    Error::new(ErrorCode::LimitExceeded, format!("the archive is too large: at most {limit} MB are taken"))
}

/// Ends a long read soon after it is cancelled.
struct Cancellable<'a, R> {
    inner: R,
    cancel: &'a Cancel,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.inner.read(buffer)
    }
}

/// Finds addresses, for each connection anew, and so also behind a redirect, and refuses those that are not public.
#[derive(Debug)]
struct Guard {
    private: bool,
}

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?.trim_matches(['[', ']']);
        let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        let mut found = self.empty();
        let mut private = false;
        for address in (host, port).to_socket_addrs()? {
            if !self.private && !is_public(address.ip()) {
                private = true;
            } else if found.len() < 16 {
                found.push(address);
            }
        }
        match (found.is_empty(), private) {
            (false, _) => Ok(found),
            (true, true) => Err(ureq::Error::Other(Box::new(NotPublic))),
            (true, false) => Err(ureq::Error::HostNotFound),
        }
    }
}

/// The address isn't one of the public internet.
#[derive(Debug, thiserror::Error)]
#[error("its address is not on the public internet")]
struct NotPublic;

/// What a failed download means; of a redirected one the first address is named.
fn refusal(url: &Uri, error: ureq::Error) -> Error {
    // The query may hold a signature.
    let url = url.to_string();
    let shown = url.split('?').next().unwrap_or_default();
    let found = |why: &str| bad(format!("can't download {shown}: {why}"));
    match error {
        ureq::Error::Other(e) if e.is::<NotPublic>() => found("its address is not on the public internet"),
        ureq::Error::StatusCode(code @ (429 | 500..)) => {
            Error::new(ErrorCode::Unavailable, format!("can't download {shown}: the server answers {code}"))
                .with_retry(Retry::Backoff)
        }
        ureq::Error::StatusCode(code) => found(&format!("the server answers {code}")),
        ureq::Error::TooManyRedirects => found("it is redirected more than 5 times"),
        ureq::Error::BadUri(why) => found(&why),
        error => Error::new(ErrorCode::Unavailable, format!("can't download {shown}"))
            .with_retry(Retry::Backoff)
            .with_source(error),
    }
}
