//! A folder of its own for each instance, that looks like the slug.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use paas_core::{Error, Result};
use paas_sandbox::{Abilities, Confined, Helper, Profile, User, tree};

/// Where a program finds its app.
const HOME: &str = "/app";

/// How an instance gets a folder of its own to write in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Homes {
    /// The slug seen through an overlay: nothing is copied.
    Overlay,
    /// A copy of the slug, seen as `/app`.
    Bound,
    /// A copy of the slug, where it is.
    Plain,
}

impl Homes {
    /// Tries which kind works in this data folder.
    pub(super) async fn find(helper: &Helper, abilities: &Abilities, data: &Path) -> Result<Self> {
        if !abilities.namespaces {
            return Ok(Self::Plain);
        }
        let trial = data.join("trial");
        let works = async {
            fs::create_dir_all(trial.join("lower")).ok()?;
            fs::create_dir_all(trial.join("changes")).ok()?;
            let profile = Profile::new().overlay(trial.join("lower"), trial.join("changes"), HOME);
            let tried =
                Confined::new(helper, profile, "/bin/sh").args(["-c", "echo > /app/file"]).output().await;
            tried.ok().filter(|output| output.status.success())
        };
        let works = works.await.is_some();
        tree::remove(&trial).map_err(|e| Error::from_io(format!("can't remove {}", trial.display()), e))?;
        Ok(if works { Self::Overlay } else { Self::Bound })
    }

    /// Makes a home and a `/tmp`. `open` lets other users through to them, where nothing else does.
    pub(super) fn make(
        self,
        slug: &Path,
        (home, tmp): (&Path, &Path),
        user: Option<User>,
        open: bool,
    ) -> io::Result<()> {
        for folder in [home, tmp] {
            fs::create_dir_all(folder)?;
            tree::give(folder, user)?;
        }
        if let (true, Some(launch)) = (open, home.parent()) {
            fs::set_permissions(launch, fs::Permissions::from_mode(0o711))?;
        }
        if self != Self::Overlay {
            tree::copy_into(slug, home, user)?;
        }
        Ok(())
    }

    /// Shows a home to a program, and says where the program sees it.
    pub(super) fn show(self, profile: Profile, slug: PathBuf, home: PathBuf) -> (Profile, PathBuf) {
        match self {
            Self::Overlay => (profile.overlay(slug, home, HOME), PathBuf::from(HOME)),
            Self::Bound => (profile.bind(home, HOME), PathBuf::from(HOME)),
            Self::Plain => (profile.read_write(home.clone()), home),
        }
    }
}
