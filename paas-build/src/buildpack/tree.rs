//! Trees of files that change hands: copied, given to a build's user, taken away.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::Path;

use paas_sandbox::User;

/// Gives a path, not what it links to, to this user, where we may.
pub(super) fn give(path: &Path, to: Option<User>) -> io::Result<()> {
    to.map_or(Ok(()), |user| lchown(path, Some(user.uid), Some(user.gid)))
}

/// Gives a folder and all in it to this user.
pub(super) fn give_all(dir: &Path, to: Option<User>) -> io::Result<()> {
    if to.is_none() {
        return Ok(());
    }
    give(dir, to)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give_all(&entry.path(), to)?;
        } else {
            give(&entry.path(), to)?;
        }
    }
    Ok(())
}

/// A new folder of this user's, which nobody else can read.
pub(super) fn make(dir: &Path, owner: Option<User>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(dir)?;
    give(dir, owner)
}

/// Copies a folder to a new place, where it belongs to `owner`. Sockets and devices are left out.
pub(super) fn copy(from: &Path, to: &Path, owner: Option<User>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(to)?;
    give(to, owner)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&source, &target, owner)?;
            continue;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            let mut content = fs::File::open(&source)?;
            let meta = content.metadata()?;
            let mode = meta.permissions().mode() & 0o777;
            let mut copy = fs::File::options().write(true).create_new(true).mode(mode).open(&target)?;
            io::copy(&mut content, &mut copy)?;
            // Tools that compare times must not find everything new.
            copy.set_modified(meta.modified()?)?;
        } else {
            continue;
        }
        give(&target, owner)?;
    }
    Ok(())
}

/// Removes a folder whatever is in it, also where its owner took the right to enter away; none is no error.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(dir)?;
            fs::remove_dir_all(dir)
        }
        removed => removed,
    }
}

fn open_up(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_modes_links_and_times_and_a_closed_folder_is_removed_too() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("deep/er")).unwrap();
        fs::write(from.join("deep/er/run"), "x").unwrap();
        fs::set_permissions(from.join("deep/er/run"), fs::Permissions::from_mode(0o751)).unwrap();
        std::os::unix::fs::symlink("deep/er/run", from.join("link")).unwrap();
        copy(&from, &to, None).unwrap();
        let meta = |at: &Path| fs::metadata(at.join("deep/er/run")).unwrap();
        assert_eq!(meta(&to).permissions().mode() & 0o777, 0o751);
        assert_eq!(meta(&to).modified().unwrap(), meta(&from).modified().unwrap());
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("deep/er/run"));
        fs::set_permissions(to.join("deep"), fs::Permissions::from_mode(0o000)).unwrap();
        remove(&to).unwrap();
        remove(&to).unwrap();
        assert!(!to.exists());
    }
}
