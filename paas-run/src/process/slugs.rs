//! Slugs on disk: unpacked once per app and artifact, then shared by all instances, which write elsewhere.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use paas_core::archive::{self, Limits};
use paas_core::{AppId, AppName, Artifact, ArtifactKind, Blobs, Digest, Error, Result, blocking};
use paas_sandbox::{User, tree};
use tokio::sync::OnceCell;
use tokio_util::io::SyncIoBridge;

/// Not the name of an app.
const TRASH: &str = ".trash";

/// What a slug may hold unpacked: 4 GiB in a million entries.
const LIMITS: (u64, u64) = (4 << 30, 1_000_000);

/// `<data>/slugs/<app>/<life>.<digest>/`.
#[derive(Debug)]
pub(super) struct Slugs {
    root: PathBuf,
    blobs: Arc<dyn Blobs>,
    unpacked: Mutex<HashMap<PathBuf, Arc<OnceCell<()>>>>,
}

impl Slugs {
    /// After a restart of the machine nothing unpacked is trusted: it was not synced. `Blobs` has it all.
    pub(super) fn open(root: PathBuf, blobs: Arc<dyn Blobs>, same_boot: bool) -> Result<Self> {
        if !same_boot {
            remove(&root)?;
        }
        remove(&root.join(TRASH))?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(root.join(TRASH));
        made.map_err(|e| Error::from_io(format!("can't make {}", root.display()), e))?;
        Ok(Self { root, blobs, unpacked: Mutex::default() })
    }

    fn unpacked(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<OnceCell<()>>>> {
        // Each change is one step: a panic elsewhere leaves the table whole.
        self.unpacked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, app: &AppName, life: AppId, digest: Digest) -> PathBuf {
        self.root.join(app.as_str()).join(format!("{life}.{}", digest.hex()))
    }

    /// The folder of this artifact, whose files belong to the app's user.
    pub(super) async fn get(
        &self,
        (app, life): (&AppName, AppId),
        artifact: &Artifact,
        user: Option<User>,
    ) -> Result<PathBuf> {
        if artifact.kind != ArtifactKind::Slug {
            return Err(Error::unsupported("running images and closures as local processes"));
        }
        let folder = self.folder(app, life, artifact.digest);
        let cell = Arc::clone(self.unpacked().entry(folder.clone()).or_default());
        cell.get_or_try_init(|| self.unpack(folder.clone(), artifact.digest, user)).await?;
        Ok(folder)
    }

    async fn unpack(&self, folder: PathBuf, digest: Digest, user: Option<User>) -> Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let archive: Box<dyn io::Read + Send> = match self.blobs.local_path(digest).map(fs::File::open) {
            Some(Ok(file)) => Box::new(file),
            _ => Box::new(SyncIoBridge::new(self.blobs.get(digest).await?)),
        };
        blocking(move || {
            let aside = folder.with_extension(uuid::Uuid::new_v4().simple().to_string());
            fs::create_dir_all(&aside).map_err(|e| Error::from_io("can't unpack a slug", e))?;
            let (bytes, entries) = LIMITS;
            let unpacked = archive::unpack(archive, &aside, Limits::new(bytes, entries).with_links_out());
            let done = unpacked.and_then(|()| {
                tree::give_all(&aside, user)
                    .map_err(|e| Error::from_io("can't give a slug to its user", e))?;
                fs::rename(&aside, &folder).map_err(|e| Error::from_io("can't keep a slug", e))
            });
            if done.is_err() {
                // The first error says more.
                let _ = tree::remove(&aside);
            }
            done
        })
        .await
    }

    /// Puts the slugs of this app aside but those named; [`Slugs::empty_trash`] removes them. Nothing may be launched
    /// meanwhile.
    pub(super) fn keep_only(&self, app: &AppName, wanted: &[(AppId, Digest)]) -> Result<()> {
        let wanted: Vec<PathBuf> =
            wanted.iter().map(|(life, digest)| self.folder(app, *life, *digest)).collect();
        let all = self.root.join(app.as_str());
        for entry in fs::read_dir(&all).into_iter().flatten().flatten() {
            let folder = entry.path();
            if !wanted.contains(&folder) {
                self.unpacked().remove(&folder);
                let trash = self.root.join(TRASH).join(uuid::Uuid::new_v4().to_string());
                fs::rename(&folder, trash).map_err(|e| Error::from_io("can't remove an old slug", e))?;
            }
        }
        if wanted.is_empty() {
            remove(&all)?;
        }
        Ok(())
    }

    /// Removes what was put aside.
    pub(super) async fn empty_trash(&self) -> Result<()> {
        let trash = self.root.join(TRASH);
        blocking(move || {
            fs::read_dir(&trash).into_iter().flatten().flatten().try_for_each(|entry| remove(&entry.path()))
        })
        .await
    }
}

fn remove(path: &Path) -> Result<()> {
    tree::remove(path).map_err(|e| Error::from_io(format!("can't remove {}", path.display()), e))
}
