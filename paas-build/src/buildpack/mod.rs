//! The `buildpack` builder: Heroku's classic buildpack API, run in a sandbox.
//!
//! ```text
//! checkout --.slugignore--> BUILD_DIR --bin/detect, bin/compile, bin/release of each pack--> slug in Blobs
//!                              ^   ^
//!     CACHE_DIR: a layer over what the last good build kept   ENV_DIR: config vars, in memory only
//! ```
//!
//! One sandboxed shell (`build.sh`), or one in a container of the stack's image, runs all packs of a build; a pack gets a writable copy of its own, and finds its
//! folders in the same places in every build. What the build tells the platform it writes into files, which are
//! read as what they are: a stranger's.

mod bundled;
mod cache;
mod compose;
mod config;
#[cfg(feature = "docker")]
mod container;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod reference;
mod release;
mod run;
mod work;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use paas_core::archive::{self, Limits};
use paas_core::{
    AppId, Artifact, ArtifactKind, BuildRequest, Builder, BuilderCapabilities, BuilderId, Context, Detection,
    Digest, Error, ErrorCode, LogWriter, Manifest, ProviderName, Result, blocking,
};
use paas_sandbox::{Abilities, Confined, Profile, Toolchains, User, tree};

use self::cache::Caches;
pub use self::config::BuildpackConfig;
use self::reference::Packs;
use self::work::{Work, seen};
use crate::{app_json, procfile};

/// The shell's program; see there.
const SCRIPT: &str = include_str!("build.sh");
/// The time that tools write into files: the first day that every format can hold, in seconds since 1970.
const EPOCH: &str = "315532800";
/// Less room than this on the disk is none, in bytes.
const FULL: u64 = 8 << 20;

/// Builds slugs with buildpacks, bundled ones and anybody's.
#[derive(Debug)]
pub struct BuildpackBuilder {
    config: BuildpackConfig,
    abilities: Abilities,
    packs: Packs,
    caches: Caches,
    toolchains: Toolchains,
    #[cfg(feature = "docker")]
    containers: Option<container::Containers>,
    /// A user, and so an app, builds one thing at a time.
    turns: Mutex<HashMap<u128, Arc<tokio::sync::Mutex<()>>>>,
}

impl BuildpackBuilder {
    /// A builder with its data in the configured folder, which is made if it isn't there.
    ///
    /// # Errors
    /// `unavailable` where builds can't have a file tree of their own: they would read the platform's files and
    /// write over each other's; `not_initialised` without a helper.
    pub async fn open(config: BuildpackConfig) -> Result<Self> {
        let broken = |e: paas_sandbox::Error| {
            let code = match e {
                paas_sandbox::Error::NotInitialised => ErrorCode::NotInitialised,
                _ => ErrorCode::Unavailable,
            };
            Error::new(code, "builds can't be sandboxed").with_source(e)
        };
        let abilities = config.helper.abilities().map_err(broken)?;
        let contained = config.is_contained();
        if !abilities.namespaces && !contained {
            return Err(Error::new(
                ErrorCode::Unavailable,
                "builds need mount namespaces, which this machine doesn't allow: run the platform as root, allow \
                 unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, \
                 kernel.apparmor_restrict_unprivileged_userns=0), or give its container the capability SYS_ADMIN",
            ));
        }
        let data = config.data.clone();
        #[cfg(feature = "docker")]
        let containers = match &config.stack_image {
            // Before the folders of their builds are removed.
            Some((docker, image)) => {
                Some(container::Containers::open(docker, image, &data.join("work")).await?)
            }
            None => None,
        };
        let bundled = blocking(move || prepare(&data)).await?;
        let layers = !contained && has_layers(&config, &abilities).await;
        Ok(Self {
            packs: Packs {
                kept: config.data.join("packs"),
                bundled,
                folders: config.pack_folders.clone(),
                any: config.allow_any,
            },
            caches: Caches::new(config.data.join("cache"), layers),
            toolchains: Toolchains::here(),
            #[cfg(feature = "docker")]
            containers,
            abilities,
            config,
            turns: Mutex::default(),
        })
    }

    /// The user that builds an app: the same every time, since the app's cache belongs to it.
    fn user(&self, app: AppId) -> Option<User> {
        let span = self.config.users.end.saturating_sub(self.config.users.start).max(1);
        let number = app.uuid().as_u128() % u128::from(span);
        let offset = u32::try_from(number).unwrap_or_default();
        self.abilities.users.then(|| User::new(self.config.users.start + offset))
    }

    async fn turn(&self, app: AppId, user: Option<User>) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            let key = user.map_or_else(|| app.uuid().as_u128(), |user| u128::from(user.uid));
            Arc::clone(turns.entry(key).or_default())
        };
        turn.lock_owned().await
    }

    /// The packs that build this app: those that are named, or else the first bundled one that recognises it.
    fn choose(request: &BuildRequest, manifest: &Manifest) -> Result<Vec<String>> {
        let named = [&request.buildpacks, &manifest.buildpacks].into_iter().find(|packs| !packs.is_empty());
        if let Some(packs) = named {
            return Ok(packs.clone());
        }
        let (pack, _) = bundled::detect(&request.checkout.dir).ok_or_else(|| {
            let message =
                format!("no buildpack recognises this app; looked for {}", bundled::looks_for().join(", "));
            Error::new(ErrorCode::NotDetected, message)
        })?;
        Ok(vec![pack.to_owned()])
    }

    /// What apps are built with: another one gives another artifact.
    fn languages(&self) -> Vec<String> {
        #[cfg(feature = "docker")]
        if let Some(containers) = &self.containers {
            return vec![containers.image().to_owned()];
        }
        self.toolchains.identity()
    }

    /// Runs the shell inside its walls: a container's, or those of a sandbox.
    async fn shell(
        &self,
        ctx: &Context,
        log: &LogWriter,
        (packs, profile): (usize, Profile),
        request: &BuildRequest,
    ) -> Result<run::Ended> {
        let timeout = self.config.timeout;
        #[cfg(feature = "docker")]
        if let Some(containers) = &self.containers {
            let shell = container::Shell {
                arguments: arguments(packs),
                environment: self.environment(request),
                profile: profile.limits(self.config.limits),
            };
            return containers.run(ctx, log, shell, request, timeout).await;
        }
        let command = self.command(packs, profile, request);
        run::run(ctx, log, &command, &request.config, timeout).await
    }

    fn environment(&self, request: &BuildRequest) -> Vec<(String, String)> {
        let revision = &request.checkout.revision;
        let version = revision.id.clone().unwrap_or_else(|| request.checkout.digest.hex());
        let ours = [
            ("BUILDPACK_LOG_FILE", "/dev/null"),
            ("CURL_CONNECT_TIMEOUT", "30"),
            ("CURL_TIMEOUT", "180"),
            ("HOME", seen::HOME),
            ("LANG", "C.UTF-8"),
            ("SOURCE_DATE_EPOCH", EPOCH),
            ("SOURCE_VERSION", &version),
            ("STACK", &self.config.stack),
            ("TERM", "dumb"),
        ];
        let ours = ours.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        ours.chain(self.config.env.clone()).collect()
    }

    /// The shell, inside the sandbox's walls.
    fn command(&self, packs: usize, profile: Profile, request: &BuildRequest) -> Confined {
        let mut profile = profile.limits(self.config.limits).hide(&self.config.data);
        for folder in &self.toolchains.folders {
            profile = profile.read_only(folder);
        }
        for path in &self.config.hidden {
            profile = profile.hide(path);
        }
        Confined::new(&self.config.helper, profile, "bash")
            .args(arguments(packs))
            .env("PATH", &self.toolchains.path)
            .envs(self.environment(request))
    }

    /// What a build that ended badly says: the shell knows where it stopped, unless it was killed.
    fn failure(&self, work: &Work, packs: &[String], ended: run::Ended) -> Error {
        let told = work.result("failed").ok().flatten().unwrap_or_default();
        let mut told = told.lines();
        let phase = told.next().unwrap_or_default().to_owned();
        let pack = told.next().and_then(|number| packs.get(number.parse::<usize>().ok()?));
        let pack = pack.map_or("the buildpack", String::as_str);
        let status = told.next().unwrap_or_default();
        let free = rustix::fs::statvfs(&self.config.data).map(|disk| disk.f_bavail * disk.f_frsize);
        if free.is_ok_and(|free| free < FULL) {
            let place = self.config.data.display();
            return Error::new(
                ErrorCode::DiskFull,
                format!("the build failed, and the disk of {place} is full"),
            )
            .with_output(ended.tail);
        }
        let memory = || {
            let megabytes = self.config.limits.memory >> 20;
            if ended.out_of_memory {
                format!("; it needed more memory than the {megabytes} MB that a build may use")
            } else {
                "; it was killed, perhaps for want of memory".to_owned()
            }
        };
        let (code, message) = match phase.as_str() {
            "detect" => (
                ErrorCode::NotDetected,
                format!("{pack} doesn't recognise this app (bin/detect ended with {status})"),
            ),
            "compile" => {
                let name = compose::last_detected(work).unwrap_or_else(|| pack.to_owned());
                let killed = status == "137" || ended.out_of_memory;
                let hint = if killed { memory() } else { String::new() };
                let message =
                    format!("failed to compile {name} app: {pack}'s bin/compile ended with {status}{hint}");
                (ErrorCode::BuildFailed, message)
            }
            "release" => (ErrorCode::BuildFailed, format!("{pack}'s bin/release ended with {status}")),
            _ => {
                let how = ended.status.to_string();
                (ErrorCode::BuildFailed, format!("the build ended before it was done ({how}){}", memory()))
            }
        };
        Error::new(code, message).with_output(ended.tail)
    }

    /// Packs the slug and puts it into Blobs.
    async fn slug(&self, ctx: &Context, work: &Work, dir: &Path) -> Result<archive::Packed> {
        let (dir, to, cancel) = (dir.to_owned(), work.root().join("slug"), ctx.cancel.clone());
        let (at, limit) = (to.clone(), self.config.slug_bytes);
        let packed = blocking(move || {
            let keep = |path: &Path, _: bool| path != Path::new(".git") && !cancel.is_cancelled();
            let unpacked = Limits::new(limit.saturating_mul(4), 1_000_000);
            let packed = archive::pack_within(&dir, &at, &keep, unpacked)?;
            cancel.check()?;
            Ok(packed)
        })
        .await?;
        if packed.size > limit {
            let (size, limit) = (packed.size / 1_000_000, limit / 1_000_000);
            return Err(Error::new(
                ErrorCode::LimitExceeded,
                format!(
                    "the slug has {size} MB, at most {limit} MB are allowed; list what isn't needed in .slugignore"
                ),
            ));
        }
        self.config.blobs.put(packed.digest, &to).await?;
        Ok(packed)
    }

    async fn compile(&self, ctx: &Context, request: &BuildRequest, user: Option<User>) -> Result<Artifact> {
        let dir = request.checkout.dir.clone();
        let (manifest, work) = {
            let (dir, root) = (dir.clone(), self.config.data.join("work"));
            blocking(move || {
                // Mistakes in them are told before, and not after, a long build.
                let manifest = app_json::read(&dir)?;
                procfile::read(&dir)?;
                work::leave_out(&dir)?;
                tree::give_all(&dir, user)
                    .map_err(|e| Error::from_io("can't hand the code over to the build's user", e))?;
                Ok((manifest, Work::new(&root, user)?))
            })
            .await?
        };
        let packs = Self::choose(request, &manifest)?;
        let mut pins = Vec::new();
        for (number, name) in packs.iter().enumerate() {
            pins.push(ctx.cancel.guard(self.packs.fetch(ctx, name, &work.pack(number), user)).await??);
        }
        let caches = self.caches.clone();
        let (app, root) = (request.app_id, work.root().to_owned());
        let cache = blocking(move || {
            caches.open(app, &root, user).map_err(|e| Error::from_io("can't open the app's build cache", e))
        })
        .await?;
        let profile = cache.show(work.show(Profile::new()).bind(&dir, seen::BUILD), Path::new(seen::CACHE));
        let mut redactor = ctx.log.redactor().clone();
        redactor.learn(&request.config);
        let log = ctx.log.redacting(redactor);
        let ended = self.shell(ctx, &log, (packs.len(), profile), request).await?;
        if !ended.status.success() {
            return Err(self.failure(&work, &packs, ended));
        }
        let built = compose::read(&work, &dir, &log)?;
        let packed = self.slug(ctx, &work, &dir).await?;
        let mut artifact =
            Artifact::new(ArtifactKind::Slug, packed.digest, packed.size, self.id().name, ctx.clock.now());
        built.fill(&mut artifact);
        for (number, pin) in pins.into_iter().enumerate() {
            artifact.metadata.insert(format!("buildpack.{}", number + 1), pin);
        }
        artifact.metadata.insert("stack".to_owned(), self.config.stack.clone());
        built.announce(&log, packed.size);
        blocking(move || cache.keep().map_err(|e| Error::from_io("can't keep the app's build cache", e)))
            .await?;
        Ok(artifact)
    }
}

#[async_trait]
impl Builder for BuildpackBuilder {
    fn id(&self) -> BuilderId {
        let name = ProviderName::new("buildpack").expect("a constant");
        BuilderId::new(name, format!("{}-{}", env!("CARGO_PKG_VERSION"), &bundled::digest().hex()[..16]))
    }

    fn capabilities(&self) -> BuilderCapabilities {
        let mut able = BuilderCapabilities::full();
        let contained = self.config.is_contained();
        able.isolated = contained || self.abilities.isolated();
        able.cancel = contained || self.abilities.groups;
        able
    }

    async fn detect(&self, _ctx: &Context, request: &BuildRequest) -> Result<Detection> {
        let (request, dir) = (request.clone(), request.checkout.dir.clone());
        blocking(move || {
            let manifest = app_json::read(&dir)?;
            // Whoever names packs wants them to be tried, and to be told why they don't fit.
            let named = !request.buildpacks.is_empty() || !manifest.buildpacks.is_empty();
            Ok(match bundled::detect(&dir) {
                _ if named => Detection::Yes(Self::choose(&request, &manifest)?.join(" + ")),
                Some((_, language)) => Detection::Yes(language.to_owned()),
                None => Detection::No(bundled::looks_for()),
            })
        })
        .await
    }

    async fn manifest(&self, _ctx: &Context, request: &BuildRequest) -> Result<Manifest> {
        let dir = request.checkout.dir.clone();
        blocking(move || app_json::read(&dir)).await
    }

    async fn build(&self, ctx: &Context, request: &BuildRequest) -> Result<Artifact> {
        let user = self.user(request.app_id);
        let _turn = ctx.cancel.guard(self.turn(request.app_id, user)).await?;
        self.compile(ctx, request, user).await
    }

    async fn forget(&self, ctx: &Context, app: AppId) -> Result<()> {
        let user = self.user(app);
        let _turn = ctx.cancel.guard(self.turn(app, user)).await?;
        let caches = self.caches.clone();
        blocking(move || {
            caches.forget(app).map_err(|e| Error::from_io("can't remove the app's build cache", e))
        })
        .await
    }

    fn inputs(&self, request: &BuildRequest) -> Digest {
        let mut parts = vec![self.config.stack.clone(), self.config.slug_bytes.to_string()];
        parts.extend(self.config.env.iter().map(|(key, value)| format!("{key}={value}")));
        parts.extend(self.languages());
        parts.extend(request.buildpacks.iter().cloned());
        // What a branch, a folder or a URL holds today is known once it was fetched. An app that names such a pack is
        // built each time, as all are on Heroku, and so gets what was mended in the pack.
        let manifest = app_json::read(&request.checkout.dir).unwrap_or_default();
        let packs = Self::choose(request, &manifest).unwrap_or_default();
        if !packs.iter().all(|name| self.packs.is_fixed(name)) {
            parts.push(uuid::Uuid::new_v4().to_string());
        }
        Digest::of_parts(parts)
    }
}

/// What bash is told for so many packs.
fn arguments(packs: usize) -> Vec<String> {
    let fixed = ["--noprofile", "--norc", "-c", SCRIPT, "paas-build"];
    let folders = [seen::BUILD, seen::CACHE, seen::ENV, seen::RESULT];
    let packs = (0..packs).map(|number| format!("{}/{number}", seen::PACKS));
    fixed.into_iter().chain(folders).map(str::to_owned).chain(packs).collect()
}

/// Makes the folders, removes what a killed engine left, and unpacks the bundled packs.
fn prepare(data: &Path) -> Result<std::path::PathBuf> {
    let failed = |e| Error::from_io(format!("can't prepare the build folder {}", data.display()), e);
    for folder in [data, &data.join("packs"), &data.join("cache"), &data.join("work")] {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    work::end_orphans(&data.join("work"))?;
    bundled::unpack(&data.join("packs")).map_err(failed)
}

/// Whether a build can see a layer over a folder of this disk: tried once.
async fn has_layers(config: &BuildpackConfig, abilities: &Abilities) -> bool {
    let user = abilities.users.then(|| User::new(config.users.start));
    let Ok(work) = Work::new(&config.data.join("work"), user) else { return false };
    let (lower, changes) = (work.root().join("lower"), work.root().join("changes"));
    if [&lower, &changes].iter().any(|folder| tree::make(folder, user).is_err()) {
        return false;
    }
    let profile = work.show(Profile::new()).overlay(lower, &changes, seen::CACHE);
    let written = Confined::new(&config.helper, profile, "bash")
        .args(["-c", &format!("echo x >{}/x", seen::CACHE)])
        .env("PATH", "/usr/bin:/bin")
        .output()
        .await;
    written.is_ok_and(|output| output.status.success()) && changes.join("upper/x").exists()
}
