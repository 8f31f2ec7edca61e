//! The way to the daemon.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use paas_core::{Error, ErrorCode, Result, Retry};
use tokio::sync::Mutex;

use crate::{PlatformName, Subnets, failed, label};

/// Where a daemon listens if nobody says otherwise.
const SOCKET: &str = "/var/run/docker.sock";

/// Which daemon, and who asks.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DockerConfig {
    /// `unix:///run/docker.sock` or the path alone. `None`: what `DOCKER_HOST` says, else `/var/run/docker.sock`.
    pub host: Option<String>,
    /// What this platform is called among those on the same daemon.
    pub platform: PlatformName,
    /// Where apps' networks get their addresses.
    pub subnets: Subnets,
}

impl DockerConfig {
    /// The daemon that `DOCKER_HOST` names, else the machine's own, for a platform called `paas`.
    pub fn new() -> Self {
        Self::default()
    }

    /// The daemon at this address.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// For the platform of this name. It must not change while there is something of it on the daemon.
    #[must_use]
    pub fn platform(mut self, name: PlatformName) -> Self {
        self.platform = name;
        self
    }

    /// With networks for apps from this range.
    #[must_use]
    pub fn subnets(mut self, subnets: Subnets) -> Self {
        self.subnets = subnets;
        self
    }
}

/// A daemon and the platform that asks it. Cheap to clone; each request opens a connection of its own, so a daemon that
/// was restarted is reached again by itself.
#[derive(Clone)]
pub struct Docker {
    client: bollard::Docker,
    platform: Arc<PlatformName>,
    socket: Arc<PathBuf>,
    pub(crate) subnets: Subnets,
    pub(crate) next_subnet: Arc<Mutex<u32>>,
}

impl Docker {
    /// How long one request may take; those that wait for something are given their own time.
    const PATIENCE: Duration = Duration::from_secs(120);

    /// Asks the daemon which version of its API it speaks, and speaks that.
    ///
    /// ```
    /// use paas_core::ErrorCode;
    /// use paas_docker::{Docker, DockerConfig};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// let nobody = Docker::connect(DockerConfig::new().host("/nowhere/docker.sock")).await.unwrap_err();
    /// assert_eq!(nobody.code(), ErrorCode::Unavailable);
    /// assert!(nobody.to_string().contains("/nowhere/docker.sock"));
    /// # }
    /// ```
    ///
    /// # Errors
    /// `unavailable` when nobody answers there, `forbidden` when we may not ask, `invalid_params` for an address that is
    /// no unix socket.
    pub async fn connect(config: DockerConfig) -> Result<Self> {
        let (socket, said_by) = socket(config.host)?;
        let away = || {
            format!(
                "Docker doesn't answer at {} ({said_by}): start it (`systemctl start docker`), or name its socket by \
                 DOCKER_HOST=unix:///path or in the config",
                socket.display()
            )
        };
        let refused = match tokio::net::UnixStream::connect(&socket).await {
            Ok(_) => None,
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                let text = format!(
                    "this user may not use Docker at {}: add it to the group `docker`, or run as root",
                    socket.display()
                );
                return Err(Error::new(ErrorCode::Forbidden, text));
            }
            Err(e) => Some(e),
        };
        let unavailable = || Error::new(ErrorCode::Unavailable, away()).with_retry(Retry::Backoff);
        if let Some(e) = refused {
            return Err(unavailable().with_source(e));
        }
        let path = socket.to_string_lossy();
        let client = bollard::Docker::connect_with_unix(&path, Self::PATIENCE.as_secs(), API_DEFAULT_VERSION)
            .map_err(|e| unavailable().with_source(e))?;
        let client = client.negotiate_version().await.map_err(|e| failed(away(), e))?;
        let (platform, socket, next_subnet) = (Arc::new(config.platform), Arc::new(socket), Arc::default());
        Ok(Self { client, platform, socket, subnets: config.subnets, next_subnet })
    }

    /// The client, for what is asked of the daemon.
    pub fn client(&self) -> &bollard::Docker {
        &self.client
    }

    /// The client, for a request that may take as long as this, beyond what any may.
    #[must_use]
    pub fn patient(&self, time: Duration) -> bollard::Docker {
        self.client.clone().with_timeout(Self::PATIENCE + time)
    }

    /// What this platform is called on the daemon.
    pub fn platform(&self) -> &PlatformName {
        &self.platform
    }

    /// The daemon's socket, for those who speak to it by themselves.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Whether the daemon speaks this version of its API or a newer one.
    pub fn speaks(&self, major: usize, minor: usize) -> bool {
        let version = self.client.client_version();
        (version.major_version, version.minor_version) >= (major, minor)
    }

    /// The labels of something of ours: the platform's and these.
    pub fn labels(&self, more: impl IntoIterator<Item = (&'static str, String)>) -> HashMap<String, String> {
        let platform = (label::PLATFORM, self.platform.to_string());
        let all = std::iter::once(platform).chain(more);
        all.map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The filter that finds only what is ours and carries these labels too.
    pub fn ours(&self, more: &[(&str, &str)]) -> HashMap<String, Vec<String>> {
        let platform = (label::PLATFORM, self.platform.as_str());
        let all = std::iter::once(platform).chain(more.iter().copied());
        HashMap::from([("label".to_owned(), all.map(|(key, value)| format!("{key}={value}")).collect())])
    }
}

impl fmt::Debug for Docker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, platform, socket, subnets, .. } = self;
        f.debug_struct("Docker")
            .field("socket", socket)
            .field("platform", platform)
            .field("subnets", subnets)
            .field("version", &client.client_version())
            .finish()
    }
}

/// The path of the socket, and who named it.
fn socket(host: Option<String>) -> Result<(PathBuf, &'static str)> {
    let named = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let (host, said_by) = match (host, named) {
        (Some(host), _) => (host, "from the config"),
        (None, Some(host)) => (host, "from DOCKER_HOST"),
        (None, None) => (SOCKET.to_owned(), "the usual place"),
    };
    let path = host.strip_prefix("unix://").unwrap_or(&host);
    if path.starts_with('/') {
        return Ok((path.into(), said_by));
    }
    let text = format!(
        "Docker's address {host:?} ({said_by}) is no unix socket, and only those are spoken to: write unix:///path; a \
         daemon elsewhere is reached by `ssh -L /path/of/a.sock:/var/run/docker.sock HOST`"
    );
    Err(Error::new(ErrorCode::InvalidParams, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_finds_no_daemon_is_told_where_it_was_looked_for_and_what_to_do() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("docker.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(listener);
        for host in [path.display().to_string(), format!("unix://{}", path.display())] {
            let error = Docker::connect(DockerConfig::new().host(host)).await.unwrap_err();
            assert_eq!((error.code(), error.retry()), (ErrorCode::Unavailable, Retry::Backoff));
            let text = error.to_string();
            assert!(text.contains(&path.display().to_string()) && text.contains("DOCKER_HOST"), "{text}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_no_socket_is_refused_with_another_way() {
        for host in ["tcp://10.0.0.1:2375", "ssh://root@host", "docker.sock", "http://localhost"] {
            let error = Docker::connect(DockerConfig::new().host(host)).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidParams, "{error}");
            assert!(error.to_string().contains("ssh -L"), "{error}");
        }
    }

    #[tokio::test]
    async fn somebody_who_is_no_daemon_is_not_taken_for_one() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("docker.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let closing = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        let error = Docker::connect(DockerConfig::new().host(path.display().to_string())).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
        closing.abort();
    }
}
