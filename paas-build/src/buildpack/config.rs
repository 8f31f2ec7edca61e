//! How the `buildpack` builder is set up.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use paas_core::Blobs;
use paas_sandbox::{Helper, Limits, procfs};

/// Where builds find the machine's certificates; whoever has set them up elsewhere has told the platform by these.
const CERTIFICATES: &[&str] = &[
    "CURL_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];

/// How builds are run.
#[derive(Clone)]
pub struct BuildpackConfig {
    pub(super) data: PathBuf,
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) helper: Helper,
    pub(super) stack: String,
    pub(super) timeout: Duration,
    pub(super) slug_bytes: u64,
    pub(super) limits: Limits,
    pub(super) env: BTreeMap<String, String>,
    pub(super) users: Range<u32>,
    pub(super) hidden: Vec<PathBuf>,
    pub(super) pack_folders: Vec<PathBuf>,
    pub(super) allow_any: bool,
    #[cfg(feature = "docker")]
    pub(super) stack_image: Option<(paas_docker::Docker, String)>,
}

impl fmt::Debug for BuildpackConfig {
    /// Without the environment's values: a proxy's address may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildpackConfig")
            .field("data", &self.data)
            .field("stack", &self.stack)
            .field("timeout", &self.timeout)
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

impl BuildpackConfig {
    /// With caches, fetched packs and work folders in `data`, and slugs in `blobs`. The helper is the binary that makes
    /// sandboxes.
    ///
    /// Heroku's limits: 15 minutes, a slug of 500 MB; stack `heroku-24`. A build may have 8,192 tasks and, where the
    /// machine can limit it, three quarters of the memory, so that a greedy one is killed before anything else is. CPU
    /// is shared.
    pub fn new(data: impl Into<PathBuf>, blobs: Arc<dyn Blobs>, helper: Helper) -> Self {
        let var = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
        Self {
            data: data.into(),
            blobs,
            helper,
            stack: "heroku-24".to_owned(),
            timeout: Duration::from_secs(15 * 60),
            slug_bytes: 500_000_000,
            limits: Limits::new().tasks(8192).memory(procfs::memory().map_or(0, |all| all / 4 * 3)),
            env: CERTIFICATES.iter().filter_map(var).collect(),
            users: 40_000..60_000,
            hidden: Vec::new(),
            pack_folders: Vec::new(),
            allow_any: false,
            #[cfg(feature = "docker")]
            stack_image: None,
        }
    }

    /// Whether builds run in containers.
    #[cfg(feature = "docker")]
    pub(super) fn is_contained(&self) -> bool {
        self.stack_image.is_some()
    }

    #[cfg(not(feature = "docker"))]
    #[allow(clippy::unused_self, reason = "it is the same question")]
    pub(super) fn is_contained(&self) -> bool {
        false
    }

    /// The stack's name, which buildpacks read from `STACK`.
    #[must_use]
    pub fn with_stack(mut self, stack: impl Into<String>) -> Self {
        self.stack = stack.into();
        self
    }

    /// A build may take this long.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// A slug may have so many bytes; its content four times as many.
    #[must_use]
    pub fn with_slug_bytes(mut self, bytes: u64) -> Self {
        self.slug_bytes = bytes;
        self
    }

    /// How much a build may use.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// One more environment variable of every build, such as a proxy or a mirror. Every app's code can read it.
    #[must_use]
    pub fn with_env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// Builds run in containers of this image, with its languages, and not in a sandbox of the machine's own programs: the
    /// image that slugs run on. It has `bash`, and what the buildpacks need.
    ///
    /// The daemon must see [`BuildpackConfig::new`]'s `data` and the checkouts in the same place, so it runs on this machine.
    #[cfg(feature = "docker")]
    #[must_use]
    pub fn in_containers(mut self, docker: paas_docker::Docker, image: impl Into<String>) -> Self {
        self.stack_image = Some((docker, image.into()));
        self
    }

    /// The users that builds run as, one for each app, where the platform is root. Nothing else may run as one of them.
    #[must_use]
    pub fn with_users(mut self, users: Range<u32>) -> Self {
        self.users = users;
        self
    }

    /// No build sees this, such as the platform's own data, also where it lies in a folder of the system.
    #[must_use]
    pub fn hiding(mut self, path: impl Into<PathBuf>) -> Self {
        self.hidden.push(path.into());
        self
    }

    /// Apps may name buildpacks that lie in this folder of the machine, by their absolute path.
    #[must_use]
    pub fn with_pack_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.pack_folders.push(folder.into());
        self
    }

    /// Buildpacks' URLs may have any scheme and lead to private addresses: where all users are trusted.
    #[must_use]
    pub fn allow_any_url(mut self) -> Self {
        self.allow_any = true;
        self
    }
}
