//! The `git` source: a commit of a repository, fetched by the system's git.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use http::Uri;
use paas_core::archive::{self, Limits};
use paas_core::{
    Context, Error, ErrorCode, ProviderName, Result, Retry, Revision, Source, SourceRef, blocking,
};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::address::is_public;
use super::bad;

/// Fetches a commit.
///
/// The location is a URL, `https://host/path#ref` or `ssh://git@host/path#ref` (also `git@host:path#ref`), where `ref` is
/// a branch, a tag or a commit; without it, the remote's default branch. The commit that was used is the
/// revision's id. Only https and ssh, and only public addresses, unless [`allow_any`](Self::allow_any) says otherwise.
///
/// Submodules are not fetched, no hook and no filter runs, and neither the system's nor a user's git configuration is read.
#[derive(Debug, Clone)]
pub struct GitSource {
    limits: Limits,
    timeout: Duration,
    any: bool,
}

impl Default for GitSource {
    fn default() -> Self {
        Self { limits: Limits::default(), timeout: Duration::from_secs(600), any: false }
    }
}

impl GitSource {
    /// Up to [`Limits::default`]; a fetch may take ten minutes.
    pub fn new() -> Self {
        Self::default()
    }

    /// With these limits; the fetched objects may have no more bytes than the tree.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// A fetch may take this long.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Also http, git and file URLs, local paths and private addresses: where all users are trusted.
    #[must_use]
    pub fn allow_any(mut self) -> Self {
        self.any = true;
        self
    }

    /// Fetches what `location` names and unpacks it into the empty folder `into`.
    pub(crate) async fn checkout(&self, ctx: &Context, location: &str, into: &Path) -> Result<Revision> {
        let remote = Remote::parse(location, self.any)?;
        let temp = tempfile::tempdir().map_err(|e| Error::from_io("can't make a folder for the fetch", e))?;
        let git = Git { dir: temp.path().to_owned(), any: self.any, pin: remote.pin(self.any).await?, ctx };
        let fetched = async {
            git.run(&["init", "--quiet", "--bare", "."]).await?;
            let commit = self.fetch_commit(&git, &remote).await?;
            self.unpack(&git, &commit, into).await?;
            git.revision(&commit, &remote).await
        };
        match ctx.cancel.guard(tokio::time::timeout(self.timeout, fetched)).await? {
            Ok(revision) => revision,
            Err(_) => Err(Error::new(
                ErrorCode::Timeout,
                format!("fetching {} took longer than {} s", remote.url, self.timeout.as_secs()),
            )),
        }
    }

    async fn fetch_commit(&self, git: &Git<'_>, remote: &Remote) -> Result<String> {
        let wanted = remote.reference.as_deref().unwrap_or("HEAD");
        // Only what is needed, where the server gives it; a commit's short name needs the whole history.
        let shallow = [
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--no-write-commit-graph",
            "--",
            &remote.url,
            wanted,
        ];
        match git.fetch(&shallow, self.limits.bytes).await {
            Ok(()) => return git.commit("FETCH_HEAD").await,
            Err(e) if e.code() == ErrorCode::BadSource && remote.could_be_commit() => {}
            Err(e) => return Err(e),
        }
        let all = ["fetch", "--quiet", "--no-write-commit-graph", "--", &remote.url, "+refs/*:refs/*"];
        git.fetch(&all, self.limits.bytes).await?;
        git.commit(wanted).await
    }

    async fn unpack(&self, git: &Git<'_>, commit: &str, into: &Path) -> Result<()> {
        // The tree as it is: nothing left out, nothing filled in.
        let attributes = git.dir.join("info/attributes");
        let written = std::fs::create_dir_all(git.dir.join("info"))
            .and_then(|()| std::fs::write(attributes, "* -export-ignore -export-subst\n"));
        written.map_err(|e| Error::from_io("can't write git's attributes", e))?;
        let tar = git.dir.join("tree.tar");
        git.run(&["archive", "--format=tar", "--output=tree.tar", commit]).await?;
        let (into, limits) = (into.to_owned(), self.limits);
        blocking(move || {
            let tar =
                std::fs::File::open(tar).map_err(|e| Error::from_io("can't read the fetched tree", e))?;
            archive::unpack_tar(std::io::BufReader::new(tar), &into, limits)
        })
        .await
    }
}

#[async_trait]
impl Source for GitSource {
    fn name(&self) -> ProviderName {
        ProviderName::new("git").expect("a constant")
    }

    async fn fetch(&self, ctx: &Context, source: &SourceRef, into: &Path) -> Result<Revision> {
        self.checkout(ctx, &source.location, into).await
    }
}

/// A repository's address and what is wanted of it.
struct Remote {
    /// What git is given; never begins with a dash.
    url: String,
    /// Host and port, where it leads over the network.
    host: Option<(String, u16)>,
    ssh: bool,
    reference: Option<String>,
}

impl Remote {
    fn parse(location: &str, any: bool) -> Result<Self> {
        let (address, reference) = match location.split_once('#') {
            Some((address, reference)) if !reference.is_empty() => (address, Some(reference.to_owned())),
            Some((address, _)) => (address, None),
            None => (location, None),
        };
        if let Some(reference) = &reference {
            check_reference(reference)?;
        }
        if any && address.strip_prefix("file://").unwrap_or(address).starts_with('/') {
            return Ok(Self { url: address.to_owned(), host: None, ssh: false, reference });
        }
        let url = parse_url(address)?;
        let port = match url.scheme_str().unwrap_or_default() {
            "https" => 443,
            "ssh" => 22,
            "http" if any => 80,
            "git" if any => 9418,
            _ => {
                return Err(bad(format!("{address}: only https and ssh URLs of repositories are allowed")));
            }
        };
        let ssh = port == 22;
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let (user, name) =
            authority.rsplit_once('@').map_or((None, authority), |(user, name)| (Some(user), name));
        if user.is_some_and(|user| !ssh || user.contains(':')) {
            return Err(bad(
                "a URL with a password in it would show the password to everybody; use one without",
            ));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        let is_plain = |text: &str| !text.is_empty() && !text.starts_with('-') && text.chars().all(plain);
        let host = url.host().filter(|host| is_plain(host));
        let Some(host) = host.filter(|_| is_plain(name) && user.is_none_or(is_plain)) else {
            return Err(bad(format!("{address} is not the URL of a repository")));
        };
        let host = Some((host.to_owned(), url.port_u16().unwrap_or(port)));
        Ok(Self { url: url.to_string(), host, ssh, reference })
    }

    /// Whether the reference may be a commit that a server doesn't give by name.
    fn could_be_commit(&self) -> bool {
        self.reference.as_ref().is_some_and(|r| r.len() >= 4 && r.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    /// The address to connect to, looked up and checked once, so that a second look-up can't give another.
    async fn pin(&self, any: bool) -> Result<Option<Pin>> {
        let Some((host, port)) = self.host.clone().filter(|_| !any) else { return Ok(None) };
        let name = host.trim_matches(['[', ']']).to_owned();
        let found = blocking(move || {
            let unknown = |e| {
                Error::new(ErrorCode::Unavailable, format!("can't find the host {name}"))
                    .with_retry(Retry::Backoff)
                    .with_source(e)
            };
            Ok((name.as_str(), port).to_socket_addrs().map_err(unknown)?.collect::<Vec<_>>())
        })
        .await?;
        let address = found.into_iter().find(|a| is_public(a.ip()));
        let address = address.ok_or_else(|| bad(format!("{host} is not on the public internet")))?;
        Ok(Some(Pin { host, address, ssh: self.ssh }))
    }
}

/// A URL, or the short form `user@host:path` that people copy from code hosts.
fn parse_url(address: &str) -> Result<Uri> {
    let wrong = || bad(format!("{address:?} is not the URL of a repository, such as https://host/path"));
    let parsed = if address.contains("://") {
        address.parse()
    } else {
        let (host, path) =
            address.split_once(':').filter(|(host, _)| host.contains('@')).ok_or_else(wrong)?;
        format!("ssh://{host}/{}", path.trim_start_matches('/')).parse()
    };
    parsed.map_err(|_| wrong())
}

/// Git's own rules for names (git-check-ref-format), and nothing that could be an option or a second refspec.
fn check_reference(reference: &str) -> Result<()> {
    let letter =
        |c: char| c.is_ascii_graphic() && !matches!(c, '~' | '^' | ':' | '?' | '*' | '[' | '\\' | '+');
    let good = reference.len() <= 255
        && reference.chars().all(letter)
        && !reference.starts_with(['-', '/', '.'])
        && !reference.ends_with(['/', '.'])
        && !["..", "//", "@{", "/."].iter().any(|part| reference.contains(part));
    if good {
        Ok(())
    } else {
        Err(bad(format!("{reference:?} is not the name of a branch, a tag or a commit")))
    }
}

/// The one address that a host name means during a fetch.
struct Pin {
    host: String,
    address: SocketAddr,
    ssh: bool,
}

/// The system's git, told to believe nothing.
struct Git<'a> {
    dir: PathBuf,
    any: bool,
    pin: Option<Pin>,
    ctx: &'a Context,
}

impl Git<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut git = Command::new("git");
        git.current_dir(&self.dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
            .env("HOME", &self.dir)
            .env("LC_ALL", "C")
            .env("GIT_DIR", &self.dir)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "true")
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_ALLOW_PROTOCOL", if self.any { "https:ssh:http:git:file" } else { "https:ssh" });
        for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "SSH_AUTH_SOCK"] {
            git.envs(std::env::var_os(variable).map(|value| (variable, value)));
        }
        for setting in [
            "core.hooksPath=/dev/null",
            "core.fsmonitor=false",
            "core.symlinks=true",
            "submodule.recurse=false",
            "fetch.fsckObjects=true",
            "gc.auto=0",
            "maintenance.auto=false",
            "credential.helper=",
        ] {
            git.args(["-c", setting]);
        }
        if !self.any {
            // A redirect would be followed without our look at where it leads.
            git.args(["-c", "http.followRedirects=false"]);
        }
        let mut ssh =
            "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ConnectTimeout=15".to_owned();
        if let Some(Pin { host, address, ssh: by_ssh }) = &self.pin {
            let ip = address.ip();
            if *by_ssh {
                // Both are made of letters that mean nothing to a shell: see Remote::parse.
                ssh = format!("{ssh} -o HostName={ip} -o HostKeyAlias={host}");
            } else {
                git.args(["-c", &format!("http.curloptResolve={host}:{}:{ip}", address.port())]);
            }
        }
        git.env("GIT_SSH_COMMAND", ssh);
        git.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        git.process_group(0).kill_on_drop(true);
        git
    }

    /// What git prints, at most a megabyte of it.
    async fn run(&self, args: &[&str]) -> Result<String> {
        let mut group = Group(self.command(args).spawn().map_err(|e| {
            Error::new(ErrorCode::Unavailable, "can't start git; install git to use the git source")
                .with_source(e)
        })?);
        let (out, err) = (group.0.stdout.take(), group.0.stderr.take());
        let (out, err) = tokio::join!(text(out), text(err));
        let status = group.0.wait().await.map_err(|e| Error::from_io("can't wait for git", e))?;
        if status.success() { Ok(out) } else { Err(self.failure(args, &err)) }
    }

    /// A fetch, which is stopped when the folder has grown beyond `limit` bytes.
    async fn fetch(&self, args: &[&str], limit: u64) -> Result<()> {
        let grown = async {
            loop {
                tokio::time::sleep(Duration::from_millis(250)).await;
                let dir = self.dir.clone();
                // A file that is renamed meanwhile is seen in the next round.
                let size = blocking(move || Ok(folder_size(&dir).unwrap_or(0))).await?;
                if size > limit {
                    return Err(Error::new(
                        ErrorCode::LimitExceeded,
                        format!("the repository is too large: at most {} MB are fetched", limit / 1_000_000),
                    ));
                }
            }
        };
        tokio::select! {
            fetched = self.run(args) => fetched.map(drop),
            error = grown => error,
        }
    }

    async fn commit(&self, reference: &str) -> Result<String> {
        let name = format!("{reference}^{{commit}}");
        Ok(self
            .run(&["rev-parse", "--verify", "--quiet", "--end-of-options", &name])
            .await?
            .trim()
            .to_owned())
    }

    async fn revision(&self, commit: &str, remote: &Remote) -> Result<Revision> {
        let shown = self.run(&["show", "--no-patch", "--format=%an <%ae>%n%s", commit]).await?;
        let mut lines = shown.lines().map(|line| line.chars().take(500).collect::<String>());
        let mut revision = Revision::default();
        revision.id = Some(commit.to_owned());
        revision.author = lines.next();
        revision.message = lines.next();
        revision.branch.clone_from(&remote.reference);
        Ok(revision)
    }

    /// What git's complaint means: that the server can't be reached may pass, all else won't.
    fn failure(&self, args: &[&str], complaint: &str) -> Error {
        let last = |line: &&str| !line.trim().is_empty() && !line.starts_with("hint:");
        let why = complaint.lines().rfind(last).unwrap_or("git says nothing about it").trim().to_owned();
        let network = [
            "Could not resolve",
            "Failed to connect",
            "Connection",
            "timed out",
            "early EOF",
            "unable to access",
        ];
        let what = args.first().copied().unwrap_or("git");
        let message = format!("git {what} failed: {}", self.ctx.log.redactor().redact(&why));
        if network.iter().any(|part| complaint.contains(part)) && !complaint.contains("error: 4") {
            return Error::new(ErrorCode::Unavailable, message).with_retry(Retry::Backoff);
        }
        bad(message)
    }
}

/// A process whose whole group ends with it: git leaves its transport to helpers.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself just now.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

async fn text(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut content = Vec::new();
    if let Some(mut stream) = stream {
        // What can't be read is missing in a message, no more.
        let _ = (&mut stream).take(1 << 20).read_to_end(&mut content).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&content).into_owned()
}

fn folder_size(dir: &Path) -> std::io::Result<u64> {
    let mut size = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        size += if meta.is_dir() { folder_size(&entry.path())? } else { meta.len() };
    }
    Ok(size)
}
