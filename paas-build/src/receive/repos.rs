//! The folder of bare repositories, one for each life of an app.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use paas_core::{AppId, AppName, Error, ErrorCode, Result, Source};
use rustix::fs::FlockOperation;

use super::git::Git;
use super::source::PushSource;
use super::updates::Oid;

/// A folder of bare repositories.
///
/// Each is named by its app's id, so an app that is destroyed and made again begins with an empty one, and no name
/// that somebody chose becomes a path.
#[derive(Debug, Clone)]
pub struct GitRepos {
    root: Arc<Path>,
    git: Git,
    /// Held as long as somebody uses the folder: two who sweep it would harm each other.
    _lock: Arc<fs::File>,
}

/// Ends the names of repositories.
const SUFFIX: &str = ".git";
/// git's own name for objects that were not accepted yet.
const QUARANTINE: &str = "tmp_objdir-incoming-";
/// More packs than this are put together.
const MANY_PACKS: usize = 50;

impl GitRepos {
    /// The repositories in this folder, which is made with mode 0700 if it isn't there.
    ///
    /// # Errors
    /// `conflict` when another process uses the folder; when it can't be made.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let failed = |e| Error::from_io(format!("can't use the folder {}", root.display()), e);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        let root = root.canonicalize().map_err(failed)?;
        let lock = fs::File::create(root.join(".lock")).map_err(failed)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
            rustix::io::Errno::WOULDBLOCK => {
                let what = format!("another process receives pushes into {}", root.display());
                Error::new(ErrorCode::Conflict, what)
            }
            e => failed(e.into()),
        })?;
        let git = Git { program: "git".into() };
        Ok(Self { root: root.into(), git, _lock: Arc::new(lock) })
    }

    /// With this git instead of the one in `PATH`.
    #[must_use]
    pub fn with_git(mut self, program: impl Into<PathBuf>) -> Self {
        self.git = Git { program: program.into() };
        self
    }

    /// What the engine needs to deploy what is pushed: give it to `EngineBuilder::with_source`.
    pub fn source(&self) -> Arc<dyn Source> {
        Arc::new(PushSource::new(self.clone()))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn git(&self) -> &Git {
        &self.git
    }

    /// The repository of this app, if somebody pushed to it.
    pub(crate) fn find(&self, app: AppId) -> Option<Repo> {
        let path = self.root.join(format!("{app}{SUFFIX}"));
        path.is_dir().then_some(Repo { path })
    }

    /// The repository of this app.
    pub(crate) async fn find_or_make(&self, id: AppId, app: &AppName) -> Result<Repo> {
        match self.find(id) {
            Some(repo) => Ok(repo),
            None => self.make(&format!("{id}{SUFFIX}"), app.as_str()).await,
        }
    }

    /// A repository without anything: what an app that doesn't exist yet shows.
    pub(crate) async fn empty(&self) -> Result<Repo> {
        let path = self.root.join(".empty");
        if path.is_dir() { Ok(Repo { path }) } else { self.make(".empty", "Empty").await }
    }

    async fn make(&self, name: &str, description: &str) -> Result<Repo> {
        let path = self.root.join(name);
        let aside = self.root.join(format!(".new-{}", uuid::Uuid::new_v4()));
        let mut init = self.git.command(&self.root);
        init.args(["init", "--quiet", "--bare", "--template=", "--initial-branch=main"]).arg(&aside);
        Git::output(init, "make a repository").await?;
        let failed = |e| Error::from_io(format!("can't make the repository {}", path.display()), e);
        fs::write(aside.join("description"), format!("{description}\n")).map_err(failed)?;
        match fs::rename(&aside, &path) {
            // Another push was faster; its repository counts.
            Err(_) if path.is_dir() => {
                fs::remove_dir_all(&aside).map_err(failed)?;
                Ok(Repo { path: path.clone() })
            }
            made => made.map(|()| Repo { path: path.clone() }).map_err(failed),
        }
    }

    /// Removes what killed processes left half done, and repositories of apps that are gone.
    pub(crate) fn sweep(&self, apps: &HashSet<AppId>) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // Only names that we give: what somebody else put here stays.
            let id = name.strip_suffix(SUFFIX).and_then(|id| id.parse::<AppId>().ok());
            if name.starts_with(".new-") || id.is_some_and(|id| !apps.contains(&id)) {
                fs::remove_dir_all(&path)?;
            } else if id.is_some() {
                Repo { path }.sweep()?;
            }
        }
        Ok(())
    }

    /// Puts an app's packs together once there are many.
    pub(crate) async fn tidy(&self, repo: &Repo) -> Result<()> {
        let packs = fs::read_dir(repo.path.join("objects/pack")).map_or(0, Iterator::count);
        // A pack has an index and maybe more beside it.
        if packs / 2 < MANY_PACKS {
            return Ok(());
        }
        let mut gc = self.git.command(&repo.path);
        gc.args(["-c", "pack.threads=1", "gc", "--quiet", "--no-detach"]);
        Git::output(gc, "put packs together").await.map(drop)
    }
}

/// One bare repository.
#[derive(Debug, Clone)]
pub(crate) struct Repo {
    pub(crate) path: PathBuf,
}

impl Repo {
    /// Where a branch is; `None` where it isn't there.
    pub(crate) fn branch(&self, name: &str) -> Result<Option<Oid>> {
        let reference = format!("refs/heads/{name}");
        let read = || -> io::Result<Option<Oid>> {
            match self.loose(&reference)? {
                None => {}
                found => return Ok(found),
            }
            match self.packed(&reference)? {
                None => {}
                found => return Ok(found),
            }
            // It may have been on its way from the one place to the other.
            self.loose(&reference)
        };
        read().map_err(|e| Error::from_io(format!("can't read the branch {name}"), e))
    }

    fn loose(&self, reference: &str) -> io::Result<Option<Oid>> {
        match fs::read_to_string(self.path.join(reference)) {
            Ok(text) => Oid::parse(text.trim_end())
                .map(Some)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file holds no commit")),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn packed(&self, reference: &str) -> io::Result<Option<Oid>> {
        let text = match fs::read_to_string(self.path.join("packed-refs")) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let line =
            text.lines().filter_map(|line| line.split_once(' ')).find(|(_, packed)| *packed == reference);
        Ok(line.and_then(|(oid, _)| Oid::parse(oid)))
    }

    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.path.join("objects"))? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(QUARANTINE)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}
