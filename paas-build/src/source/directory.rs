//! The `directory` source: a folder of this machine, as its author sees it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ignore::{DirEntry, WalkBuilder};
use paas_core::archive::{self, Limits};
use paas_core::{
    Cancel, Context, Error, ErrorCode, ProviderName, Result, Revision, Source, SourceRef, blocking,
};
use rustix::fs::OFlags;

use super::bad;

/// Copies a folder, without `.git` and what `.gitignore` and `.slugignore` leave out.
///
/// The location is an absolute path. Whoever may deploy by this source reads any folder that the platform may
/// read, so offer it to strangers only [`within`](Self::within) a folder.
#[derive(Debug, Clone, Default)]
pub struct DirectorySource {
    within: Option<PathBuf>,
    limits: Limits,
}

impl DirectorySource {
    /// Any folder, up to [`Limits::default`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Names this folder for a deploy; a relative path is one of the current folder.
    ///
    /// # Errors
    /// `bad_source` for a path that isn't UTF-8, or without a current folder.
    pub fn at(folder: impl AsRef<Path>) -> Result<SourceRef> {
        let folder = folder.as_ref();
        let whole = std::path::absolute(folder).map_err(|e| {
            bad(format!("can't tell where the folder {} is", folder.display())).with_source(e)
        })?;
        let location =
            whole.to_str().ok_or_else(|| bad(format!("the path {} is not UTF-8", folder.display())))?;
        Ok(SourceRef::new(Self::new().name(), location))
    }

    /// Only folders in this one.
    #[must_use]
    pub fn within(mut self, folder: impl Into<PathBuf>) -> Self {
        self.within = Some(folder.into());
        self
    }

    /// With these limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The folder without links, if it may be read.
    fn resolve(&self, location: &str) -> Result<PathBuf> {
        let path = Path::new(location);
        if !path.is_absolute() {
            return Err(bad(format!("{location:?} is not an absolute path of a folder")));
        }
        let missing = |e: io::Error| bad(format!("can't read the folder {location}")).with_source(e);
        let folder = path.canonicalize().map_err(missing)?;
        if !folder.is_dir() {
            return Err(bad(format!("{location} is not a folder")));
        }
        if let Some(within) = &self.within {
            let within = within.canonicalize().map_err(missing)?;
            if !folder.starts_with(&within) {
                return Err(bad(format!("{location} is not in {}, where code may lie", within.display())));
            }
        }
        Ok(folder)
    }
}

#[async_trait]
impl Source for DirectorySource {
    fn name(&self) -> ProviderName {
        ProviderName::new("directory").expect("a constant")
    }

    async fn fetch(&self, ctx: &Context, source: &SourceRef, into: &Path) -> Result<Revision> {
        let from = self.resolve(&source.location)?;
        let (into, limits, cancel) = (into.to_owned(), self.limits, ctx.cancel.clone());
        blocking(move || copy(&from, &into, limits, &cancel)).await?;
        Ok(source.revision.clone())
    }
}

/// The walk over what the author of a folder wants to be seen.
pub(crate) fn visible(folder: &Path) -> ignore::Walk {
    WalkBuilder::new(folder)
        .standard_filters(false)
        .git_ignore(true)
        .require_git(false)
        .add_custom_ignore_filename(".slugignore")
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_name(Ord::cmp)
        .build()
}

fn copy(from: &Path, into: &Path, limits: Limits, cancel: &Cancel) -> Result<()> {
    let (mut bytes, mut entries) = (0_u64, 0_u64);
    for entry in visible(from) {
        cancel.check()?;
        let entry = entry.map_err(|e| bad("can't read the folder").with_source(e))?;
        if entry.depth() == 0 {
            continue;
        }
        let path = entry.path().strip_prefix(from).unwrap_or_else(|_| entry.path()).to_owned();
        entries += 1;
        bytes += copy_entry(&entry, &path, &into.join(&path), limits.bytes.saturating_sub(bytes))?;
        if entries > limits.entries || bytes > limits.bytes {
            return Err(Error::new(
                ErrorCode::LimitExceeded,
                format!(
                    "the folder is too large: at most {} MB in {} files and folders; list what isn't needed in .slugignore",
                    limits.bytes / 1_000_000,
                    limits.entries
                ),
            ));
        }
    }
    Ok(())
}

/// Copies one entry and says how many bytes it had, at most one more than `most`.
fn copy_entry(entry: &DirEntry, path: &Path, target: &Path, most: u64) -> Result<u64> {
    let unreadable = |e: io::Error| match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::from_io("can't copy the folder", e)
        }
        _ => bad(format!("can't copy {}", path.display())).with_source(e),
    };
    let Some(kind) = entry.file_type() else { return Ok(0) };
    if kind.is_dir() {
        fs::create_dir(target).map_err(unreadable)?;
    } else if kind.is_symlink() {
        let to = fs::read_link(entry.path()).map_err(unreadable)?;
        if archive::link_leads_out(path, &to) {
            return Err(bad(format!(
                "{} is a link that leads out of the folder, to {}; copy what it names, or list it in .slugignore",
                path.display(),
                to.display()
            )));
        }
        std::os::unix::fs::symlink(to, target).map_err(unreadable)?;
    } else if kind.is_file() {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let file = File::options().read(true).custom_flags(flags).open(entry.path()).map_err(unreadable)?;
        let executable = file.metadata().map_err(unreadable)?.permissions().mode() & 0o111 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        let mut copy =
            File::options().write(true).create_new(true).mode(mode).open(target).map_err(unreadable)?;
        // Taken from the file and not from its length: it may grow meanwhile.
        return io::copy(&mut io::Read::take(file, most.saturating_add(1)), &mut copy).map_err(unreadable);
    }
    // Sockets, pipes and devices of a running program are not code.
    Ok(0)
}
