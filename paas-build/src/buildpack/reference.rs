//! How an app names a buildpack, and bringing it here.

use std::path::{Path, PathBuf};

use paas_core::archive::{self, Limits};
use paas_core::{Context, Digest, Error, ErrorCode, ProviderName, Result, Source, SourceRef, blocking};
use paas_sandbox::{User, tree};

use super::bundled::{self, BUNDLED, Bundled};
use crate::source::git::GitSource;
use crate::source::tarball::TarballSource;

/// A buildpack is scripts and a few binaries.
const LIMITS: (u64, u64) = (256 << 20, 20_000);

/// Where buildpacks come from.
#[derive(Debug, Clone)]
pub(super) struct Packs {
    /// Keeps what was fetched by its commit.
    pub(super) kept: PathBuf,
    /// The bundled ones.
    pub(super) bundled: PathBuf,
    /// Folders of this machine in which others may lie.
    pub(super) folders: Vec<PathBuf>,
    /// Whether URLs may lead to private addresses and to any scheme.
    pub(super) any: bool,
}

/// A buildpack as it is named.
enum Reference {
    Bundled(&'static Bundled),
    Folder(PathBuf),
    /// A URL with an optional `#sha256:…` of its tree.
    Tarball(String, Option<Digest>),
    /// A URL with an optional `#commit`.
    Git(String),
}

impl Packs {
    fn parse(&self, name: &str) -> Result<Reference> {
        if let Some(pack) = bundled::find(name) {
            return Ok(Reference::Bundled(pack));
        }
        if name.starts_with('/') {
            return self.folder(name).map(Reference::Folder);
        }
        if !name.contains("://") && !name.contains('@') {
            let known: Vec<_> = BUNDLED.iter().map(|pack| pack.name).collect();
            return Err(refused(name, &format!("use one of {}, or the URL of one", known.join(", "))));
        }
        let (url, fragment) = name.split_once('#').map_or((name, None), |(url, rest)| (url, Some(rest)));
        let path = url.split('?').next().unwrap_or(url);
        let archive = [".tgz", ".tar", ".tar.gz", ".tar.zst"].iter().any(|end| path.ends_with(end));
        if !archive {
            return Ok(Reference::Git(name.to_owned()));
        }
        let pin = fragment.map(str::parse).transpose().map_err(|e| refused(name, &format!("{e}")))?;
        Ok(Reference::Tarball(url.to_owned(), pin))
    }

    /// Whether the name means the same pack for ever.
    pub(super) fn is_fixed(&self, name: &str) -> bool {
        match self.parse(name) {
            Ok(Reference::Folder(_)) => false,
            Ok(Reference::Tarball(_, pin)) => pin.is_some(),
            Ok(Reference::Git(location)) => is_whole(location.split_once('#').unwrap_or_default().1),
            // What is no pack builds nothing.
            Ok(Reference::Bundled(_)) | Err(_) => true,
        }
    }

    /// A folder of this machine, if it lies where buildpacks may lie: an app names it, and may not look around.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let closed = || refused(name, "it is not in a folder from which this platform takes buildpacks");
        let path = Path::new(name).canonicalize().map_err(|_| closed())?;
        let allowed = self.folders.iter().filter_map(|folder| folder.canonicalize().ok());
        if allowed.into_iter().any(|folder| path.starts_with(folder)) && path.is_dir() {
            Ok(path)
        } else {
            Err(closed())
        }
    }

    /// Fills `to`, a new folder that a build owns, with the buildpack, and says which version it is: what was named,
    /// with the commit or the digest that was used.
    pub(super) async fn fetch(
        &self,
        ctx: &Context,
        name: &str,
        to: &Path,
        owner: Option<User>,
    ) -> Result<String> {
        let pin = match self.parse(name)? {
            Reference::Bundled(pack) => {
                copy(&self.bundled.join(pack.name), to, owner).await?;
                format!("{}@{}", pack.name, &bundled::digest().hex()[..16])
            }
            Reference::Folder(folder) => {
                copy(&folder, to, owner).await?;
                format!("{name}#{}", digest(to).await?)
            }
            Reference::Tarball(url, pin) => {
                let mut source = TarballSource::new().with_limits(Limits::new(LIMITS.0, LIMITS.1));
                if self.any {
                    source = source.allow_private();
                }
                new_folder(to)?;
                source.fetch(ctx, &SourceRef::new(ProviderName::new("tarball")?, &url), to).await?;
                let found = digest(to).await?;
                if pin.is_some_and(|pin| pin != found) {
                    return Err(refused(name, &format!("its content is {found} today")));
                }
                give(to, owner).await?;
                format!("{url}#{found}")
            }
            Reference::Git(location) => {
                let (url, commit) = self.clone(ctx, &location, to).await?;
                give(to, owner).await?;
                format!("{url}#{commit}")
            }
        };
        for script in ["bin/detect", "bin/compile"] {
            if !to.join(script).is_file() {
                let native = to.join("buildpack.toml").is_file() && to.join("bin/build").is_file();
                let hint = if native { "; it is a Cloud Native Buildpack, which is another API" } else { "" };
                return Err(refused(name, &format!("it has no {script}{hint}")));
            }
        }
        Ok(pin)
    }

    /// A commit that is named whole is fetched once.
    async fn clone(&self, ctx: &Context, location: &str, to: &Path) -> Result<(String, String)> {
        let (url, reference) = location.split_once('#').unwrap_or((location, ""));
        let whole = is_whole(reference);
        let kept = self.kept.join(Digest::of_parts([url, reference]).hex());
        if whole && kept.is_dir() {
            copy(&kept, to, None).await?;
            return Ok((url.to_owned(), reference.to_owned()));
        }
        let mut source = GitSource::new().with_limits(Limits::new(LIMITS.0, LIMITS.1));
        if self.any {
            source = source.allow_any();
        }
        new_folder(to)?;
        let revision = source.checkout(ctx, location, to).await?;
        let commit = revision.id.unwrap_or_default();
        if whole {
            if !commit.eq_ignore_ascii_case(reference) {
                return Err(refused(location, &format!("the server gave the commit {commit}")));
            }
            let aside = self.kept.join(format!(".{}", uuid::Uuid::new_v4()));
            copy(to, &aside, None).await?;
            if let Err(e) = std::fs::rename(&aside, &kept) {
                tracing::debug!(error = %e, "another build has kept this buildpack");
                tree::remove(&aside).map_err(|e| Error::from_io("can't remove a copy of a buildpack", e))?;
            }
        }
        Ok((url.to_owned(), commit))
    }
}

/// Whether it is all of a commit's id.
fn is_whole(reference: &str) -> bool {
    reference.len() == 40 && reference.bytes().all(|b| b.is_ascii_hexdigit())
}

fn refused(name: &str, why: &str) -> Error {
    Error::new(ErrorCode::BadSource, format!("can't use the buildpack {name}: {why}"))
}

fn new_folder(dir: &Path) -> Result<()> {
    std::fs::create_dir(dir).map_err(|e| Error::from_io("can't make a folder for a buildpack", e))
}

async fn copy(from: &Path, to: &Path, owner: Option<User>) -> Result<()> {
    let (from, to) = (from.to_owned(), to.to_owned());
    blocking(move || tree::copy(&from, &to, owner).map_err(|e| Error::from_io("can't copy a buildpack", e)))
        .await
}

async fn give(dir: &Path, owner: Option<User>) -> Result<()> {
    let dir = dir.to_owned();
    blocking(move || {
        tree::give_all(&dir, owner).map_err(|e| Error::from_io("can't hand over a buildpack", e))
    })
    .await
}

/// The digest of a tree.
async fn digest(dir: &Path) -> Result<Digest> {
    let dir = dir.to_owned();
    blocking(move || {
        let aside = tempfile::tempdir().map_err(|e| Error::from_io("can't make a folder", e))?;
        let limits = Limits::new(LIMITS.0, LIMITS.1);
        Ok(archive::pack_within(&dir, &aside.path().join("tree"), &|_, _| true, limits)?.digest)
    })
    .await
}
